"""The one clock of what is recorded."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    return datetime.now(UTC)
