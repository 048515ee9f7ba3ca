"""How far the relay has come, saved under its lease."""

from typing import LiteralString, NamedTuple

from infra.failpoints import failpoint
from infra.kafka.topic import Topic
from infra.postgres.leases import HELD, Lease, LeaseLost, Pool

_READ: LiteralString = "SELECT partition, published, passed FROM relay_checkpoints WHERE topic = %s"
_SAVE: LiteralString = f"""
WITH mine AS ({HELD})
INSERT INTO relay_checkpoints
SELECT %s, partition - 1, published, %s
FROM mine, unnest(%s::bigint[]) WITH ORDINALITY AS u (published, partition)
ON CONFLICT (topic, partition) DO UPDATE
SET published = excluded.published, passed = excluded.passed
"""  # noqa: S608 our own text


class Passed(NamedTuple):
    """Attributes:
    position: Of the log; all events up to it are acknowledged.
    published: Position of the last event in each partition, 0 where there is none.
    """

    position: int
    published: tuple[int, ...]


class Checkpoints:
    def __init__(self, pool: Pool, topic: Topic) -> None:
        self._pool = pool
        self._topic = topic

    async def read(self) -> Passed:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_READ, (self._topic.name,))
            rows = await cursor.fetchall()
        published = {row[0]: row[1] for row in rows}
        position = min((row[2] for row in rows), default=0)
        return Passed(position, tuple(published.get(n, 0) for n in range(self._topic.partitions)))

    async def save(self, passed: Passed, lease: Lease) -> None:
        """Save how far the holder of a lease has come.

        Raises:
            LeaseLost: Somebody else holds it; nothing was saved.
        """
        values = (*lease, self._topic.name, passed.position, list(passed.published))
        async with self._pool.connection() as connection:
            failpoint("checkpoint.before_save")
            cursor = await connection.execute(_SAVE, values)
        if cursor.rowcount == 0:
            raise LeaseLost(lease.name)
