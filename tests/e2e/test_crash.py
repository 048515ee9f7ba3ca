"""Acceptance: whenever the server is killed, nothing acknowledged is lost or done twice.

A run of many steps goes on against a provider that counts its calls, other
commands are sent meanwhile, and the process is killed at moments drawn from
the whole length of the run. Then the log is held against the provider's own.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Thread, Timer
from time import monotonic

import httpx
import msgspec
import pytest

from infra.composition import PROJECTORS
from infra.read_store import digest, open_engine, positions
from tests.e2e.installation import (
    Json,
    Server,
    asking,
    automatos,
    exported,
    made,
    run_ended,
    run_started,
    serving,
    workflow_of,
)
from tests.llm_server import Behaviour, LlmServer

SEED = 20260131
STEPS = 20
CALL_S = 0.03
"""How long the provider takes, so that many a kill finds a call in flight."""

TEMPLATE = "round {input.round} step {step}"


class Acknowledged:
    """What the server said it has done, on the disk before anything else happens."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, answer: httpx.Response) -> None:
        line = {"position": int(answer.headers["X-Event-Position"]), "id": answer.json()["id"]}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def all(self) -> list[Json]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One run, and what became of it."""

    number: int
    run_id: int
    status: str


class Figures(msgspec.Struct, kw_only=True):
    """What the log says of the model calls, and the provider beside it."""

    in_doubt: int = 0
    repeated: int = 0
    paid_twice: int = 0


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(30, marks=pytest.mark.timeout(900)),
        pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
    ],
)
def test_no_kill_loses_what_was_acknowledged_or_repeats_a_call_whose_outcome_is_recorded(
    kills: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    acknowledged, calls = Acknowledged(tmp_path / "acknowledged"), tmp_path / "calls.ndjson"
    began = monotonic()
    with LlmServer(log=calls) as llm:
        llm.otherwise = Behaviour(delay_s=CALL_S)
        with serving(tmp_path / "data", **asking(llm)) as server:
            rounds = killed_at_random(server, kills, acknowledged)
            server.stop()
    events = exported(tmp_path / "data")
    assert [told.status for told in rounds] == ["completed"] * (kills + 1)
    figures = check_calls(events, rounds, calls)
    acks = acknowledged.all()
    check_acknowledged(events, acks)
    check_read_models(tmp_path / "data", events[-1]["position"])
    amid = killed_amid(events)
    assert amid > kills // 2
    assert figures.in_doubt <= amid
    record_property(
        "figure",
        f"crash: {kills} kills, {amid} of them amid a run of {STEPS} steps;"
        f" {len(events)} events, {len(acks)} acknowledged commands, 0 lost;"
        f" {figures.in_doubt} calls in doubt, all marked, {figures.repeated} repeated,"
        f" {figures.paid_twice} of them answered twice by the provider;"
        f" {monotonic() - began:.0f} s",
    )


def killed_at_random(server: Server, kills: int, acknowledged: Acknowledged) -> list[Round]:
    """Let one run end in peace, which tells how long one lasts; then kill one after the other."""
    moments = Random(SEED)
    with server.client() as client:
        workflow_id = workflow_of(client, STEPS, TEMPLATE)
        began = monotonic()
        first = run_started(client, workflow_id, round="0").json()["id"]
        status = run_ended(client, first)["status"]
    lasts_s = monotonic() - began
    rounds = [Round(number=0, run_id=first, status=status)]
    for number in range(1, kills + 1):
        at = moments.uniform(0, lasts_s)
        rounds.append(killed_at(server, at, workflow_id, number, acknowledged))
    return rounds


def killed_at(
    server: Server, at_s: float, workflow_id: int, number: int, acknowledged: Acknowledged
) -> Round:
    """Kill the server so long after the start of a run, and see that run to its end."""
    with server.client() as client:
        answer = run_started(client, workflow_id, round=str(number))
        acknowledged.note(answer)
        killing = Timer(at_s, server.kill)
        killing.start()
        others = Thread(target=send_commands, args=(server, number, acknowledged))
        others.start()
        killing.join()
        others.join()
    run_id = answer.json()["id"]
    server.start()
    with server.client() as client:
        status = run_ended(client, run_id)["status"]
    return Round(number=number, run_id=run_id, status=status)


def send_commands(server: Server, number: int, acknowledged: Acknowledged) -> None:
    """Register agents and rename them until the server is gone."""
    with server.client() as client:
        try:
            while True:
                answer = made(client, "/api/agents", {"name": f"{number} {monotonic()}"})
                acknowledged.note(answer)
                path = f"/api/agents/{answer.json()['id']}"
                acknowledged.note(client.put(path, json={"description": "seen"}))
        except httpx.TransportError:
            return


# What must hold.


def check_calls(events: list[Json], rounds: list[Round], calls: Path) -> Figures:
    """Hold what is recorded of every step's calls against what the provider has seen."""
    recorded: dict[tuple[int, int], list[Json]] = defaultdict(list)
    for event in events:
        if event["type"].startswith("model_call_"):
            subject = event["data"]["subject"]
            recorded[subject["run_id"], subject["step"]].append(event)
    received, answered = seen_by_provider(calls)
    figures = Figures()
    for told in rounds:
        for step in range(STEPS):
            facts, prompt = recorded[told.run_id, step], f"round {told.number} step {step}"
            requests = check_step(facts, received[prompt])
            figures.in_doubt += requests - 1
            figures.repeated += received[prompt] - 1
            figures.paid_twice += answered[prompt] - 1
    assert sum(received.values()) == len(rounds) * STEPS + figures.repeated
    return figures


