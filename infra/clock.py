"""The one clock of what is recorded."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta


def utc_now() -> datetime:
    return datetime.now(UTC)


class SharedClock:
    """The clock of a server, as this machine's own one runs on between two looks at it.

    Whose clock is an hour ahead would take every other worker's leases to have ended.
    """

    def __init__(self, own: Callable[[], datetime] = utc_now) -> None:
        self._own = own
        self._ahead = timedelta()

    def now(self) -> datetime:
        return self._own() + self._ahead

    def heard(self, at_server: datetime) -> None:
        """Learn what time it is at the server."""
        self._ahead = at_server - self._own()
