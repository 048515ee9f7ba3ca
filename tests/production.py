"""A whole installation of the production profile, every process of it killed at will."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, Self

import httpx

from tests.e2e.installation import PYTHON, ROOT, environment, until
from tests.servers.server import Server, free_port

PROCESSES = {
    "api": ("api", "--workers", "2"),
    "relay": ("relay",),
    "projector-1": ("projector",),
    "projector-2": ("projector",),
    "worker": ("worker",),
}


class Process:
    """One of ours, in a process group of its own, started again after each death."""

    def __init__(
        self, name: str, arguments: tuple[str, ...], folder: Path, env: dict[str, str]
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._env = env
        self.output = folder / f"{name}.out"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as file:
            self._running = subprocess.Popen(
                [*PYTHON, "infra", *self._arguments],
                cwd=ROOT,
                env=self._env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        assert self._running is not None
        os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def terminate(self) -> int:
        assert self._running is not None
        self._running.terminate()
        return self._running.wait(60)


class Production:
    """PostgreSQL, Kafka and Redis of its own, and all of our processes."""

    def __init__(self, folder: Path, postgres: Server, kafka: Server, redis: Server) -> None:
        self.servers = {"postgres": postgres, "kafka": kafka, "redis": redis}
        self.port = free_port()
        self.env = environment(
            folder,
            {
                "DATABASE_URL": postgres.url,
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                "REDIS_URL": redis.url,
                "PORT": str(self.port),
                "LOG_LEVEL": "WARNING",
            },
        )
        self.processes = {
            name: Process(name, arguments, folder, self.env)
            for name, arguments in PROCESSES.items()
        }
        self.url = f"http://127.0.0.1:{self.port}"

    def automatos(self, *arguments: str) -> str:
        done = subprocess.run(
            [*PYTHON, "infra", *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def going(self) -> Iterator[str]:
        """Start everything; give an API key."""
        self.automatos("migrate")
        key = self.automatos("keys", "create").strip()
        for process in self.processes.values():
            process.start()
        try:
            self.until_ready()
            yield key
        finally:
            for process in self.processes.values():
                process.kill()

    def until_ready(self) -> None:
        until(self._is_ready, "the API is ready")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill_and_start(self, name: str) -> None:
        victim: Process | Server = self.processes.get(name) or self.servers[name]
        victim.kill()
        victim.start()


class Acknowledged:
    """What the API said it has done, on the disk before anything else happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = path.open("a")
        self._lock = Lock()
        self.count = 0

    def note(self, answer: httpx.Response) -> None:
        line = {"position": int(answer.headers["X-Event-Position"]), "id": answer.json()["id"]}
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.count += 1

    def has(self, count: int) -> bool:
        return self.count >= count

    def all(self) -> list[dict[str, int]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]


class Clients:
    """Threads that send commands without a pause, and retry none."""

    def __init__(self, url: str, key: str, acknowledged: Acknowledged, count: int) -> None:
        self._url, self._key, self._acknowledged = url, key, acknowledged
        self._stop = Event()
        self._threads = [Thread(target=self._send, args=(n,), daemon=True) for n in range(count)]
        self.refused = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _send(self, number: int) -> None:
        sent = 0
        while not self._stop.is_set():
            with httpx.Client(headers={"X-API-Key": self._key}, timeout=30) as client:
                try:
                    while not self._stop.is_set():
                        sent += 1
                        self._command(client, f"{number}-{sent}")
                except httpx.HTTPError:
                    self._stop.wait(0.05)

    def _command(self, client: httpx.Client, name: str) -> None:
        answer = client.post(f"{self._url}/api/agents", json={"name": f"Agent {name}"})
        if answer.status_code == 201:
            self._acknowledged.note(answer)
            return
        assert answer.status_code == 503, answer.text
        self.refused += 1
        self._stop.wait(0.05)
