"""What every event store keeps, whatever it is made of."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

import pytest

from commands.transact import DuplicateCommand, Known, StorageUnavailable, Write
from domain.agents import (
    AGENT,
    AgentDeactivated,
    AgentProfile,
    AgentRegistered,
    Registered,
    Unregistered,
)
from domain.catalog import AnyEvent
from domain.errors import StreamConflict
from domain.events import CommandId, Recorded, WorkspaceId
from infra.event_store.store import EventStore
from infra.vault import BlobIsMissing
from tests.contracts.stores import (
    ACME,
    ADA,
    BOB,
    CYD,
    GLOBEX,
    WAIT_MAX_S,
    Open,
    a_turn,
    append,
    command,
    metadata,
    tag,
    tagged,
)

ADA_OF_GLOBEX = AGENT.stream_id(GLOBEX, "ada")
REGISTERED = AgentRegistered(agent_id=tagged().agent_id, profile=AgentProfile(name="Ada"))


def positions(events: Iterable[Recorded[AnyEvent]]) -> list[int]:
    return [event.global_position for event in events]


def facts(events: Iterable[Recorded[AnyEvent]]) -> list[AnyEvent]:
    return [event.event for event in events]


async def all_done(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Do all at once; give results and errors alike, in the order of the calls."""
    async with asyncio.timeout(WAIT_MAX_S):
        return await asyncio.gather(*calls, return_exceptions=True)


def of_type(kind: type[Any], outcomes: Sequence[Any]) -> list[Any]:
    return [outcome for outcome in outcomes if isinstance(outcome, kind)]


# One stream.


async def test_an_empty_store_has_nothing(store: EventStore) -> None:
    assert await store.load(AGENT, ADA) == (Unregistered(), 0, None, None)
    assert await store.read_stream(ADA) == []
    assert await store.read_all() == []
    assert await store.read_workspace(ACME) == []
    assert await store.head() == 0
    assert await store.workspace_head(ACME) == 0
    assert store.last_write(ACME) == 0
    assert await store.find_command(CommandId("never issued")) is None


async def test_a_stream_is_the_fold_of_what_was_appended(store: EventStore) -> None:
    first, last = metadata(), metadata()
    await store.append([Write(ADA, 0, [REGISTERED, tagged("a")])], first, command=command(first))
    await store.append([Write(ADA, 2, [tagged("b")])], last, command=command(last))
    state, version, begun, changed = await store.load(AGENT, ADA)
    assert isinstance(state, Registered)
    assert state.profile == AgentProfile(name="Ada", tags=("b",))
    assert (version, begun, changed) == (3, first, last)


async def test_an_event_comes_back_with_its_place_and_circumstances(store: EventStore) -> None:
    about = metadata()
    events = [REGISTERED, tagged("a")]
    await store.append([Write(ADA, 0, events)], about, command=command(about))
    one, two = await store.read_stream(ADA)
    assert facts([one, two]) == events
    assert (one.stream_version, two.stream_version) == (1, 2)
    assert (one.stream_id, one.metadata, one.schema_version) == (ADA, about, 1)
    assert one.event_id != two.event_id


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_an_append_at_another_version_conflicts_and_records_nothing(
    store: EventStore, version: int
) -> None:
    await tag(store, ADA, 0, "a", "b")
    with pytest.raises(StreamConflict) as conflict:
        await append(store, Write(ADA, version, [tagged("c")]), command_id="refused")
    assert (conflict.value.stream_id, conflict.value.expected_version) == (ADA, version)
    assert facts(await store.read_all()) == [tagged("a"), tagged("b")]
    assert await store.find_command(CommandId("refused")) is None


# Several streams.


async def test_several_streams_are_written_at_once(store: EventStore) -> None:
    await tag(store, BOB, 0, "b")
    position = await append(
        store, Write(ADA, 0, [tagged("a1"), tagged("a2")]), Write(BOB, 1, [tagged("b2")])
    )
    assert position == 4
    assert facts(await store.read_stream(ADA)) == [tagged("a1"), tagged("a2")]
    assert facts(await store.read_stream(BOB)) == [tagged("b"), tagged("b2")]


@pytest.mark.parametrize(("stream_id", "version"), [(BOB, 0), (BOB, 2), (CYD, 1)])
async def test_a_conflict_on_one_stream_keeps_all_from_being_written(
    store: EventStore, stream_id: Any, version: int
) -> None:
    await tag(store, BOB, 0, "b")
    with pytest.raises(StreamConflict) as conflict:
        await append(
            store, Write(ADA, 0, [tagged("a")]), Write(stream_id, version, [tagged("c")] * 2)
        )
    assert (conflict.value.stream_id, conflict.value.expected_version) == (stream_id, version)
    assert facts(await store.read_all()) == [tagged("b")]
    assert (await store.load(AGENT, ADA, fresh=True)).version == 0


