from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing

import pytest

from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import KINDS, Open


@pytest.fixture(params=sorted(KINDS))
def open_again(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open the test's own log, of each kind there is."""
    with closing(Vault()) as vault:
        yield KINDS[request.param](vault, request)


@pytest.fixture
async def open_store(open_again: Open) -> AsyncIterator[Open]:
    """Open the same log; what is opened is closed."""
    async with AsyncExitStack() as opened:

        def opened_store() -> EventStore:
            store = open_again()
            opened.push_async_callback(store.aclose)
            return store

        yield opened_store


@pytest.fixture
def store(open_store: Open) -> EventStore:
    return open_store()
