"""API processes: any number on one port. Commands, queries and live streams, nothing else."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
import structlog
import uvicorn
import uvloop
from litestar import Litestar
from sqlalchemy.exc import SQLAlchemyError

from commands.runs import RunCommands
from infra.composition import PROJECTORS, Sight, wire_app
from infra.ending import end
from infra.endpoint_statistics import EndpointTable
from infra.exposure import check_local_key
from infra.postgres.migrations import check_schema
from infra.postgres.progress import Partitioned, PostgresProgress
from infra.postgres.reads import PostgresReads, open_engine
from infra.redis_wakes import RedisWakes
from infra.server import EXIT_FAILED, listen, spare_the_collector, uvicorn_config, watch
from infra.settings import Settings
from infra.supervisor import Supervisor
from infra.writing import Writing, build_writing
from read_api.health import PROBE_MAX_S

NOTICE_S = 1.0
"""How long requests are still taken after readiness has turned: who balances load looks so often.
"""

DRAIN_S = 20
"""How long requests under way may go on at the end."""

log = structlog.get_logger(__name__)


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """What one API process has. Implements `read_api.health.Surroundings`.

    Attributes:
        wakes: None without Redis: everybody polls.
    """

    writing: Writing
    reads: PostgresReads
    progress: PostgresProgress
    wakes: RedisWakes | None
    totals: EndpointTable
    tasks: list[asyncio.Task[None]]

    async def start(self) -> None:
        self.tasks.append(asyncio.create_task(self.progress.run()))
        if self.wakes is not None:
            self.tasks.append(asyncio.create_task(self.wakes.run()))

    async def stop(self) -> None:
        await end(self.tasks)
        await self.writing.aclose()
        self.totals.close()
        self.reads.close()

    async def look(self) -> None:
        with suppress(SQLAlchemyError, TimeoutError):
            async with asyncio.timeout(PROBE_MAX_S):
                await self.progress.refresh()

    def degraded(self) -> list[str]:
        return ["redis"] if self.wakes is not None and self.wakes.degraded else []

    def relayed(self) -> int | None:
        return self.progress.relayed


def build_api(
    settings: Settings, *, on_failure: Callable[[Exception], None] = lambda _: None
) -> Api:
    """Wire an API process. Its projectors and workers are other processes."""
    writing = build_writing(settings, on_failure=on_failure)
    store, url = writing.store, settings.database_url
    reads = PostgresReads(url, pool_size=settings.postgres_pool_size)
    topic = Partitioned(settings.kafka_topic, settings.kafka_partitions)
    progress = PostgresProgress(reads, topic, [projector.name for projector in PROJECTORS])
    wakes = None
    if settings.redis_url:
        wakes = RedisWakes(settings.redis_url, appended=store.heard, projected=progress.heard)
        store.tell = wakes.tell_appended
    totals = EndpointTable(open_engine(url, pool_size=1))
    return Api(
        writing=writing, reads=reads, progress=progress, wakes=wakes, totals=totals, tasks=[]
    )


def build_api_app(api: Api, *, closing: Callable[[], bool]) -> Litestar:
    """Wire the application; the process's connections begin and end with it."""
    # The worker that makes a run's call learns from the log that it was cancelled.
    runs = RunCommands(api.writing.transactions, api.writing.next_id, lambda _: None)
    return wire_app(
        api.writing,
        Sight(api.reads, api.progress, api, api.totals),
        runs,
        closing=closing,
        on_startup=api.start,
        on_shutdown=api.stop,
    )


# Processes.


def serve_api(settings: Settings, workers: int, tell: Callable[[str], None]) -> int:
    """Serve with so many processes until a signal; tell the exit code.

    Raises:
        CannotListen: The port is taken.
        SchemaIsOld, SchemaIsNewer: The database is not of this release.
        BadSettings: The environment's key is set, which opens no such server.
    """
    check_local_key(settings)
    check_schema(settings.database_url)
    # A limit is divided among so many while nobody counts for all of them.
    settings = msgspec.structs.replace(settings, workers=workers)
    listening = listen(settings)
    host, port = listening.getsockname()[:2]
    tell(f"Automatos serves http://{f'[{host}]' if ':' in host else host}:{port}")
    # Shared by all: a request that one worker has not taken yet is another one's.
    work = partial(_work, settings, listening)
    return Supervisor(workers, work, stopping=listening.close).run()


def _work(settings: Settings, listening: socket.socket, told: int) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, listening, told))


class Draining:
    """How a process stops: first nobody is to send it requests, then it takes none."""

    def __init__(self) -> None:
        self.begun = False
        self.server: uvicorn.Server | None = None

    def begin(self) -> None:
        """Begin, once; in the loop's own thread."""
        if not self.begun:
            self.begun = True
            log.info("draining")
            asyncio.get_running_loop().call_later(NOTICE_S, self._take_no_more)

    def _take_no_more(self) -> None:
        assert self.server is not None
        self.server.should_exit = True


async def _serve(settings: Settings, listening: socket.socket, told: int) -> int:
    failures: list[BaseException] = []
    loop, draining = asyncio.get_running_loop(), Draining()

    def on_failure(error: BaseException) -> None:
        # A restart finds the truth.
        failures.append(error)
        log.critical("this process cannot go on; stopping", exc_info=error)
        loop.call_soon_threadsafe(draining.begin)

    def await_the_end() -> None:
        # Within the start, because uvicorn takes the signals for itself before.
        loop.add_signal_handler(signal.SIGTERM, draining.begin)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_reader(told, ended)

    def ended() -> None:
        loop.remove_reader(told)
        draining.begin()

    api = build_api(settings, on_failure=on_failure)
    app = build_api_app(api, closing=lambda: draining.begun)
    app.on_startup += [partial(watch, api.tasks, on_failure), await_the_end]
    draining.server = uvicorn.Server(uvicorn_config(app, drain_s=DRAIN_S))
    spare_the_collector()
    await draining.server.serve(sockets=[listening])
    return EXIT_FAILED if failures else 0
