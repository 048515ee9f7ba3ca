"""Serves the API of an embedded installation with uvicorn."""

import asyncio
import getpass
import socket
import sys

import structlog
import uvicorn
import uvloop
from rich.console import Console

from infra.composition import Installation, build_app, build_installation
from infra.lock import FolderLock
from infra.settings import Settings

DRAIN_S = 20
KEEP_ALIVE_S = 5
CONNECTIONS_MAX = 1_000
BACKLOG = 2_048

EXIT_FAILED = 1

log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The address is taken, or is none of this machine's."""


def serve(settings: Settings) -> int:
    """Serve until a signal; tell the exit code.

    Raises:
        FolderIsInUse: Another process serves the folder.
        CannotListen: The port is taken.
    """
    lock = FolderLock(settings.data_dir)
    try:
        listening = _listen(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, listening))
    finally:
        lock.release()


def uvicorn_config(app: object) -> uvicorn.Config:
    """Give the server's settings, which the benchmarks use as well."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )


async def _serve(settings: Settings, listening: socket.socket) -> int:
    failures: list[Exception] = []
    loop = asyncio.get_running_loop()

    def on_failure(error: Exception) -> None:
        # A disk that failed once is not asked again: stop, and let a restart find the truth.
        failures.append(error)
        log.critical("the event store has failed; stopping", exc_info=error)
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)  # noqa: FBT003

    installation = build_installation(settings, on_failure=on_failure)
    app = build_app(installation, closing=lambda: server.should_exit)
    server = uvicorn.Server(uvicorn_config(app))
    await _greet(settings, installation, listening)
    await server.serve(sockets=[listening])
    return EXIT_FAILED if failures else 0


def _listen(settings: Settings) -> socket.socket:
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
    await installation.follower.catch_up()
    host, port = listening.getsockname()[:2]
    url = f"http://{host}:{port}"
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(f"Automatos serves {url}")
    console.print(f"  docs      {url}/docs")
    console.print(f"  data      {settings.data_dir.resolve()}")
    console.print(f"  workspace {workspace_id}")
    console.print(f"  models    {settings.provider} / {settings.model}")
    if await installation.has_key(workspace_id):
        console.print("  API key   shown at the first start; `automatos keys create` makes another")
    else:
        key = await installation.writing.create_key(workspace_id, "first key", getpass.getuser())
        console.print(f"  API key   {key}")
        console.print("            Keep it: it is stored hashed and not shown again.")
    sys.stdout.flush()
