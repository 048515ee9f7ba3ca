"""The command line as people and scripts meet it: in processes of their own."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic

import httpx
import pytest

from infra.agent_import import import_agents
from infra.composition import PROJECTORS
from infra.lock import FolderLock
from infra.read_store import open_engine
from infra.settings import Settings
from infra.writing import build_writing
from tests.e2e.installation import automatos, exported, serving, until

KEY_VALID_MAX_S = 10.0
"""Two seconds by design; the rest is for a busy machine."""

AGENT_FILE = "---\nname: {name}\ndescription: Reviews\n---\nYou are {name}.\n"
BROKEN_FILE = "---\nname: [\n---\nNo.\n"
COMMANDS = ("agents", "demo", "doctor", "events", "keys", "rebuild", "serve")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """Give a folder with two agents and a file that is none."""
    folder = tmp_path / "agents"
    folder.mkdir()
    for name in ("reviewer", "writer"):
        (folder / f"{name}.md").write_text(AGENT_FILE.format(name=name))
    (folder / "broken.md").write_text(BROKEN_FILE)
    return folder


@pytest.fixture
def history(data: Path, agents: Path) -> int:
    """Record something; tell how many events that was."""
    writing = build_writing(Settings(data_dir=data))

    async def record() -> int:
        await import_agents(writing, await writing.local_workspace(), agents / "writer.md")
        return await writing.store.head()

    head = asyncio.run(record())
    writing.close()
    return head


def count(data: Path) -> int:
    with closing(sqlite3.connect(data / "events.db")) as database:
        return int(database.execute("SELECT count(*) FROM stored_events").fetchone()[0])


def test_help_names_every_command_and_what_it_is_for(data: Path) -> None:
    told = automatos(data, "--help")
    assert told.returncode == 0
    lines = [line.strip(" │").split(maxsplit=1) for line in told.stdout.splitlines()]
    described = {line[0]: line[1] for line in lines if len(line) == 2}
    assert all(described.get(name) for name in COMMANDS)
    assert not data.exists()


def test_an_unknown_command_is_refused(data: Path) -> None:
    refused = automatos(data, "sevre")
    assert refused.returncode == 2
    assert "No such command 'sevre'" in refused.stderr


# Keys.


def test_a_new_key_is_printed_alone_and_opens_a_running_server_soon(
    data: Path, record_property: Callable[[str, object], None]
) -> None:
    with serving(data, LLM_PROVIDER="offline") as server:
        made = automatos(data, "keys", "create", "--name", "second", "--holder", "Ada")
        assert made.returncode == 0
        assert made.stderr == ""
        key = made.stdout.removesuffix("\n")
        assert key.startswith("atk_live_")
        assert "\n" not in key
        assert key != server.key
        with httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=30) as client:
            began = monotonic()
            until(
                lambda: client.get("/api/agents").status_code == 200,
                "the key is valid",
                timeout_s=KEY_VALID_MAX_S,
            )
    record_property("figure", f"cli: a new key opened the server {monotonic() - began:.2f} s later")


def test_a_revoked_key_opens_nothing(data: Path) -> None:
    with serving(data, LLM_PROVIDER="offline") as server:
        key_id = server.key.split("_")[2]
        with httpx.Client(base_url=server.url, timeout=30) as client:
            client.headers["X-API-Key"] = server.key
            assert client.get("/api/agents").status_code == 200
            revoked = automatos(data, "keys", "revoke", key_id)
            assert revoked.stdout == f"API key {key_id} is revoked\n"
            until(
                lambda: client.get("/api/agents").status_code == 401,
                "the key is refused",
                timeout_s=KEY_VALID_MAX_S,
            )
    unknown = automatos(data, "keys", "revoke", "nosuchkey0")
    assert unknown.returncode == 2
    assert unknown.stderr == "automatos: API key not found: nosuchkey0\n"


def test_a_key_without_a_name_is_refused(data: Path) -> None:
    refused = automatos(data, "keys", "create", "--name", "")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == "automatos: A key's name has 1 to 100 characters.\n"


# Agents.


def test_an_import_reports_each_file_and_fails_for_one_that_is_refused(
    data: Path, agents: Path
) -> None:
    done = automatos(data, "agents", "import", str(agents))
    assert done.returncode == 1
    assert done.stdout == "3 agent files: 2 registered\n1 refused:\n"
    assert done.stderr.strip().startswith("broken.md: ")
    assert len(done.stderr.splitlines()) == 1
    head = count(data)
    again = automatos(data, "agents", "import", str(agents))
    assert again.returncode == 1
    assert again.stdout == "3 agent files: 2 unchanged\n1 refused:\n"
    assert count(data) == head


def test_an_import_of_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    refused = automatos(data, "agents", "import", str(tmp_path / "nowhere"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("automatos: ")
    assert len(refused.stderr.splitlines()) == 1


# Events.


def test_the_log_is_exported_as_one_json_object_a_line(
    data: Path, history: int, tmp_path: Path
) -> None:
    events = exported(data)
    assert [event["position"] for event in events] == list(range(1, history + 1))
    file = tmp_path / "log.ndjson"
    done = automatos(data, "events", "export", "--out", str(file), "--after", "1")
    assert done.stdout == f"{history - 1} events written to {file}\n"
    assert [json.loads(line) for line in file.read_text().splitlines()] == events[1:]


def test_the_newest_events_are_shown_one_a_line(data: Path, history: int) -> None:
    lines = automatos(data, "events", "tail", "-n", "2").stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [history - 1, history]


def test_an_event_is_shown_whole(data: Path, history: int) -> None:
    shown = automatos(data, "events", "show", "1")
    assert json.loads(shown.stdout) == exported(data)[0]
    refused = automatos(data, "events", "show", str(history + 1))
    assert refused.returncode == 2
    assert refused.stderr == f"automatos: There is no event at position {history + 1}.\n"


# Read models.


def test_read_models_are_rebuilt_one_or_all(data: Path, history: int) -> None:
    one = automatos(data, "rebuild", "agents")
    assert one.returncode == 0
    assert one.stdout.startswith(f"agents: rebuilt up to position {history}, from position 0")
    every = automatos(data, "rebuild", "all")
    assert every.returncode == 0
    rebuilt = [line.partition(":")[0] for line in every.stdout.splitlines() if ": rebuilt" in line]
    assert rebuilt == [projector.name for projector in PROJECTORS]
    assert f"agents: rebuilt up to position {history}, the same rows as before" in every.stdout


def test_wrong_rows_are_told_when_they_are_replaced(data: Path, history: int) -> None:
    automatos(data, "rebuild", "agents")
    with closing(sqlite3.connect(data / "read_models.db")) as database, database:
        database.execute("UPDATE agents SET name = 'forged'")
    mended = automatos(data, "rebuild", "agents")
    assert "NOT the rows it had before" in mended.stdout
    assert "the same rows as before" in automatos(data, "rebuild", "agents").stdout


def test_an_unknown_read_model_is_refused_with_the_names_of_all(data: Path) -> None:
    refused = automatos(data, "rebuild", "agnets")
    assert refused.returncode == 2
    assert "no read model called 'agnets': agents, workflows" in refused.stderr


def test_a_second_rebuild_at_the_same_time_is_refused(data: Path) -> None:
    held = FolderLock(data, "rebuild")
    refused = automatos(data, "rebuild", "all")
    held.release()
    assert refused.returncode == 2
    assert refused.stderr.startswith("automatos: Another automatos rebuild (process ")


# Doctor.


def test_the_doctor_finds_an_installation_healthy_and_shows_no_secret(
    data: Path, history: int
) -> None:
    automatos(data, "rebuild", "all")
    told = automatos(data, "doctor", OPENAI_API_KEY="sk-secret")
    assert told.returncode == 0
    assert "FAIL" not in told.stdout
    assert f"{history} events, file intact" in told.stdout
    assert "read models: all up to date" in told.stdout
    assert "sk-secret" not in told.stdout
    assert "(set)" in told.stdout


@pytest.mark.parametrize(
    ("file", "check"),
    [("events.db", "log"), ("read_models.db", "read models"), ("keys.db", "keys")],
)
def test_the_doctor_finds_a_damaged_file(data: Path, history: int, file: str, check: str) -> None:
    open_engine(data / "read_models.db").dispose()
    for path in data.glob(f"{file}*"):
        path.unlink()
    (data / file).write_bytes(b"damaged " * 1_000)
    told = automatos(data, "doctor")
    assert told.returncode == 1
    assert f"FAIL  {check}: file is not a database" in told.stdout
    assert "Traceback" not in told.stderr


def test_the_doctor_misses_the_keys_of_a_log(data: Path, history: int) -> None:
    (data / "keys.db").unlink()
    told = automatos(data, "doctor")
    assert told.returncode == 1
    assert "FAIL  keys: keys.db is missing" in told.stdout


# Demo.


def test_the_demo_completes_twice_in_one_folder_and_imports_nothing_twice(data: Path) -> None:
    for _ in range(2):
        told = automatos(data, "demo")
        assert told.returncode == 0, told.stderr
        assert "== Result: completed" in told.stdout
        logged = [line for line in told.stdout.splitlines() if line.startswith("  the log has")]
        assert len(logged) == 2
        assert logged[0] == logged[1]
    assert " unchanged" in told.stdout
    assert " registered" not in told.stdout
    types = [event["type"] for event in exported(data)]
    assert types.count("run_completed") == 2
    assert types.count("workflow_drafted") == 1
    asked = automatos(
        data, "events", "show", str(types.index("model_call_requested") + 1), "--texts"
    )
    assert "\n== prompt\nState what is failing" in asked.stdout
