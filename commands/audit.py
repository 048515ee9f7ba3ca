"""Commands that leave a trail of what operators do to read models."""

from collections.abc import Callable

import msgspec

from commands.transact import Issued, Outcome, Transaction, Transactions
from domain import audit
from domain.audit import AUDIT, AuditEvent, Trail


class NotedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    position: int


class AuditCommands:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def retry_slice(
        self, projector: str, position: int, issued: Issued
    ) -> Outcome[NotedAnswer]:
        return await self._note(
            projector,
            issued,
            lambda state: audit.retry_slice(state, projector=projector, position=position),
        )

    async def skip_event(
        self, projector: str, position: int, reason: str, issued: Issued
    ) -> Outcome[NotedAnswer]:
        return await self._note(
            projector,
            issued,
            lambda state: audit.skip_event(
                state, projector=projector, position=position, reason=reason
            ),
        )

    async def _note(
        self,
        projector: str,
        issued: Issued,
        decision: Callable[[Trail], tuple[AuditEvent, ...]],
    ) -> Outcome[NotedAnswer]:
        async def decide(transaction: Transaction) -> NotedAnswer:
            stream_id = AUDIT.stream_id(issued.workspace_id, projector)
            loaded = await transaction.load(AUDIT, stream_id)
            return NotedAnswer(position=transaction.record(stream_id, decision(loaded.state)))

        return await self._transactions.run(decide, issued, NotedAnswer)
