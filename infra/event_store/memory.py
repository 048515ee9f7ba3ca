"""The log in memory: for tests, and for those who only want to look."""

from collections.abc import Callable, Sequence

from commands.transact import DuplicateCommand, Known
from domain.events import CommandId
from infra.event_store.codec import Stored
from infra.event_store.lane import Append, Lane, Written, first_conflict


class MemoryLog:
    """Implements `infra.event_store.store.Log`; forgets nothing until it is closed."""

    def __init__(self, *, on_failure: Callable[[Exception], None] = lambda _: None) -> None:
        self._rows: list[Stored] = []
        self._streams: dict[str, list[Stored]] = {}
        self._workspaces: dict[str, list[Stored]] = {}
        self._commands: dict[CommandId, Known] = {}
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._lane = Lane(self._commit, on_failure)
        self.submit = self._lane.submit
        self.write = self._lane.write

    def close(self) -> None:
        self._lane.close()

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]:
        return self._streams.get(stream_id, [])[after : after + limit]

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        return [row.body for row in self._streams.get(stream_id, [])[after : after + limit]]

    async def all(self, *, after: int, limit: int) -> list[Stored]:
        return self._rows[after : after + limit]

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        rows = self._workspaces.get(workspace_id, [])
        return [row for row in rows if row.global_position > after][:limit]

    async def head(self) -> int:
        return self.head_now()

    def head_now(self) -> int:
        return len(self._rows)

    async def workspace_head(self, workspace_id: str) -> int:
        rows = self._workspaces.get(workspace_id)
        return rows[-1].global_position if rows else 0

    async def command(self, command_id: CommandId) -> Known | None:
        return self._commands.get(command_id)

    async def blob(self, workspace_id: str, address: str) -> bytes | None:
        return self._blobs.get((workspace_id, address))

    def _commit(self, appends: Sequence[Append]) -> list[Written]:
        return [self._commit_one(append) for append in appends]

    def _commit_one(self, append: Append) -> Written:
        command = append.command
        if command is not None and command.command_id in self._commands:
            return DuplicateCommand(command.command_id)
        conflict = first_conflict(append.rows, lambda name: len(self._streams.get(name, ())))
        return conflict or self._store(append)

    def _store(self, append: Append) -> list[int]:
        positions: list[int] = []
        for row in append.rows:
            stored = Stored(len(self._rows) + 1, *row[:4])
            self._streams.setdefault(row.stream_id, []).append(stored)
            self._workspaces.setdefault(row.workspace_id, []).append(stored)
            self._rows.append(stored)
            positions.append(stored.global_position)
        for sealed in append.blobs:
            self._blobs[sealed.workspace_id, sealed.blob.address] = sealed.content
        if append.command is not None:
            last = positions[-1] if positions else None
            known = Known(append.command.fingerprint, append.command.answer, last)
            self._commands[append.command.command_id] = known
        return positions
