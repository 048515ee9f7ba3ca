"""What several tests of projecting begin with."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from tests.projecting import opened


@pytest.fixture
def quiet() -> Iterator[list[MutableMapping[str, Any]]]:
    """Capture the log; its default way of showing a traceback takes seconds."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Open read models in either database."""
    engine = opened(request.param, request)
    yield engine
    engine.dispose()
