"""Signs of life of processes that nobody can ask: they serve no port."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from socket import gethostname
from typing import LiteralString

import psycopg
import structlog

from infra.failpoints import failpoint
from infra.ids import new_uuid
from infra.postgres.leases import Pool

BEAT_EVERY_S = 5.0
ALIVE_WITHIN_S = 20.0
"""A process whose youngest beat is older is taken for dead."""

FORGOTTEN_AFTER = "1 day"

_BEAT: LiteralString = """
INSERT INTO heartbeats VALUES (%s, %s, clock_timestamp())
ON CONFLICT (process, instance) DO UPDATE SET seen_at = clock_timestamp()
RETURNING seen_at
"""
_FORGET: LiteralString = (
    "DELETE FROM heartbeats WHERE process = %s AND seen_at < clock_timestamp() - %s::interval"
)
_SEEN: LiteralString = (
    "SELECT extract(epoch FROM clock_timestamp() - max(seen_at)) FROM heartbeats WHERE process = %s"
)

_SEEN_HERE: LiteralString = (
    "SELECT extract(epoch FROM clock_timestamp() - max(seen_at)) FROM heartbeats"
    " WHERE process = %s AND starts_with(instance, %s)"
)


def instance_name() -> str:
    """Name this process: its host, which is a container's own, and what no other one has."""
    return f"{gethostname()}/{new_uuid()}"


log = structlog.get_logger(__name__)


class Heartbeats:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def beat(self, process: str, instance: str) -> datetime:
        """Leave a beat; tell when that was by the database's clock."""
        async with self._pool.connection() as connection:
            failpoint("heartbeat.before_beat")
            cursor = await connection.execute(_BEAT, (process, instance))
            row = await cursor.fetchone()
        assert row is not None
        at: datetime = row[0]
        return at

    async def seen(self, process: str) -> float | None:
        """Tell how many seconds ago the youngest beat was; None if there never was one."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SEEN, (process,))
            row = await cursor.fetchone()
        return None if row is None or row[0] is None else float(row[0])

    async def seen_here(self, process: str) -> float | None:
        """Tell how many seconds ago the youngest beat of this host was."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SEEN_HERE, (process, f"{gethostname()}/"))
            row = await cursor.fetchone()
        return None if row is None or row[0] is None else float(row[0])

    async def run(
        self, process: str, instance: str, heard: Callable[[datetime], object] = lambda _: None
    ) -> None:
        """Beat for ever; cancel to stop. A database that is away only makes the process look dead,
        as it should.

        Args:
            heard: Told what the time is there, at each beat.
        """
        while True:
            try:
                heard(await self.beat(process, instance))
                await self._forget(process)
            except psycopg.Error as error:
                log.warning("no heartbeat could be left", error=type(error).__name__)
            await asyncio.sleep(BEAT_EVERY_S)

    async def _forget(self, process: str) -> None:
        async with self._pool.connection() as connection:
            failpoint("heartbeat.before_forget")
            await connection.execute(_FORGET, (process, FORGOTTEN_AFTER))
        failpoint("heartbeat.after_forget")
