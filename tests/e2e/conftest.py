"""Servers in processes of their own, on folders of their own, asking a provider of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.installation import Server, asking, serving
from tests.llm_server import LlmServer


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[LlmServer]:
    with LlmServer(log=tmp_path / "calls.ndjson") as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, llm: LlmServer) -> Iterator[Server]:
    """Serve a new folder."""
    with serving(tmp_path / "data", **asking(llm)) as started:
        yield started
