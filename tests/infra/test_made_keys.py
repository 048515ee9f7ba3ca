"""Keys that are made on the command line: of which workspace, and for how long."""

from datetime import timedelta
from pathlib import Path

import pytest

from domain.events import PLATFORM_WORKSPACE
from domain.identity import KEY_RING, WORKSPACE, Workspace
from infra.clock import utc_now
from infra.operators import local_workspace
from infra.postgres.migrations import migrate
from infra.settings import Settings
from infra.writing import build_writing
from tests.e2e.installation import automatos

MINUTES = timedelta(minutes=10)
"""Longer than a test takes."""


async def test_a_key_of_the_platform_lasts_as_long_as_it_is_told_to(tmp_path: Path) -> None:
    made = automatos(tmp_path, "keys", "create", "--platform", "--days", "7")
    assert made.returncode == 0, made.stderr
    writing = build_writing(Settings(data_dir=tmp_path))
    ring = await writing.store.load(KEY_RING, KEY_RING.stream_id(PLATFORM_WORKSPACE, "all"))
    (key,) = ring.state.keys.values()
    assert key.expires_at is not None
    assert abs(key.expires_at - utc_now() - timedelta(days=7)) < MINUTES
    stream_id = WORKSPACE.stream_id(PLATFORM_WORKSPACE, PLATFORM_WORKSPACE)
    platform = (await writing.store.load(WORKSPACE, stream_id)).state
    # So that people can be invited into it.
    assert isinstance(platform, Workspace)
    await writing.aclose()


@pytest.mark.parametrize("days", ["0", "366"])
def test_no_key_lasts_longer_than_a_year_or_not_at_all(days: str, tmp_path: Path) -> None:
    refused = automatos(tmp_path, "keys", "create", "--days", days)
    assert refused.returncode == 2
    assert refused.stdout == ""


async def test_in_production_a_key_lasts_90_days(postgres_url: str, tmp_path: Path) -> None:
    migrate(postgres_url)
    made = automatos(tmp_path, "keys", "create", DATABASE_URL=postgres_url)
    assert made.returncode == 0, made.stderr
    writing = build_writing(Settings(data_dir=tmp_path, database_url=postgres_url))
    local = await local_workspace(writing.store)
    assert local is not None
    ring = await writing.store.load(KEY_RING, KEY_RING.stream_id(local, "all"))
    (key,) = ring.state.keys.values()
    assert key.expires_at is not None
    assert abs(key.expires_at - utc_now() - timedelta(days=90)) < MINUTES
    await writing.aclose()
