"""Leases: who may do what only one process at a time should do.

Only the database's clock counts. A lease bounds how long work rests when its holder dies; it
does not fence: a process that was stopped may go on when its lease is another's. So whoever
writes under a lease joins `HELD` into the statement, and writes nothing once it is not the holder.
"""

from typing import LiteralString, NamedTuple

from psycopg_pool import AsyncConnectionPool

from infra.failpoints import failpoint
from infra.postgres.connections import CONNECTING, BoundedConnection

Pool = AsyncConnectionPool[BoundedConnection]

CONNECTIONS_MAX = 4
WAIT_S = 5.0

HELD: LiteralString = "SELECT FROM leases WHERE name = %s AND owner = %s AND epoch = %s FOR SHARE"
"""One row while the lease is held in that epoch, and nobody takes it until the transaction ends.
An expired lease that nobody has taken is still held. Parameters: name, owner, epoch."""

_TAKE: LiteralString = """
INSERT INTO leases AS held
VALUES (%(name)s, %(owner)s, 1, clock_timestamp() + %(ttl_s)s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET
    owner = excluded.owner,
    epoch = held.epoch + CASE
        WHEN held.owner = excluded.owner AND held.expires_at > clock_timestamp() THEN 0 ELSE 1 END,
    expires_at = clock_timestamp() + %(ttl_s)s * interval '1 second'
WHERE held.owner = excluded.owner OR held.expires_at <= clock_timestamp()
RETURNING epoch
"""
_RELEASE: LiteralString = (
    "UPDATE leases SET expires_at = clock_timestamp() WHERE name = %s AND owner = %s"
)
_ALIVE: LiteralString = (
    "SELECT name, owner, epoch FROM leases"
    " WHERE starts_with(name, %s) AND expires_at > clock_timestamp() ORDER BY name"
)


class LeaseLost(Exception):
    """Somebody else may be doing this work by now."""


class Lease(NamedTuple):
    """Attributes:
    epoch: Greater each time the lease was taken anew, so that nobody holds it in an old one.
    """

    name: str
    owner: str
    epoch: int


def open_pool(url: str, *, connections_max: int = CONNECTIONS_MAX) -> Pool:
    """Make a pool for what a process keeps of itself; open it with `async with`."""
    return AsyncConnectionPool(
        url,
        connection_class=BoundedConnection,
        open=False,
        min_size=1,
        max_size=connections_max,
        timeout=WAIT_S,
        kwargs=CONNECTING,
    )


class Leases:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, name: str, owner: str, ttl_s: float) -> int | None:
        """Take a lease that is free, or renew one's own.

        Gives its epoch: the same on renewal, a new one when the lease changed hands or had run
        out; None while somebody else holds it.
        """
        values = {"name": name, "owner": owner, "ttl_s": ttl_s}
        async with self._pool.connection() as connection:
            failpoint("lease.before_take")
            cursor = await connection.execute(_TAKE, values)
            row = await cursor.fetchone()
        failpoint("lease.after_take")
        return None if row is None else int(row[0])

    async def release(self, name: str, owner: str) -> None:
        """Let others have it at once. The epoch stays, so that the next one is greater."""
        async with self._pool.connection() as connection:
            failpoint("lease.before_release")
            await connection.execute(_RELEASE, (name, owner))
        failpoint("lease.after_release")

    async def held(self, prefix: str = "") -> dict[str, Lease]:
        """Tell the leases that have not run out, by name."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_ALIVE, (prefix,))
            return {row[0]: Lease(*row) for row in await cursor.fetchall()}
