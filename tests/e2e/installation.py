"""A real installation in processes of its own: served, killed, asked on the command line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

from tests.llm_server import LlmServer

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-m")

WAIT_MAX_S = 60.0
"""Longer than anything here takes, on any machine."""

POLL_S = 0.01
NOT_OURS = re.compile(r"^(AUTOMATOS_.*|.*API_KEY|DATA_DIR|LLM_.*|LOG_LEVEL|PORT)$")

Json = dict[str, Any]


def until(condition: Callable[[], object], what: str, *, timeout_s: float = WAIT_MAX_S) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    deadline = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline, f"waited {timeout_s:.0f} s in vain until {what}"
        sleep(POLL_S)


UNLIMITED = {
    f"AUTOMATOS_RATE_LIMIT_{of}": "0" for of in ("PER_IP", "PER_PRINCIPAL", "WRITES", "BAD_KEYS")
} | {"AUTOMATOS_RUNS_PER_WORKSPACE": "0"}
"""What `automatos api` limits unless told otherwise; a test of limits sets its own."""


def environment(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Give a process nothing of ours but what a test sets."""
    others = {name: value for name, value in os.environ.items() if not NOT_OURS.match(name)}
    return others | {"DATA_DIR": str(folder), "PORT": "0"} | UNLIMITED | dict(settings)


def asking(llm: LlmServer) -> dict[str, str]:
    """Spell the settings of an installation whose only provider is a test's own."""
    return {
        "AUTOMATOS_OPENAI_BASE_URL": f"{llm.url}/v1",
        "OPENAI_API_KEY": "sk-of-a-test",
        "LLM_PROVIDER": "openai",
        "LLM_MODEL": "gpt-5-mini",
    }


def automatos(folder: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    return subprocess.run(
        [*PYTHON, "infra", *arguments],
        cwd=ROOT,
        env=environment(folder, settings),
        capture_output=True,
        text=True,
        timeout=WAIT_MAX_S,
        check=False,
    )


def exported(folder: Path) -> list[Json]:
    """Read the whole log."""
    done = automatos(folder, "events", "export")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Server:
    """`automatos serve` on a folder, started and killed at will.

    Attributes:
        url: Of the newest process.
        key: Shown by the first one.
        outputs: What each process has written, in order.

    Args:
        module: What to run instead of `automatos` itself.
    """

    def __init__(self, folder: Path, module: str = "infra", **settings: str) -> None:
        self.folder = folder
        self._module = module
        self.url = ""
        self.key = ""
        self.outputs: list[Path] = []
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        return self.outputs[-1].read_text()

    def start(self) -> None:
        """Start a process and wait until it is healthy."""
        self.launch()
        until(self._is_healthy, "the server is healthy")

    def launch(self) -> None:
        """Start a process, and wait until it tells where it listens."""
        output = self.folder.with_name(f"{self.folder.name}-{len(self.outputs)}.out")
        self.outputs.append(output)
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [*PYTHON, self._module, "serve"],
                cwd=ROOT,
                env=environment(self.folder, self._settings),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        until(self._has_greeted, "the server tells its address")

    def _has_greeted(self) -> bool:
        assert self.process.poll() is None, f"the server has ended: {self.output}"
        found = re.search(r"serves (\S+)", self.output)
        if found is None or "API key" not in self.output:
            return False
        self.url = found[1]
        shown = re.search(r"atk_live_\w+", self.output)
        self.key = shown[0] if shown else self.key
        return True

    def _is_healthy(self) -> bool:
        assert self.process.poll() is None, f"the server has ended: {self.output}"
        return httpx.get(f"{self.url}/health", timeout=WAIT_MAX_S).status_code == 200

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": self.key}, timeout=WAIT_MAX_S)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait(WAIT_MAX_S)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.terminate()

    def wait(self, timeout_s: float = WAIT_MAX_S) -> int:
        """Wait for the process's end, and tell its exit code."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        self.terminate()
        assert self.wait() == 0, self.output

    def clean_up(self) -> None:
        """End what is left; pytest shows what the processes wrote if the test failed."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        for output in self.outputs[-3:]:
            sys.stdout.write(f"--- {output.name}\n{output.read_text()[-20_000:]}\n")


@contextmanager
def serving(folder: Path, module: str = "infra", **settings: str) -> Iterator[Server]:
    server = Server(folder, module, **settings)
    try:
        server.start()
        yield server
    finally:
        server.clean_up()


def made(client: httpx.Client, path: str, body: object) -> httpx.Response:
    """Carry out a command that must succeed."""
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    return answer


def workflow_of(client: httpx.Client, steps: int, template: str) -> int:
    """Publish a workflow of one agent; `{step}` in the template becomes the step's number."""
    agent_id = made(client, "/api/agents", {"name": f"Worker of {steps} steps"}).json()["id"]
    body = {
        "name": f"Work in {steps} steps",
        "is_active": True,
        "steps": [
            {"agent_id": agent_id, "prompt_template": template.replace("{step}", str(number))}
            for number in range(steps)
        ],
    }
    return int(made(client, "/api/workflows", body).json()["id"])


def run_started(client: httpx.Client, workflow_id: int, **given: object) -> httpx.Response:
    return made(client, f"/api/workflows/{workflow_id}/execute", {"input_data": given})


def run_ended(client: httpx.Client, run_id: int) -> Json:
    """Wait for a run's end and give it."""
    found: list[Json] = []

    def ended() -> bool:
        answer = client.get(f"/api/workflows/executions/{run_id}")
        assert answer.is_success, answer.text
        found.append(answer.json())
        return bool(found[-1]["status"] != "running")

    until(ended, f"run {run_id} has ended")
    return found[-1]
