"""How this platform's processes connect to PostgreSQL."""

import asyncio
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.abc import PQGen
from psycopg.waiting import wait_async

from commands.transact import CommandError, StorageFull, StorageUnavailable

T = TypeVar("T")

APP_ROLE = "automatos_app"
"""May append events, and neither change nor remove one. `migrate` makes it."""

STATEMENT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 2
IDLE_IN_TRANSACTION_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5

ANSWER_WAIT_S = 15.0
"""After which a server that does not answer is taken to be gone: longer than any statement
or lock may take there, so that it never is merely slow."""

WAKE_EVERY_S = 0.1
"""How often the driver looks up while it waits."""

CONNECTING: dict[str, Any] = {
    "autocommit": True,
    # After a failover an address may still lead to a server that only reads.
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "automatos",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "options": (
        f"-c statement_timeout={STATEMENT_TIMEOUT_S}s"
        f" -c lock_timeout={LOCK_TIMEOUT_S}s"
        f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_S}s"
        " -c synchronous_commit=on"
        f" -c role={APP_ROLE}"
        " -c timezone=UTC"
    ),
}
"""Arguments of `psycopg.connect` for everything but migrations and rebuilds."""


class NoAnswer(psycopg.OperationalError):
    """The server hangs. What it was asked may be done all the same, now or later."""


class BoundedConnection(AsyncConnection[Any]):
    """A connection that is closed when the server does not answer, or nobody waits for it any more.

    The driver itself would have the server cancel the statement, and wait for that: a server that
    hangs does not, and one whose standby is away would give up waiting for it and report as
    committed what the standby has not got.
    """

    async def wait(
        self, gen: PQGen[T], interval: float = WAKE_EVERY_S, timeout: float | None = None
    ) -> T:
        try:
            async with asyncio.timeout(timeout or ANSWER_WAIT_S):
                return await wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError as error:
            self.pgconn.finish()
            raise NoAnswer("The server does not answer.") from error
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class BoundedThreadConnection(Connection[Any]):
    """The same for threads."""

    def wait(
        self, gen: PQGen[T], interval: float = WAKE_EVERY_S, timeout: float | None = None
    ) -> T:
        began, bound = monotonic(), timeout or ANSWER_WAIT_S
        try:
            return super().wait(gen, interval, bound)
        except psycopg.OperationalError as error:
            if monotonic() - began < bound:
                raise
            self.pgconn.finish()
            raise NoAnswer("The server does not answer.") from error


def sqlalchemy_url(url: str) -> str:
    """Name psycopg 3 as the driver of a `postgresql://` URL."""
    return "postgresql+psycopg://" + url.partition("://")[2]


def unavailable(error: Exception) -> CommandError:
    """Say what a fault of the server means to who asked."""
    if isinstance(error, psycopg.errors.DiskFull):
        return StorageFull("The disk under the event store is full.")
    return StorageUnavailable(f"PostgreSQL does not answer: {type(error).__name__}.")