# Order.


async def test_positions_are_contiguous_and_ascend_as_appends_are_answered(
    store: EventStore,
) -> None:
    answered = [
        await append(store, Write(stream_id, 0, [tagged("x")] * size))
        for stream_id, size in ((ADA, 1), (BOB, 3), (CYD, 2))
    ]
    assert answered == [1, 4, 6]
    log = await store.read_all()
    assert positions(log) == [1, 2, 3, 4, 5, 6]
    assert [event.stream_id for event in log] == [ADA, BOB, BOB, BOB, CYD, CYD]


async def test_a_refused_append_leaves_no_gap_in_the_positions(store: EventStore) -> None:
    await tag(store, ADA, 0, "a")
    outcomes = await all_done(
        [tag(store, BOB, 0, "b"), tag(store, ADA, 0, "c", "c"), tag(store, CYD, 0, "d")]
    )
    assert outcomes[::2] == [2, 3]
    assert isinstance(outcomes[1], StreamConflict)
    assert positions(await store.read_all()) == [1, 2, 3]


# Reading.


async def test_reads_go_on_after_a_place_and_stop_at_a_limit(store: EventStore) -> None:
    for version in range(3):
        await tag(store, ADA, version, f"a{version}")
        await append(store, Write(ADA_OF_GLOBEX, version, [tagged("g")]), workspace_id=GLOBEX)
    assert positions(await store.read_all(after=2, limit=3)) == [3, 4, 5]
    assert positions(await store.read_all(after=6)) == []
    assert positions(await store.read_workspace(ACME, after=1, limit=1)) == [3]
    assert positions(await store.read_workspace(ACME, after=2)) == [3, 5]
    assert facts(await store.read_stream(ADA, after=1, limit=1)) == [tagged("a1")]
    assert facts(await store.read_stream(ADA, after=1)) == [tagged("a1"), tagged("a2")]


async def test_another_workspace_never_appears(store: EventStore) -> None:
    await append(store, Write(ADA_OF_GLOBEX, 0, [tagged("theirs")]), workspace_id=GLOBEX)
    await tag(store, ADA, 0, "ours")
    assert facts(await store.read_workspace(ACME)) == [tagged("ours")]
    assert facts(await store.read_workspace(GLOBEX)) == [tagged("theirs")]
    assert await store.read_workspace(WorkspaceId("acm")) == []
    assert facts(await store.read_stream(ADA)) == [tagged("ours")]


async def test_a_workspace_knows_its_newest_position(store: EventStore, open_store: Open) -> None:
    await tag(store, ADA, 0, "a", "b")
    await append(store, Write(ADA_OF_GLOBEX, 0, [tagged("c")]), workspace_id=GLOBEX)
    beside = open_store()
    assert [await each.workspace_head(ACME) for each in (store, beside)] == [2, 2]
    assert [await each.head() for each in (store, beside)] == [3, 3]
    assert [each.last_write(ACME) for each in (store, beside)] == [2, 0]
    assert store.last_write(GLOBEX) == 3


# Commands.


async def test_a_command_is_remembered_with_its_answer_and_last_position(
    store: EventStore,
) -> None:
    about = metadata(command_id="c1")
    kept = command(about, fingerprint="f", answer=b'{"id": 1}')
    await store.append([Write(ADA, 0, [tagged("a"), tagged("b")])], about, command=kept)
    assert await store.find_command(CommandId("c1")) == Known("f", b'{"id": 1}', 2)


async def test_a_command_may_record_no_event(store: EventStore) -> None:
    about = metadata(command_id="c1")
    kept = command(about, fingerprint="f", answer=b"{}")
    assert await store.append([], about, command=kept) is None
    assert await store.find_command(CommandId("c1")) == Known("f", b"{}", None)
    assert await store.head() == 0


async def test_a_command_is_recorded_once(store: EventStore) -> None:
    about = metadata(command_id="c1")
    first = command(about, fingerprint="f", answer=b"1")
    await store.append([Write(ADA, 0, [tagged("a")])], about, command=first)
    second = command(about, fingerprint="g", answer=b"2")
    for write in (Write(BOB, 0, [tagged("b")]), Write(ADA, 0, [tagged("stale")])):
        with pytest.raises(DuplicateCommand):
            await store.append([write], about, command=second)
    assert facts(await store.read_all()) == [tagged("a")]
    assert await store.find_command(CommandId("c1")) == Known("f", b"1", 1)


