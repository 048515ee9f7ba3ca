from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import KINDS, Open


@pytest.fixture(params=sorted(KINDS))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the test's own log, of each kind there is; what is opened is closed."""
    with ExitStack() as opened, closing(Vault()) as vault:
        open_again = KINDS[request.param](vault, tmp_path)
        yield lambda: opened.enter_context(closing(open_again()))


@pytest.fixture
def store(open_store: Open) -> EventStore:
    return open_store()
