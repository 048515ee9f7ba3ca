"""One connection that writes batches, and finds out what became of each.

Whatever happens to the connection, every append is told its fate: an answer that was lost is
looked up.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import LiteralString

import psycopg
import structlog
from psycopg import errors

from commands.transact import StorageUnavailable
from infra.event_store import postgres_batch as batch
from infra.event_store.lane import Append, Written
from infra.failpoints import failpoint
from infra.postgres.connections import (
    ANSWER_WAIT_S,
    CONNECTING,
    BoundedConnection,
    unavailable,
)

COMMANDS_KEPT = "24 hours"
PRUNED_MAX = 500
PRUNE_EVERY_S = 60.0

TRIES_MAX = 4
"""Of a batch that the server undoes."""

RETRY_WITHIN_S = 5.0
"""How long an append is tried again while the server is away."""

LOOKS_MAX = 16
"""Connections tried in that time."""

RETRY_PAUSE_S, RETRY_PAUSE_MAX_S = 0.2, 0.5

UNKNOWN = "PostgreSQL does not answer, and may have recorded this or not."

_PRUNE: LiteralString = (
    "DELETE FROM commands WHERE command_id IN"
    " (SELECT command_id FROM commands WHERE recorded_at < now() - %s::interval LIMIT %s)"
)

REFUSED = (errors.DiskFull, errors.QueryCanceled)
"""Nothing was recorded, and the next try would end alike."""

UNDONE = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
"""Nothing was recorded, and the next try may end otherwise."""

LOST = (psycopg.OperationalError, TimeoutError, errors.ReadOnlySqlTransaction)
"""It may have been recorded, or not, and another connection may lead to a server that knows."""

log = structlog.get_logger(__name__)


class Writer:
    """Belongs to one event loop; writes one batch at a time.

    Args:
        on_failure: Told when the server reports that its data are damaged.
    """

    def __init__(self, url: str, on_failure: Callable[[Exception], None]) -> None:
        self._url = url
        self._on_failure = on_failure
        self._connection: BoundedConnection | None = None
        self._pruned_at = float("-inf")

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def commit(self, appends: Sequence[Append]) -> list[Written]:
        """Write a batch, and tell each append's fate."""
        try:
            return await self._commit(appends)
        except Exception as error:  # noqa: BLE001 this owns all writing, and whoever waits is told
            self._on_failure(error)
            return [error for _ in appends]

    async def _commit(self, appends: Sequence[Append]) -> list[Written]:
        """Write a batch, and find out what became of it whatever happens to the connection."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RETRY_WITHIN_S
        in_doubt, undone, last = False, 0, Exception()
        for attempt in range(LOOKS_MAX):
            try:
                async with asyncio.timeout(ANSWER_WAIT_S):
                    return await (self._resolve if in_doubt else self._write)(appends)
            except errors.DataCorrupted as error:
                self._on_failure(error)
                return [StorageUnavailable("The log is damaged.") for _ in appends]
            except REFUSED as error:
                return [unavailable(error) for _ in appends]
            except UNDONE as error:
                undone, last = undone + 1, error
            except LOST as error:
                # Once it may have been sent, ask what became of it before it is sent again.
                in_doubt, last = in_doubt or self._connection is not None, error
                log.warning("the connection to the log was lost", error=str(error))
                await self._drop()
            except psycopg.Error as error:
                log.critical("the log refuses what is written", error=repr(error))
                return [unavailable(error) for _ in appends]
            if undone == TRIES_MAX or loop.time() >= deadline:
                break
            await asyncio.sleep(min(RETRY_PAUSE_MAX_S, RETRY_PAUSE_S * (2**attempt - 1)))
        return [StorageUnavailable(UNKNOWN) if in_doubt else unavailable(last) for _ in appends]

    async def _write(self, appends: Sequence[Append]) -> list[Written]:
        connection = await self._connected()
        if any(append.tracking for append in appends):
            return await batch.insert_valid(connection, appends)
        try:
            written = await batch.insert(connection, appends)
        except (errors.IntegrityError, errors.DataError, UnicodeError, ValueError):
            return await batch.insert_valid(await self._connected(), appends)
        await self._forget_old_commands(connection)
        return written

    async def _resolve(self, appends: Sequence[Append]) -> list[Written]:
        """Find out whether a batch was committed, and write it if it was not."""
        found = await self._find(appends)
        failpoint("log.resolved")
        lost = [a for a, positions in zip(appends, found, strict=True) if positions is None]
        written = iter(await self._write_again(lost) if lost else [])
        return [next(written) if positions is None else positions for positions in found]

    async def _write_again(self, appends: Sequence[Append]) -> list[Written]:
        """Write what was not found. Sent on the lost connection, it may have come in meanwhile."""
        written = await self._write(appends)
        refused = [
            a for a, fate in zip(appends, written, strict=True) if isinstance(fate, Exception)
        ]
        late = iter(await self._find(refused) if refused else [])
        return [(next(late) or fate) if isinstance(fate, Exception) else fate for fate in written]

    async def _find(self, appends: Sequence[Append]) -> list[list[int] | None]:
        return await batch.find(await self._connected(), appends)

    async def _connected(self) -> BoundedConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return self._connection

    async def _connect(self) -> BoundedConnection:
        # The driver prepares nothing: `postgres_flight` does.
        made = await BoundedConnection.connect(self._url, prepare_threshold=None, **CONNECTING)
        try:
            await batch.prepare(made)
        except BaseException:
            await made.close()
            raise
        return made

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _forget_old_commands(self, connection: BoundedConnection) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at < PRUNE_EVERY_S:
            return
        self._pruned_at = now
        try:
            failpoint("log.before_prune")
            await connection.execute(_PRUNE, (COMMANDS_KEPT, PRUNED_MAX))
        except psycopg.Error as error:
            log.warning("old commands could not be forgotten", error=str(error))
