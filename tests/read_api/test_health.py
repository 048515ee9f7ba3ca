"""Alive and ready are two questions: a process may answer, and still not be the one to ask."""

import sqlite3
from contextlib import closing

import pytest

from read_api import health
from tests.read_api.conftest import Served, assert_problem, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIVE, READY = "/health/live", "/health/ready"


async def test_an_embedded_installation_is_live_and_ready_and_has_no_relay(alone: Served) -> None:
    client = alone.client()
    live = await client.get(LIVE)
    assert (live.status_code, live.json()) == (200, {"status": "live"})

    async def is_ready() -> bool:
        return (await client.get(READY)).status_code == 200

    await until(is_ready)
    body = (await client.get(READY)).json()
    assert (body["status"], body["event_store"]) == ("ready", "healthy")
    assert (body["relay_lag"], body["degraded"]) == (None, [])
    assert {"agents", "runs", "identity"} <= set(body["read_models"])


async def test_a_process_that_is_stopping_is_live_but_not_ready(alone: Served) -> None:
    client = alone.client()
    alone.closing = True
    ready = await client.get(READY)
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await client.get(LIVE)).status_code == 200


async def test_who_is_too_far_behind_is_not_ready_until_it_has_caught_up(
    alone: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, client = alone.tenants.pop(), alone.client()
    monkeypatch.setattr(health, "LAG_MAX", 2)
    path = alone.installation.writing.settings.data_dir / "read_models.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # As another process may: no projector moves.
        connection.execute("BEGIN IMMEDIATE")
        for number in range(3):
            await tenant.agent(f"Agent {number}")
        ready = await client.get(READY)
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert max(ready.json()["read_models"].values()) >= 3
        assert ready.json()["event_store"] == "healthy"
        connection.execute("ROLLBACK")

    async def is_ready() -> bool:
        return (await client.get(READY)).status_code == 200

    await until(is_ready)


async def test_no_key_is_asked_for_and_none_opens_more(alone: Served) -> None:
    for path in (LIVE, READY):
        answer = await alone.client("junk").get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.status_code == 200
    assert_problem(await alone.client().post(LIVE), 405, "method_not_allowed")
