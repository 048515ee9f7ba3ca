"""Unique names within one decision: claim streams, read and written with the thing's own."""

from commands.transact import Transaction
from domain import claims
from domain.claims import CLAIM, claim_stream
from domain.events import WorkspaceId


class Names:
    """The names of one kind of thing in one workspace.

    Args:
        kind: Names the kind in claim streams, and in the refusal of a taken name.
    """

    def __init__(self, transaction: Transaction, workspace_id: WorkspaceId, kind: str) -> None:
        self._transaction = transaction
        self._workspace_id = workspace_id
        self._kind = kind

    async def holder(self, name: str) -> str | None:
        stream_id = claim_stream(self._workspace_id, self._kind, name)
        state = (await self._transaction.load(CLAIM, stream_id)).state
        return state.holder if isinstance(state, claims.Held) else None

    async def claim(self, name: str, holder: str) -> None:
        """Take a name.

        Raises:
            NameIsTaken: Something else holds it.
        """
        stream_id = claim_stream(self._workspace_id, self._kind, name)
        state = (await self._transaction.load_likely_new(CLAIM, stream_id)).state
        decided = claims.claim(state, kind=self._kind, name=name, holder=holder)
        self._transaction.record(stream_id, decided)

    async def release(self, name: str, holder: str) -> None:
        stream_id = claim_stream(self._workspace_id, self._kind, name)
        state = (await self._transaction.load(CLAIM, stream_id)).state
        decided = claims.release(state, kind=self._kind, name=name, holder=holder)
        self._transaction.record(stream_id, decided)

    async def rename(self, old: str, new: str, holder: str) -> None:
        """Change hands only if the two spell different names."""
        if claims.folded(old) != claims.folded(new):
            await self.release(old, holder)
            await self.claim(new, holder)
