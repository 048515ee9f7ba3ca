"""`automatos serve` as whoever runs it meets it: starting, stopping, a full disk."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.e2e.full_disk import Disk, FewPages, can_mount, small_disk
from tests.e2e.installation import (
    Json,
    Server,
    automatos,
    exported,
    made,
    run_ended,
    run_started,
    serving,
    until,
    workflow_of,
)
from tests.llm_server import Behaviour, LlmServer

STOP_MAX_S = 30
STEPS = 6

# Starting.


def test_a_second_server_on_a_folder_names_the_first_and_leaves_it_alone(server: Server) -> None:
    second = automatos(server.folder, "serve")
    assert second.returncode == 2
    assert f"Another automatos server (process {server.process.pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    with server.client() as client:
        assert made(client, "/api/agents", {"name": "Ada"}).status_code == 201


def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = automatos(tmp_path / "data", "serve", PORT=str(port))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"automatos: Cannot listen on 127.0.0.1:{port}")
    assert len(refused.stderr.splitlines()) == 1


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    refused = automatos(tmp_path / "data", "serve", AUTOMATOS_POTR="8000")
    assert refused.returncode == 2
    assert refused.stderr == "automatos: AUTOMATOS_POTR is not a setting.\n"
    assert not (tmp_path / "data").exists()


def test_a_damaged_log_is_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "events.db").write_bytes(b"no database" * 1_000)
    refused = automatos(folder, "serve")
    assert refused.returncode == 2
    assert refused.stderr == "automatos: file is not a database\n"


def test_the_key_is_shown_at_the_first_start_only_and_goes_on_working(server: Server) -> None:
    assert server.key in server.output
    server.stop()
    server.start()
    assert "atk_live_" not in server.output
    with server.client() as client:
        assert client.get("/api/agents").status_code == 200


# Stopping.


def test_a_run_that_is_stopped_by_sigterm_goes_on_after_the_restart(
    server: Server, llm: LlmServer
) -> None:
    llm.otherwise = Behaviour(delay_s=0.2)
    with server.client() as client:
        workflow_id = workflow_of(client, STEPS, "step {step}")
        run_id = run_started(client, workflow_id).json()["id"]
        llm.wait_for_calls(2)
    server.terminate()
    assert server.wait(STOP_MAX_S) == 0
    server.start()
    with server.client() as client:
        ended = run_ended(client, run_id)
    assert ended["status"] == "completed"
    assert [step["calls"] for step in ended["step_results"]] == [1] * STEPS
    assert sorted(call.prompt for call in llm.calls) == [f"step {n}" for n in range(STEPS)]


def test_a_live_stream_ends_when_the_server_is_stopped(server: Server) -> None:
    lines: list[str] = []

    def follow() -> None:
        with server.client() as client, client.stream("GET", "/api/events/stream") as stream:
            lines.extend(["connected"])
            lines.extend(stream.iter_lines())
            lines.append("ended")

    follower = Thread(target=follow)
    follower.start()
    until(lambda: any(line.startswith("id: ") for line in lines), "the stream has told an event")
    server.terminate()
    assert server.wait(STOP_MAX_S) == 0
    follower.join(STOP_MAX_S)
    assert lines[-1] == "ended"


# A full disk.


@pytest.fixture(params=["pages", *(["tmpfs"] if can_mount() else [])])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "pages":
        yield FewPages(tmp_path / "data")
    else:
        with small_disk(tmp_path / "data") as mounted:
            yield mounted


def test_a_full_disk_refuses_commands_until_there_is_room_and_loses_nothing(disk: Disk) -> None:
    with serving(disk.folder, disk.module, LLM_PROVIDER="offline") as server:
        with server.client() as client:
            done = [_registered(client) for _ in range(20)]
            disk.fill(server)
            done += _until_refused(client)
            _goes_on_reading(client, done[0])
            disk.free(server)
            until(lambda: _post(client).status_code == 201, "commands work again")
            assert client.get("/health/ready").status_code == 200
            last = _registered(client)
            _is_projected(client, [*done, last])
        server.stop()
    known = {event["data"].get("agent_id") for event in exported(disk.folder)}
    assert {answer["id"] for answer in [*done, last]} <= known


def _post(client: httpx.Client) -> httpx.Response:
    return client.post("/api/agents", json={"name": f"Agent {_next_number()}" + "x" * 200})


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield (number := number + 1)


_next_number = _numbers().__next__


def _registered(client: httpx.Client) -> Json:
    answer = _post(client)
    assert answer.status_code == 201, answer.text
    return _answered(answer)


def _answered(answer: httpx.Response) -> Json:
    return {"id": answer.json()["id"], "position": answer.headers["X-Event-Position"]}


def _until_refused(client: httpx.Client) -> list[Json]:
    """Use up what room there is; give what was still acknowledged."""
    done: list[Json] = []

    def refused() -> bool:
        answer = _post(client)
        if answer.status_code == 201:
            done.append(_answered(answer))
            return False
        assert answer.status_code == 503, answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["code"] == "storage_full"
        assert int(answer.headers["Retry-After"]) > 0
        return True

    until(refused, "the disk is full")
    return done


def _goes_on_reading(client: httpx.Client, known: Json) -> None:
    assert client.get("/health").json()["components"]["event_store"] == "degraded"
    assert client.get("/health").status_code == 200
    assert client.get(f"/api/agents/{known['id']}").status_code == 200
    assert client.get("/api/events").status_code == 200
    assert _post(client).status_code == 503
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["event_store"]) == (503, "degraded")


def _is_projected(client: httpx.Client, answers: list[Json]) -> None:
    """See that the read models are up to the last command, and lack none."""
    fresh = {"Min-Position": answers[-1]["position"]}

    def caught_up() -> bool:
        path = f"/api/agents/{answers[-1]['id']}"
        answer = client.get(path, headers=fresh)
        return answer.status_code == 200 and "X-Stale" not in answer.headers

    until(caught_up, "the read models are up to date")
    for known in answers:
        assert client.get(f"/api/agents/{known['id']}").status_code == 200


def test_other_machines_are_let_in_only_after_a_key_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    refused = automatos(folder, "serve", AUTOMATOS_HOST="0.0.0.0")
    assert refused.returncode == 2
    assert "HOST=0.0.0.0" in refused.stderr
    assert "automatos keys create" in refused.stderr
    assert "atk_live_" not in refused.stdout + refused.stderr
    made = automatos(folder, "keys", "create")
    assert made.returncode == 0, made.stderr
    server = Server(folder, AUTOMATOS_HOST="0.0.0.0")
    try:
        server.launch()
        assert "atk_live_" not in server.output
    finally:
        server.kill()
