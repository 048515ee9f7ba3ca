"""The log in PostgreSQL: any number of processes write, one batch at a time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commands.transact import Known
from domain.events import CommandId
from infra.event_store.codec import Stored
from infra.event_store.lane import Append, Deliver, Written
from infra.event_store.postgres_committer import Committer
from infra.event_store.postgres_writer import RETRY_WITHIN_S
from infra.postgres.connections import CONNECTING, BoundedConnection, NoAnswer, unavailable

READERS_MAX = 8
POOL_WAIT_S = 5.0

_COLUMNS: LiteralString = "position, originator_id, originator_version, topic, state"
_ALL: LiteralString = (
    f"SELECT {_COLUMNS} FROM stored_events"  # noqa: S608 our own text
    " WHERE position > %s ORDER BY position LIMIT %s"
)
_WORKSPACE: LiteralString = (
    f"SELECT {_COLUMNS} FROM stored_events"  # noqa: S608 our own text
    " WHERE workspace_id = %s AND position > %s ORDER BY position LIMIT %s"
)
_IN_STREAM: LiteralString = (
    "FROM stored_events WHERE originator_id = %s AND originator_version > %s"
    " ORDER BY originator_version LIMIT %s"
)
_STREAM: LiteralString = f"SELECT {_COLUMNS} {_IN_STREAM}"
_BODIES: LiteralString = f"SELECT state {_IN_STREAM}"
_HEAD: LiteralString = "SELECT coalesce(max(position), 0) FROM stored_events"
_WORKSPACE_HEAD: LiteralString = (
    "SELECT coalesce(max(position), 0) FROM stored_events WHERE workspace_id = %s"
)
_COMMAND: LiteralString = "SELECT fingerprint, answer, position FROM commands WHERE command_id = %s"
_BLOB: LiteralString = "SELECT content FROM blobs WHERE workspace_id = %s AND address = %s"


class PostgresLog:
    """Implements `infra.event_store.store.Log`. Belongs to one event loop.

    Args:
        url: `postgresql://…`.
        on_failure: Told when the server reports that its data are damaged; nothing is
            written after that.
    """

    def __init__(
        self,
        url: str,
        *,
        on_failure: Callable[[Exception], None] = lambda _: None,
        readers_max: int = READERS_MAX,
    ) -> None:
        self._pool = AsyncConnectionPool(
            url,
            connection_class=BoundedConnection,
            open=False,
            min_size=1,
            max_size=readers_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RETRY_WITHIN_S,
            kwargs=CONNECTING,
        )
        self._opening = asyncio.Lock()
        self._opened = False
        self._committer = Committer(url, on_failure)

    async def close(self) -> None:
        """Write what waits, then let the connections go."""
        await self._committer.close()
        if self._opened:
            await self._pool.close()

    # Writing.

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        """Queue appends; call it in the loop's own thread."""
        self._committer.submit(appends, deliver)

    async def write(self, append: Append) -> list[int]:
        """Write one append and wait for it.

        Raises:
            Exception: Whatever became of it.
        """
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()

        def deliver(written: list[Written]) -> None:
            # A caller who has gone away undoes nothing; it only is not told.
            if not future.done():
                future.set_result(written[0])

        self.submit([append], deliver)
        written = await future
        if isinstance(written, Exception):
            raise written
        return written

    # Reading.

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_STREAM, (stream_id, after, limit))

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        return [body for (body,) in await self._rows(_BODIES, (stream_id, after, limit))]

    async def all(self, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_ALL, (after, limit))

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_WORKSPACE, (workspace_id, after, limit))

    async def head(self) -> int:
        """Tell the newest position.

        Raises:
            StorageUnavailable: The server does not answer.
        """
        return int((await self._rows(_HEAD, ()))[0][0])

    async def workspace_head(self, workspace_id: str) -> int:
        return int((await self._rows(_WORKSPACE_HEAD, (workspace_id,)))[0][0])

    async def command(self, command_id: CommandId) -> Known | None:
        rows = await self._rows(_COMMAND, (command_id,))
        return Known(*rows[0]) if rows else None

    async def blob(self, workspace_id: str, address: str) -> bytes | None:
        rows = await self._rows(_BLOB, (workspace_id, address))
        return rows[0][0] if rows else None

    async def _stored(self, query: LiteralString, values: Sequence[object]) -> list[Stored]:
        return list(map(Stored._make, await self._rows(query, values)))

    async def _rows(self, query: LiteralString, values: Sequence[object]) -> list[Any]:
        """Read, once more on another connection if the first one was cut."""
        try:
            return await self._read(query, values)
        except (NoAnswer, PoolTimeout) as error:
            # As long as anybody should wait has been waited.
            raise unavailable(error) from error
        except psycopg.OperationalError:
            try:
                return await self._read(query, values)
            except psycopg.OperationalError as error:
                raise unavailable(error) from error

    async def _read(self, query: LiteralString, values: Sequence[object]) -> list[Any]:
        await self._open()
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query, values, prepare=True, binary=True)
            return await cursor.fetchall()

    async def _open(self) -> None:
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                await self._pool.open()
                self._opened = True
