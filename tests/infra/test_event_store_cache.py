"""What is read slowly does not take the place of what was written meanwhile."""

import asyncio
from contextlib import closing

import pytest

from domain.agents import AGENT
from infra.event_store.codec import CannotDecode
from infra.event_store.lane import Append
from infra.event_store.memory import MemoryLog
from infra.event_store.sqlite import new_row
from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import ADA, a_turn, tag


class SlowLog(MemoryLog):
    """Answers a read with what was there when it was asked, but later."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        found = await super().bodies(stream_id, after=after, limit=limit)
        await self.may_answer.wait()
        return found


async def test_a_slow_load_does_not_forget_what_was_appended_meanwhile() -> None:
    log = SlowLog()
    with closing(log), closing(Vault()) as vault:
        store = EventStore(log, vault)
        await tag(store, ADA, 0, "a")
        slow = asyncio.create_task(store.load(AGENT, ADA))
        await a_turn()
        await tag(store, ADA, 1, "b")
        log.may_answer.set()
        assert (await store.load(AGENT, ADA)).version == 2
        assert (await slow).version == 1
        assert (await store.load(AGENT, ADA)).version == 2


async def test_an_event_that_cannot_be_folded_is_named_with_its_place() -> None:
    with closing(MemoryLog()) as log, closing(Vault()) as vault:
        store = EventStore(log, vault)
        await tag(store, ADA, 0, "a")
        await asyncio.to_thread(log.write, Append([new_row(ADA, 2, "agent_exploded", b"{}")]))
        with pytest.raises(CannotDecode, match=r"^agent_exploded at 2: "):
            await store.load(AGENT, ADA, fresh=True)
