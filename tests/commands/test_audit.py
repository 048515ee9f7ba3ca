"""What operators do to read models is recorded in the workspace it is done to."""

from commands.audit import AuditCommands
from tests.commands.writing import Writing


async def test_a_retry_and_a_skip_are_recorded_one_after_the_other(writing: Writing) -> None:
    commands = AuditCommands(writing.transactions)
    first = await commands.retry_slice("usage", 7, writing.issued())
    second = await commands.skip_event("usage", 7, "cannot be read", writing.issued())
    assert [first.answer.position, second.answer.position] == [1, 2]
    assert await writing.tags() == ["parked_slice_retried", "parked_event_skipped"]
