"""Serves the API of an embedded installation with uvicorn."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

import structlog
import uvicorn
import uvloop
from rich.console import Console

from infra.cli.shared import user_name
from infra.composition import Installation, build_app, build_installation
from infra.exposure import check_local_key, check_reachable, is_loopback
from infra.failpoints import answering
from infra.lock import FolderLock
from infra.operators import has_key
from infra.protocol import Http
from infra.settings import BadSettings, Settings

CONNECTIONS_DRAIN_S = 5
"""How long open requests may go on at the end; the steps of runs have their own bound."""

GREETING_WAIT_S = 1.0
"""How long the first lines wait for read models; a long log is projected while we serve."""

KEEP_ALIVE_S = 5
CONNECTIONS_MAX = 1_000
BACKLOG = 2_048

COLLECT_AFTER = 50_000
"""Objects made and not yet freed, until the collector looks for cycles among them."""

EXIT_FAILED = 1

log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The address is taken, or is none of this machine's."""


def serve(settings: Settings) -> int:
    """Serve until a signal; tell the exit code.

    Raises:
        FolderIsInUse: Another process serves the folder.
        CannotListen: The port is taken.
        BadSettings: Others could come in, or nobody could.
    """
    check_local_key(settings)
    lock = FolderLock(settings.data_dir)
    try:
        listening = listen(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, listening))
    finally:
        lock.release()


def uvicorn_config(app: object, *, drain_s: int = CONNECTIONS_DRAIN_S) -> uvicorn.Config:
    """Give the server's settings, which the benchmarks use as well."""
    return uvicorn.Config(
        answering(app),  # type: ignore[arg-type]
        loop="uvloop",
        http=Http,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )


async def _serve(settings: Settings, listening: socket.socket) -> int:
    failures: list[BaseException] = []
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        server.should_exit = True

    def on_failure(error: BaseException) -> None:
        # A disk that failed once is not asked again: stop, and let a restart find the truth.
        failures.append(error)
        log.critical("the server cannot go on; stopping", exc_info=error)
        loop.call_soon_threadsafe(stop)

    installation = build_installation(settings, on_failure=on_failure)
    try:
        check_reachable(settings, has_key=await has_key(installation.writing.store))
    except BadSettings:
        await installation.stop()
        raise
    app = build_app(installation, closing=lambda: server.should_exit)
    app.on_startup.append(partial(watch, installation.tasks, on_failure))
    server = uvicorn.Server(uvicorn_config(app))
    # Once stopped, uvicorn raises the signal again: with a handler of ours the exit code is ours.
    signal.signal(signal.SIGTERM, stop)
    await _greet(settings, installation, listening)
    spare_the_collector()
    await server.serve(sockets=[listening])
    return EXIT_FAILED if failures else 0


def spare_the_collector() -> None:
    """Leave what lives as long as the process out of every collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def watch(tasks: list[asyncio.Task[None]], on_failure: Callable[[BaseException], None]) -> None:
    """Have it told when a task that lasts as long as the process dies: nobody else would notice."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            on_failure(error)

    for task in tasks:
        task.add_done_callback(ended)


def listen(settings: Settings) -> socket.socket:
    """Take the port.

    Raises:
        CannotListen: It is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise CannotListen(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}). "
            "Choose another port with PORT."
        ) from error
    listening.listen(BACKLOG)
    return listening


async def _greet(settings: Settings, installation: Installation, listening: socket.socket) -> None:
    """Tell where everything is; at the first start make the key, and show it this once."""
    workspace_id = await installation.writing.local_workspace()
    caught_up = await installation.follower.catch_up(GREETING_WAIT_S)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(f"Automatos serves {url}")
    console.print(f"  docs      {url}/docs")
    console.print(f"  data      {settings.data_dir.resolve()}")
    console.print(f"  workspace {workspace_id}")
    console.print(f"  models    {settings.provider} / {settings.model}")
    # The first start has next to nothing to catch up with.
    if not is_loopback(settings.host):
        console.print("  API key   not shown here; `automatos keys create` makes one")
    elif not caught_up or await installation.has_key(workspace_id):
        console.print("  API key   shown at the first start; `automatos keys create` makes another")
    else:
        key = await installation.writing.create_key(workspace_id, "first key", user_name())
        console.print(f"  API key   {key}")
        console.print("            Keep it: it is stored hashed and not shown again.")
    sys.stdout.flush()
