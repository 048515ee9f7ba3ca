"""What cannot go on says so, and stops: a server that only half works is nobody's."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from infra.server import EXIT_FAILED
from tests.e2e.installation import Server, serving, until

JUNK = (
    "INSERT INTO stored_events"
    " VALUES ((SELECT max(position) + 1 FROM stored_events), ?, 1, ?, ?, ?)"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data", LLM_PROVIDER="offline") as started:
        yield started


def damage(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute(statement, values)


def test_the_server_stops_when_due_runs_cannot_be_read(server: Server) -> None:
    damage(server.folder / "read_models.db", "DROP TABLE due_runs")
    assert server.wait() == EXIT_FAILED
    assert "the server cannot go on; stopping" in server.output
    assert "no such table: due_runs" in server.output


def test_an_event_that_cannot_be_decoded_parks_its_workspace_and_the_server_goes_on(
    server: Server,
) -> None:
    damage(server.folder / "events.db", JUNK, "agent-x+1", "invented", b"{}", "x")
    with server.client() as client:
        until(lambda: client.get("/health").json()["status"] == "degraded", "it is told")
        assert client.get("/health").status_code == httpx.codes.OK
        assert client.get("/health/ready").json()["status"] == "ready"
        assert client.post("/api/agents", json={"name": "Ada"}).status_code == httpx.codes.CREATED
    server.stop()


def test_the_server_stops_when_the_store_fails_in_a_way_that_does_not_pass(
    server: Server,
) -> None:
    damage(server.folder / "events.db", "DROP TABLE commands")
    with server.client() as client:
        refused = client.post("/api/agents", json={"name": "Ada"})
    assert refused.status_code == httpx.codes.INTERNAL_SERVER_ERROR
    assert server.wait() == EXIT_FAILED
    assert "no such table: commands" in server.output
