"""How this platform's processes connect to PostgreSQL."""

from typing import Any

import psycopg

from commands.transact import CommandError, StorageFull, StorageUnavailable

APP_ROLE = "automatos_app"
"""May append events, and neither change nor remove one. `migrate` makes it."""

STATEMENT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 2
IDLE_IN_TRANSACTION_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5

CONNECTING: dict[str, Any] = {
    "autocommit": True,
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


def sqlalchemy_url(url: str) -> str:
    """Name psycopg 3 as the driver of a `postgresql://` URL."""
    return "postgresql+psycopg://" + url.partition("://")[2]


def unavailable(error: Exception) -> CommandError:
    """Say what a fault of the server means to who asked."""
    if isinstance(error, psycopg.errors.DiskFull):
        return StorageFull("The disk under the event store is full.")
    return StorageUnavailable(f"PostgreSQL does not answer: {type(error).__name__}.")
