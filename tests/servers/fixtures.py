"""Real servers for tests: one of each kind per run, begun when first asked for, and private ones.

`DATABASE_URL`, `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` name others to use as
the shared ones. Private ones may be killed, and are always begun.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from tests.servers.java import Missing, locked
from tests.servers.kafka import kafka
from tests.servers.server import Server

SHARED: pytest.StashKey[Path] = pytest.StashKey()


class Private(Protocol):
    """Begin a server of the test's own; options are those of the function in its module."""

    def __call__(self, **options: Any) -> Server: ...


def begun(make: Callable[..., Server], **options: Any) -> Server:
    """Start a server; without what it needs the test is skipped, which CI counts as a failure."""
    try:
        return make(**options).start()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that all workers of this run know, and no other run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if _is_worker() else base) / "servers"
    folder.mkdir(exist_ok=True)
    return folder


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def _shared(folder: Path, name: str, make: Callable[..., Server], **options: Any) -> str:
    """Give the URL of the run's one server, which ends with the process that leads the run."""
    told = folder / f"{name}.json"
    with locked(folder / f"{name}.lock"):
        if not told.exists():
            owner = os.getppid() if _is_worker() else os.getpid()
            server = begun(make, owner=owner, **options)
            told.write_text(json.dumps([server.url, server.version, server.started_s]))
    return str(json.loads(told.read_text())[0])


@pytest.fixture
def _private() -> Iterator[Callable[[Callable[..., Server]], Private]]:
    with ExitStack() as stack:
        yield lambda make: lambda **options: stack.enter_context(begun(make, **options))


@pytest.fixture(scope="session")
def kafka_bootstrap(servers_folder: Path) -> str:
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or _shared(servers_folder, "kafka", kafka)


@pytest.fixture
def kafka_topic() -> str:
    return f"test-{uuid4().hex}"


@pytest.fixture
def private_kafka(_private: Callable[[Callable[..., Server]], Private]) -> Private:
    return _private(kafka)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which versions the run was against."""
    factory: pytest.TempPathFactory | None = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return
    for told in sorted((factory.getbasetemp() / "servers").glob("*.json")):
        _, version, started_s = json.loads(told.read_text())
        terminalreporter.write_line(f"server: {version}, started in {started_s:.1f} s")