async def test_of_two_commands_with_one_id_at_once_one_is_recorded(store: EventStore) -> None:
    outcomes = await all_done(
        append(store, Write(stream_id, 0, [tagged("x")]), command_id="c1")
        for stream_id in (ADA, BOB)
    )
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], DuplicateCommand)
    assert [event.stream_id for event in await store.read_all()] == [ADA]


# Texts.


async def test_a_text_is_stored_with_its_append_and_opened_with_its_blob(
    store: EventStore,
) -> None:
    sealed = store.seal(ACME, "Ä prompt")
    assert sealed.blob.size == len("Ä prompt".encode())
    assert b"prompt" not in sealed.content
    with pytest.raises(BlobIsMissing):
        await store.text(ACME, sealed.blob)
    await append(store, blobs=[sealed])
    assert await store.text(ACME, sealed.blob) == "Ä prompt"


async def test_equal_texts_share_an_address_within_a_workspace(store: EventStore) -> None:
    ours, again = store.seal(ACME, "hello"), store.seal(ACME, "hello")
    theirs = store.seal(GLOBEX, "hello")
    assert ours.blob == again.blob != theirs.blob
    await append(store, blobs=[ours, again])
    await append(store, blobs=[again])
    assert await store.text(ACME, ours.blob) == "hello"
    with pytest.raises(BlobIsMissing):
        await store.text(GLOBEX, ours.blob)


async def test_a_refused_append_stores_no_text(store: EventStore) -> None:
    await append(store, Write(ADA, 0, [tagged("a")]), command_id="c1")
    conflicting, repeated = store.seal(ACME, "one"), store.seal(ACME, "two")
    with pytest.raises(StreamConflict):
        await append(store, Write(ADA, 0, [tagged("b")]), blobs=[conflicting])
    with pytest.raises(DuplicateCommand):
        await append(store, Write(ADA, 1, [tagged("b")]), command_id="c1", blobs=[repeated])
    for sealed in (conflicting, repeated):
        with pytest.raises(BlobIsMissing):
            await store.text(ACME, sealed.blob)


# The cache of states.


async def test_cached_and_fresh_loads_agree(store: EventStore, open_store: Open) -> None:
    beside = open_store()
    await append(store, Write(ADA, 0, [REGISTERED]))
    for version in range(1, 4):
        await tag(store, ADA, version, f"t{version}")
        cached = await store.load(AGENT, ADA)
        assert cached.version == version + 1
        assert cached == await store.load(AGENT, ADA, fresh=True)
        assert cached == await beside.load(AGENT, ADA, fresh=True)


async def test_a_stream_is_loaded_as_it_once_was(store: EventStore) -> None:
    for number in range(5):
        await tag(store, ADA, number, str(number))
    for version in (1, 3, 5):
        then = await store.load_at(AGENT, ADA, version)
        assert then == AGENT.fold(tagged(str(number)) for number in range(version))
    for never in (0, 6):
        assert await store.load_at(AGENT, ADA, never) == AGENT.initial


async def test_a_fresh_load_sees_what_another_process_appended(
    store: EventStore, open_store: Open
) -> None:
    beside = open_store()
    await append(store, Write(ADA, 0, [REGISTERED]))
    assert (await store.load(AGENT, ADA)).version == 1
    await tag(beside, ADA, 1, "theirs")
    assert (await store.load(AGENT, ADA, fresh=True)).version == 2
    assert facts(await store.read_all(after=1)) == [tagged("theirs")]


async def test_a_decision_on_a_cached_state_that_is_behind_conflicts(
    store: EventStore, open_store: Open
) -> None:
    beside = open_store()
    await append(store, Write(ADA, 0, [REGISTERED]))
    behind = await store.load(AGENT, ADA)
    await tag(beside, ADA, 1, "theirs")
    with pytest.raises(StreamConflict):
        await tag(store, ADA, behind.version, "ours")
    assert await tag(store, ADA, (await store.load(AGENT, ADA, fresh=True)).version, "ours") == 3


async def test_an_append_beyond_what_is_cached_skips_no_event(
    store: EventStore, open_store: Open
) -> None:
    beside = open_store()
    await append(store, Write(ADA, 0, [REGISTERED]))
    assert (await store.load(AGENT, ADA)).version == 1
    await append(beside, Write(ADA, 1, [AgentDeactivated(agent_id=REGISTERED.agent_id)]))
    await tag(store, ADA, 2, "ours")
    loaded = await store.load(AGENT, ADA, fresh=True)
    assert loaded.version == 3
    assert loaded == await beside.load(AGENT, ADA, fresh=True)