def check_step(facts: list[Json], received: int) -> int:
    """See that every try but the last one was marked in doubt before the next; tell the tries."""
    story = [fact["type"].removeprefix("model_call_") for fact in facts]
    doubts = len(story) // 2 - 1
    assert story == ["requested", "in_doubt"] * doubts + ["requested", "completed"]
    ids = [fact["data"]["call_id"] for fact in facts]
    assert ids[::2] == ids[1::2]
    assert [fact["data"].get("repeats") for fact in facts[::2]] == [None, *ids[::2][:-1]]
    # A call in doubt may have been cut off before its first byte was sent; no other one may.
    assert 1 <= received <= doubts + 1
    return doubts + 1


def seen_by_provider(calls: Path) -> tuple[Counter[str], Counter[str]]:
    """Count by prompt the calls that the provider received, and those that it answered."""
    received: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    prompts: dict[int, str] = {}
    for line in calls.read_text().splitlines():
        told = json.loads(line)
        if told["event"] == "received":
            prompts[told["number"]] = told["prompt"]
            received[told["prompt"]] += 1
        elif told["event"] == "answered":
            answered[prompts[told["number"]]] += 1
    return received, answered


def killed_amid(events: list[Json]) -> int:
    """Count the runs that one process began and another one went on with."""
    workers: dict[int, set[str]] = defaultdict(set)
    for event in events:
        if event["type"] == "run_step_started":
            workers[event["data"]["run_id"]].add(event["data"]["worker"])
    return sum(len(names) > 1 for names in workers.values())


def check_acknowledged(events: list[Json], acks: list[Json]) -> None:
    """Find each acknowledged command's events, at the position that was told."""
    by_position = {event["position"]: event for event in events}
    assert list(by_position) == list(range(1, len(events) + 1))
    streams: dict[str, set[str]] = defaultdict(set)
    for event in events:
        streams[event["command_id"]].add(event["stream_id"].rpartition("+")[2])
    assert len(acks) > 0
    for ack in acks:
        assert ack["position"] in by_position, f"lost: {ack}"
        assert str(ack["id"]) in streams[by_position[ack["position"]]["command_id"]]


def check_read_models(folder: Path, head: int) -> None:
    """Rebuild every read model from nothing, and find the same rows byte for byte."""
    engine = open_engine(folder / "read_models.db")
    assert set(positions(engine, PROJECTORS).values()) == {head}
    with engine.connect() as connection:
        live = {projector.name: digest(connection, projector) for projector in PROJECTORS}
    engine.dispose()
    done = automatos(folder, "rebuild", "all")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.split() if len(line) == 64] == list(live.values())
    assert done.stdout.count("the same rows as before") == len(PROJECTORS)
