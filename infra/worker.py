"""A worker: keeps runs going, beside any number of others."""

import asyncio

import structlog

from infra.clock import SharedClock
from infra.composition import build_models, build_process, traces_of
from infra.event_store.store import EventStore
from infra.postgres.heartbeats import Heartbeats, instance_name
from infra.postgres.leases import open_pool
from infra.postgres.reads import PostgresReads
from infra.process_runner import ProcessRunner
from infra.redis_wakes import RedisWakes
from infra.settings import Settings
from infra.until_stopped import on_signals, until_stopped
from infra.writing import build_writing

PROCESS = "worker"
LOOK_S = 0.25
"""How soon a run that another process started is noticed when nothing tells of it."""

log = structlog.get_logger(__name__)


class Polled:
    """Implements `infra.process_runner.Changes` where projectors are other processes."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def touched(self, _projector: str) -> int:
        return 0

    async def changed(self, _projector: str, _seen: int, *, timeout_s: float) -> None:
        await self._store.changed(min(timeout_s, LOOK_S))


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """Keep runs going until told to stop; then let the steps under way end."""
    writing = build_writing(settings)
    reads = PostgresReads(settings.database_url, pool_size=2)
    models = build_models(settings)
    clock = SharedClock()
    process = build_process(writing, models, sole=False, now=clock.now)
    runner = ProcessRunner(process, Polled(writing.store), reads, clock.now)
    try:
        async with open_pool(settings.database_url, connections_max=1) as pool:
            heartbeats, name = Heartbeats(pool), instance_name()
            clock.heard(await heartbeats.beat(PROCESS, name))
            beside = [heartbeats.run(PROCESS, name, clock.heard)]
            if settings.redis_url:
                wakes = RedisWakes(settings.redis_url, appended=writing.store.heard)
                writing.store.tell = wakes.tell_appended
                beside.append(wakes.run())
            await until_stopped(stop, runner, *beside)
    finally:
        await runner.drain()
        await models.close()
        reads.close()
        await writing.aclose()
        traces = traces_of(settings)
        if traces is not None:
            await traces.close()


async def serve(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT."""
    log.info("worker starts")
    await work(settings, on_signals())
    return 0
