"""What is read slowly does not take the place of what was written meanwhile."""

import asyncio
from contextlib import closing

from domain.agents import AGENT
from infra.event_store.codec import InStream
from infra.event_store.memory import MemoryLog
from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import ADA, a_turn, tag


class SlowLog(MemoryLog):
    """Answers a read with what was there when it was asked, but later."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[InStream]:
        rows = await super().stream(stream_id, after=after, limit=limit)
        await self.may_answer.wait()
        return rows


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
