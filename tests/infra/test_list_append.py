"""Writers that race on one stream: its history is that of one list, appended to one by one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

import pytest

from domain.agents import AgentTagged
from domain.catalog import AnyEvent
from domain.errors import StreamConflict
from domain.events import Recorded
from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import ADA, KINDS, Open, tag

WRITERS = 8
PAGE = 1_000


class Done(NamedTuple):
    """One operation, and what it was told.

    Attributes:
        begun, ended: Moments, by one clock for all.
        first: How many values are before those told.
        values: What a reader read; what a writer was told to have appended, or not.
    """

    begun: int
    ended: int
    first: int
    values: tuple[str, ...]
    kind: str = "read"

    @property
    def reach(self) -> int:
        return self.first + len(self.values)


def faults(history: Sequence[Done], final: Sequence[str]) -> Iterator[str]:
    """Tell what a list that is appended to one by one could not have answered."""
    refused = {value for done in history if done.kind == "refused" for value in done.values}
    appended = {value for done in history if done.kind == "append" for value in done.values}
    yield from (f"{value} twice" for value, times in Counter(final).items() if times > 1)
    yield from (f"{value} refused and there" for value in refused.intersection(final))
    yield from (f"{value} from nowhere" for value in set(final) - appended - refused)
    told = [done for done in history if done.kind != "refused"]
    for done in told:
        if tuple(final[done.first : done.reach]) != done.values:
            yield f"{done.kind} of {done.values} at {done.first}"
    yield from _turned_back(told)


def _turned_back(told: Sequence[Done]) -> Iterator[str]:
    """Find operations that were told less than others had been told before they began."""
    by_end = iter(sorted(told, key=lambda done: done.ended))
    known, ended = 0, next(by_end, None)
    for done in sorted(told, key=lambda done: done.begun):
        while ended is not None and ended.ended < done.begun:
            known, ended = max(known, ended.reach), next(by_end, None)
        least = known if done.kind == "read" else known + 1
        if done.reach < least:
            yield f"{done.kind} reached {done.reach} after {known}"


class Writer:
    """Appends values of its own, each where it believes the end to be."""

    def __init__(self, name: str, store: EventStore, clock: Iterator[int]) -> None:
        self.history: list[Done] = []
        self._name = name
        self._store = store
        self._clock = clock
        self._end = 0

    async def append(self, times: int) -> None:
        for number in range(times):
            if not await self._appended(f"{self._name}-{number}"):
                await self._read()

    async def _appended(self, value: str) -> bool:
        begun, first = next(self._clock), self._end
        try:
            await tag(self._store, ADA, first, value)
        except StreamConflict:
            self._note(begun, first, (value,), "refused")
            return False
        self._note(begun, first, (value,), "append")
        return True

    async def _read(self) -> None:
        begun, first = next(self._clock), self._end
        self._note(begun, first, await values_after(self._store, first), "read")

    def _note(self, begun: int, first: int, values: tuple[str, ...], kind: str) -> None:
        done = Done(begun, next(self._clock), first, values, kind)
        self.history.append(done)
        if kind != "refused":
            self._end = done.reach


async def values_after(store: EventStore, first: int) -> tuple[str, ...]:
    found: list[str] = []
    while page := await store.read_stream(ADA, after=first + len(found), limit=PAGE):
        found += map(_value, page)
    return tuple(found)


def _value(recorded: Recorded[AnyEvent]) -> str:
    assert isinstance(recorded.event, AgentTagged)
    return recorded.event.tags[0]


@asynccontextmanager
async def stores(open_store: Open, number: int) -> AsyncIterator[list[EventStore]]:
    opened = [open_store() for _ in range(number)]
    try:
        yield opened
    finally:
        for store in opened:
            await store.aclose()


@pytest.mark.parametrize(
    "appends", [2_000, pytest.param(200_000, marks=pytest.mark.long)], ids=["ci", "long"]
)
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
@pytest.mark.timeout(3_600)
async def test_racing_writers_make_the_history_of_one_list(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    kind: str,
    appends: int,
) -> None:
    open_store, clock = KINDS[kind](Vault(), request), count()
    async with stores(open_store, WRITERS) as opened:
        writers = [Writer(f"w{n}", store, clock) for n, store in enumerate(opened)]
        await asyncio.gather(*(writer.append(appends // WRITERS) for writer in writers))
        final = await values_after(opened[0], 0)
    history = [done for writer in writers for done in writer.history]
    kinds = Counter(done.kind for done in history)
    record_property("figure", f"{kind}: {dict(kinds)} on one stream")
    assert kinds["append"] + kinds["refused"] == appends
    assert kinds["append"] > 0 < kinds["refused"]
    assert list(faults(history, final)) == []


# The checker.

SOUND = (
    Done(1, 2, 0, ("a",), "append"),
    Done(3, 4, 0, ("b",), "refused"),
    Done(5, 6, 0, ("a",)),
    Done(7, 8, 1, ("b'",), "append"),
)


def test_a_sound_history_has_no_fault() -> None:
    assert list(faults(SOUND, ["a", "b'"])) == []


@pytest.mark.parametrize(
    ("extra", "final"),
    [
        ((), ["a"]),
        ((), ["b'", "a"]),
        ((), ["a", "b'", "a"]),
        ((), ["a", "b'", "b"]),
        ((), ["a", "b'", "c"]),
        ((Done(9, 10, 0, ("b'",)),), ["a", "b'"]),
        ((Done(9, 10, 0, ("a",)),), ["a", "b'"]),
        ((Done(9, 10, 1, ("b'",), "append"),), ["a", "b'"]),
    ],
    ids=[
        "lost",
        "reordered",
        "twice",
        "refused and there",
        "from nowhere",
        "read what never was",
        "read what is old",
        "told at a place that was taken before",
    ],
)
def test_a_fault_in_a_history_is_found(extra: tuple[Done, ...], final: list[str]) -> None:
    assert list(faults((*SOUND, *extra), final)) != []
