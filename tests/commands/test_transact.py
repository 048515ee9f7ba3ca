"""The write path: lost races, If-Match, idempotency keys, and what is left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

import pytest

from commands.transact import (
    TRIES_MAX,
    Congested,
    Issued,
    KeyInFlight,
    KeyReused,
    Outcome,
    Transaction,
    Transactions,
)
from domain.agents import AGENT, AgentChanged, AgentChanges, AgentId, AgentProfile, AgentRegistered
from domain.errors import NotFound, VersionMismatch
from domain.events import Blob, StreamId
from tests.commands.writing import ACME, Counted, Writing
from tests.fakes import NOON, WAIT_MAX_S, until

ADA = AgentId(1)
STREAM = AGENT.stream_id(ACME, ADA)


Decide: TypeAlias = Callable[[Transaction], Awaitable[Counted]]


async def nothing() -> None:
    pass


def note(
    meanwhile: Callable[[], Awaitable[object]] = nothing,
    *,
    stream_id: StreamId = STREAM,
) -> Decide:
    """Decide to add one event to a stream; `meanwhile` happens between look and record."""

    async def decide(transaction: Transaction) -> Counted:
        loaded = await transaction.load_matching(AGENT, stream_id)
        await meanwhile()
        event = AgentRegistered(agent_id=ADA, profile=AgentProfile(name=f"{loaded.version}"))
        return Counted(transaction.record(stream_id, [event]))

    return decide


async def refuse(transaction: Transaction) -> Counted:
    await transaction.load(AGENT, STREAM)
    raise NotFound("Agent", "1")


async def run(writing: Writing, decide: Decide, issued: Issued | None = None) -> Outcome[Counted]:
    return await writing.transactions.run(decide, issued or writing.issued(), Counted)


async def versions(writing: Writing) -> list[int]:
    return [recorded.stream_version for recorded in await writing.recorded(STREAM)]


class Rival:
    """Another process that gets in first, so many times."""

    def __init__(self, writing: Writing, times: int) -> None:
        self._writing = Writing(beside=writing)
        self._times = times
        self.looks = 0

    async def __call__(self) -> None:
        self.looks += 1
        if self.looks <= self._times:
            await run(self._writing, note())


# Races.


@pytest.mark.parametrize("lost", [0, 1, TRIES_MAX - 1])
async def test_a_lost_race_is_decided_again_on_the_newer_state(writing: Writing, lost: int) -> None:
    rival = Rival(writing, lost)
    outcome = await run(writing, note(rival))
    assert outcome == (Counted(lost + 1), lost + 1, False)
    assert rival.looks == lost + 1
    assert await versions(writing) == list(range(1, lost + 2))


async def test_who_loses_every_race_is_told_of_congestion(writing: Writing) -> None:
    rival = Rival(writing, TRIES_MAX)
    with pytest.raises(Congested):
        await run(writing, note(rival))
    assert rival.looks == TRIES_MAX
    assert len(await versions(writing)) == TRIES_MAX


async def test_everybody_who_decides_at_once_gets_a_turn(writing: Writing) -> None:
    outcomes = await asyncio.gather(*(run(writing, note()) for _ in range(TRIES_MAX)))
    assert sorted(outcome.answer.version for outcome in outcomes) == [1, 2, 3, 4, 5]


async def test_one_decision_sees_a_stream_at_one_version_only(writing: Writing) -> None:
    rival = Rival(writing, 2)

    async def decide(transaction: Transaction) -> Counted:
        first = await transaction.load(AGENT, STREAM)
        await rival()
        assert await transaction.load(AGENT, STREAM) == first
        changed = AgentChanged(agent_id=ADA, changes=AgentChanges(name=f"after {first.version}"))
        return Counted(transaction.record(STREAM, [changed]))

    assert (await run(writing, decide)).answer == Counted(3)
    assert [recorded.event for recorded in await writing.recorded(STREAM)][2:] == [
        AgentChanged(agent_id=ADA, changes=AgentChanges(name="after 2"))
    ]


async def test_all_streams_of_a_decision_are_written_or_none(writing: Writing) -> None:
    other = AGENT.stream_id(ACME, 2)
    rival = Rival(writing, 1)

    async def decide(transaction: Transaction) -> Counted:
        await note(stream_id=other)(transaction)
        return await note(rival)(transaction)

    await run(writing, decide)
    assert [(r.stream_id, r.stream_version) for r in await writing.recorded()] == [
        (STREAM, 1),
        (other, 1),
        (STREAM, 2),
    ]


# If-Match.


async def test_the_version_a_caller_saw_is_accepted_while_it_is_the_newest(
    writing: Writing,
) -> None:
    await run(writing, note(), writing.issued(if_version=0))
    assert (await run(writing, note(), writing.issued(if_version=1))).answer == Counted(2)


@pytest.mark.parametrize("seen", [0, 2])
async def test_another_version_than_the_newest_is_refused(writing: Writing, seen: int) -> None:
    await run(writing, note())
    with pytest.raises(VersionMismatch) as refused:
        await run(writing, note(), writing.issued(if_version=seen))
    assert (refused.value.expected_version, refused.value.version) == (seen, 1)
    assert await versions(writing) == [1]


async def test_a_version_is_not_refused_for_what_another_process_wrote(writing: Writing) -> None:
    await run(writing, note())
    assert (await writing.store.load(AGENT, STREAM)).version == 1
    await run(Writing(beside=writing), note())
    assert (await writing.store.load(AGENT, STREAM)).version == 1
    assert (await run(writing, note(), writing.issued(if_version=2))).answer == Counted(3)


async def test_a_version_that_is_overtaken_while_deciding_is_refused(writing: Writing) -> None:
    with pytest.raises(VersionMismatch) as refused:
        await run(writing, note(Rival(writing, 1)), writing.issued(if_version=0))
    assert refused.value.version == 1


async def test_a_refusal_records_nothing(writing: Writing) -> None:
    async def decide(transaction: Transaction) -> Counted:
        await note()(transaction)
        transaction.keep("never kept")
        return await refuse(transaction)

    with pytest.raises(NotFound):
        await run(writing, decide, writing.issued(key="k"))
    assert await writing.recorded() == []
    assert await writing.store.find_command(writing.issued(key="k").metadata.command_id) is None


async def test_a_decision_for_nothing_records_nothing(writing: Writing) -> None:
    async def decide(transaction: Transaction) -> Counted:
        return Counted(transaction.record((await _look(transaction)), []))

    issued = writing.issued()
    assert await run(writing, decide, issued) == (Counted(0), None, False)
    assert await writing.store.find_command(issued.metadata.command_id) is None


async def _look(transaction: Transaction) -> StreamId:
    await transaction.load(AGENT, STREAM)
    return STREAM


# Idempotency keys.


async def test_a_repeated_request_is_told_the_same_and_recorded_once(writing: Writing) -> None:
    first = await run(writing, note(), writing.issued(key="k"))
    await run(writing, note())
    assert await run(writing, note(), writing.issued(key="k")) == first._replace(replayed=True)
    assert first == (Counted(1), 1, False)
    assert await versions(writing) == [1, 2]


async def test_a_key_is_known_to_every_process(writing: Writing) -> None:
    first = await run(writing, note(), writing.issued(key="k"))
    other = Writing(beside=writing)
    assert await run(other, note(), writing.issued(key="k")) == first._replace(replayed=True)


async def test_a_key_is_not_for_two_different_requests(writing: Writing) -> None:
    await run(writing, note(), writing.issued(key="k"))
    with pytest.raises(KeyReused):
        await run(writing, note(), writing.issued(key="k", fingerprint="another request"))
    assert await versions(writing) == [1]


async def test_a_request_without_events_is_remembered_by_its_key(writing: Writing) -> None:
    looks = 0

    async def decide(transaction: Transaction) -> Counted:
        nonlocal looks
        looks += 1
        return Counted(looks)

    assert await run(writing, decide, writing.issued(key="k")) == (Counted(1), None, False)
    assert await run(writing, decide, writing.issued(key="k")) == (Counted(1), None, True)
    assert await writing.recorded() == []


async def test_of_many_at_once_with_one_key_one_decides(writing: Writing) -> None:
    looks = 0

    async def count() -> None:
        nonlocal looks
        looks += 1

    issued = writing.issued(key="k")
    outcomes = await asyncio.gather(*(run(writing, note(count), issued) for _ in range(20)))
    assert looks == 1
    assert sorted(outcomes) == [(Counted(1), 1, False)] + [(Counted(1), 1, True)] * 19
    assert await versions(writing) == [1]


async def test_when_the_first_is_refused_the_next_one_decides_itself(writing: Writing) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def decide(transaction: Transaction) -> Counted:
        begun.set()
        await end.wait()
        return await refuse(transaction)

    first = asyncio.create_task(run(writing, decide, writing.issued(key="k")))
    await begun.wait()
    second = asyncio.create_task(run(writing, note(), writing.issued(key="k")))
    end.set()
    with pytest.raises(NotFound):
        await first
    assert await second == (Counted(1), 1, False)


async def test_who_waits_too_long_for_a_key_is_told_that_it_is_in_flight(writing: Writing) -> None:
    transactions = Transactions(writing.store, key_wait_s=0)
    begun, end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        begun.set()
        await end.wait()

    first = asyncio.create_task(transactions.run(note(hold), writing.issued(key="k"), Counted))
    await begun.wait()
    with pytest.raises(KeyInFlight):
        await transactions.run(note(), writing.issued(key="k"), Counted)
    other_key = await transactions.run(
        note(stream_id=AGENT.stream_id(ACME, 2)), writing.issued(key="l"), Counted
    )
    assert other_key.answer == Counted(1)
    end.set()
    assert await first == (Counted(1), 2, False)


async def test_two_processes_with_one_key_record_once(writing: Writing) -> None:
    other, issued = Writing(beside=writing), writing.issued(key="k")

    async def other_is_faster() -> None:
        await run(other, note(), issued)

    outcome = await run(writing, note(other_is_faster), issued)
    assert outcome == (Counted(1), 1, True)
    assert await versions(writing) == [1]


async def test_two_processes_with_one_key_and_two_requests_record_one(writing: Writing) -> None:
    other = Writing(beside=writing)

    async def other_is_faster() -> None:
        await run(other, note(), writing.issued(key="k", fingerprint="another request"))

    with pytest.raises(KeyReused):
        await run(writing, note(other_is_faster), writing.issued(key="k"))


async def test_a_request_is_not_refused_for_what_itself_did_in_another_process(
    writing: Writing,
) -> None:
    other, issued = Writing(beside=writing), writing.issued(key="k")

    async def decide(transaction: Transaction) -> Counted:
        await run(other, note(), issued)
        return await refuse(transaction)

    assert await run(writing, decide, issued) == (Counted(1), 1, True)


async def test_no_gate_is_left_once_all_requests_with_its_key_have_ended(
    writing: Writing,
) -> None:
    begun = asyncio.Event()

    async def hold() -> None:
        begun.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(run(writing, note(hold), writing.issued(key="k")))
    await begun.wait()
    waiting = asyncio.create_task(run(writing, note(), writing.issued(key="k")))
    gate = next(iter(writing.transactions._gates.values()))
    await until(lambda: gate.users == 2)
    waiting.cancel()
    first.cancel()
    await asyncio.wait([first, waiting], timeout=WAIT_MAX_S)
    with pytest.raises(NotFound):
        await run(writing, refuse, writing.issued(key="l"))
    await run(writing, note(), writing.issued(key="m"))
    assert writing.transactions._gates == {}


async def test_the_one_after_a_caller_who_went_away_gets_through(writing: Writing) -> None:
    begun = asyncio.Event()

    async def hold() -> None:
        begun.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(run(writing, note(hold), writing.issued(key="k")))
    await begun.wait()
    second = asyncio.create_task(run(writing, note(), writing.issued(key="k")))
    first.cancel()
    async with asyncio.timeout(WAIT_MAX_S):
        assert await second == (Counted(1), 1, False)


# What is kept beside the events.


async def test_a_stream_never_goes_back_in_time(writing: Writing) -> None:
    await run(writing, note())
    writing.clock.forward(timedelta(minutes=-5))
    await run(writing, note())
    writing.clock.forward(timedelta(minutes=10))
    await run(writing, note())
    assert [r.metadata.occurred_at for r in await writing.recorded(STREAM)] == [
        NOON,
        NOON,
        NOON + timedelta(minutes=5),
    ]


async def test_an_answer_names_the_time_that_was_recorded(writing: Writing) -> None:
    agent = await writing.agent("Ada")
    writing.clock.forward(timedelta(minutes=-5))
    renamed = await writing.rename(agent, "Ada Lovelace")
    assert (renamed.created_at, renamed.updated_at) == (NOON, NOON)


async def test_all_events_of_a_command_share_its_metadata(writing: Writing) -> None:
    issued = writing.issued()
    other = AGENT.stream_id(ACME, 2)

    async def decide(transaction: Transaction) -> Counted:
        await note(stream_id=other)(transaction)
        return await note()(transaction)

    await run(writing, decide, issued)
    assert [r.metadata for r in await writing.recorded()] == [issued.metadata] * 2


async def test_texts_are_kept_with_the_events_that_refer_to_them(writing: Writing) -> None:
    kept: list[Blob] = []

    async def decide(transaction: Transaction) -> Counted:
        kept.append(transaction.keep("a long text"))
        return await note()(transaction)

    await run(writing, decide)
    assert await Writing(beside=writing).store.text(ACME, kept[0]) == "a long text"
    assert kept[0].size == len("a long text")