async def test_a_refused_append_does_not_touch_the_cached_state(store: EventStore) -> None:
    await append(store, Write(ADA, 0, [REGISTERED]))
    before = await store.load(AGENT, ADA)
    with pytest.raises(StreamConflict):
        await append(store, Write(ADA, 1, [tagged("x")]), Write(BOB, 1, [tagged("x")]))
    assert await store.load(AGENT, ADA) == before


async def test_a_long_stream_is_folded_whole(store: EventStore) -> None:
    await append(store, Write(ADA, 0, [REGISTERED, *(tagged(str(n)) for n in range(2500))]))
    state, version, *_ = await store.load(AGENT, ADA)
    assert isinstance(state, Registered)
    assert (version, state.profile.tags) == (2501, ("2499",))


# Many at once.


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_appends_at_one_version_one_wins(
    store: EventStore, open_store: Open, processes: int
) -> None:
    stores = [store, open_store()]
    outcomes = await all_done(tag(stores[n % processes], ADA, 0, str(n)) for n in range(50))
    assert of_type(int, outcomes) == [1]
    assert len(of_type(StreamConflict, outcomes)) == 49
    (winner,) = await store.read_all()
    assert winner.event == tagged(str(outcomes.index(1)))


async def test_conflicting_appends_do_not_harm_the_others(store: EventStore) -> None:
    await tag(store, ADA, 0, "first")
    streams = [AGENT.stream_id(ACME, n) for n in range(20)]
    calls = [(tag(store, each, 0, "ok"), tag(store, ADA, 0, "stale")) for each in streams]
    outcomes = await all_done(call for pair in calls for call in pair)
    assert outcomes[::2] == list(range(2, 22))
    assert len(of_type(StreamConflict, outcomes[1::2])) == 20
    assert [event.stream_id for event in await store.read_all(after=1)] == streams


async def test_a_turn_may_append_more_than_one_transaction_holds(store: EventStore) -> None:
    streams = [AGENT.stream_id(ACME, n) for n in range(1500)]
    outcomes = await all_done(tag(store, each, 0, "x") for each in streams)
    # In what order is nobody's business: nobody waited for anybody.
    assert sorted(outcomes) == list(range(1, 1501))


async def test_an_append_whose_caller_goes_away_is_whole_or_absent(store: EventStore) -> None:
    calls = [
        asyncio.create_task(
            append(store, Write(ADA, n, [tagged(str(n))]), Write(BOB, n, [tagged(str(n))]))
        )
        for n in range(20)
    ]
    await a_turn()
    for call in calls[::2]:
        call.cancel()
    outcomes = await all_done(calls)
    assert outcomes[1::2] == list(range(4, 44, 4))
    assert len(of_type(asyncio.CancelledError, outcomes[::2])) == 10
    await append(store, Write(CYD, 0, [tagged("after")]))
    ours, theirs = await store.read_stream(ADA), await store.read_stream(BOB)
    assert facts(ours) == facts(theirs) == [tagged(str(n)) for n in range(20)]
    assert (await store.load(AGENT, ADA)).version == 20


async def test_an_append_whose_caller_goes_away_at_once_is_absent(store: EventStore) -> None:
    call = asyncio.create_task(tag(store, ADA, 0, "x"))
    call.cancel()
    await all_done([call])
    assert await tag(store, BOB, 0, "after") == 1


# Following.


async def test_an_append_wakes_who_follows(store: EventStore) -> None:
    followers = [asyncio.create_task(store.changed(WAIT_MAX_S * 10)) for _ in range(3)]
    await a_turn()
    assert not any(follower.done() for follower in followers)
    await tag(store, ADA, 0, "a")
    assert await all_done(followers) == [None] * 3


async def test_who_follows_goes_on_when_nothing_changes(store: EventStore) -> None:
    async with asyncio.timeout(WAIT_MAX_S):
        await store.changed(0.001)


# Closing.


async def test_closing_writes_what_is_queued_and_refuses_the_rest(
    store: EventStore, open_store: Open
) -> None:
    streams = [AGENT.stream_id(ACME, n) for n in range(50)]
    queued = [asyncio.create_task(tag(store, each, 0, "x")) for each in streams]
    await a_turn()
    await store.aclose()
    assert await all_done(queued) == list(range(1, 51))
    with pytest.raises(StorageUnavailable):
        await tag(store, ADA, 0, "late")


async def test_closing_twice_is_closing_once(store: EventStore) -> None:
    await store.aclose()
    await store.aclose()
    with pytest.raises(StorageUnavailable):
        await append(store, Write(ADA, 0, [tagged("late")]))
