"""Real servers for tests: one of each kind per run, begun when first asked for, and private ones.

`DATABASE_URL`, `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` name others to use as
the shared ones. Private ones may be killed, and are always begun.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, LiteralString, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from redis import Redis

from tests.servers.java import Missing, locked
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres
from tests.servers.redis import redis
from tests.servers.server import Server


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


def _leader() -> int:
    """Name the process that outlives the others of this run, unless it is killed."""
    return os.getppid() if _is_worker() else os.getpid()


def _shared(folder: Path, name: str, make: Callable[..., Server], **options: Any) -> str:
    """Give the URL of the run's one server, which ends with the process that leads the run."""
    told = folder / f"{name}.json"
    with locked(folder / f"{name}.lock"):
        if not told.exists():
            server = begun(make, owners=[_leader()], **options)
            told.write_text(json.dumps([server.url, server.version, server.started_s]))
    return str(json.loads(told.read_text())[0])


@pytest.fixture
def _private() -> Iterator[Callable[[Callable[..., Server]], Private]]:
    owners = [os.getpid(), _leader()]
    with ExitStack() as stack:
        yield (
            lambda make: (
                lambda **options: stack.enter_context(begun(make, owners=owners, **options))
            )
        )


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> str:
    """Give the URL of an administrator's connection."""
    named = os.environ.get("DATABASE_URL")
    return named or _shared(servers_folder, "postgresql", postgres, fsync=False)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Give a new and empty database."""
    name = f"test_{uuid4().hex}"
    _administer(postgres_server, "CREATE DATABASE {}", name)
    try:
        yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    finally:
        _administer(postgres_server, "DROP DATABASE {} WITH (FORCE)", name)


def _administer(url: str, statement: LiteralString, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL(statement).format(Identifier(name)))


@pytest.fixture
def private_postgres(_private: Callable[[Callable[..., Server]], Private]) -> Private:
    return _private(postgres)


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> str:
    """Give the URL of this worker's own database in the run's Redis."""
    named = os.environ.get("REDIS_URL")
    url = named or _shared(servers_folder, "redis", redis, appendfsync="no")
    first = int(urlsplit(url).path.strip("/") or 0)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = urlsplit(url)._replace(path=f"/{first + worker}").geturl()
    with Redis.from_url(own) as client:
        assert client.dbsize() == 0, "REDIS_URL names a database that somebody uses"
    return own


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """Give an empty database, which is emptied again."""
    yield redis_server
    with Redis.from_url(redis_server) as client:
        client.flushdb()


@pytest.fixture
def private_redis(_private: Callable[[Callable[..., Server]], Private]) -> Private:
    return _private(redis)


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
