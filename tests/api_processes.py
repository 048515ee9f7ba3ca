"""`automatos api` in processes of its own, on a database whose projectors are the test's."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.exc import OperationalError

from commands.transact import CommandError
from domain.events import WorkspaceId
from infra.api import build_api, build_api_app
from infra.composition import PROJECTORS
from infra.follower import Follower
from infra.ids import new_uuid
from infra.postgres.migrations import migrate
from infra.postgres.reads import open_engine
from infra.settings import Settings
from infra.writing import Writing, build_writing
from tests.e2e.installation import ROOT, environment

WAIT_MAX_S = 60.0
"""Longer than anything here takes, on any machine."""

COMMAND = "import typer; from infra.cli.api import api; typer.run(api)"


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    try:
        async with asyncio.timeout(WAIT_MAX_S):
            while not await condition():  # noqa: ASYNC110 it is in another process
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain until {what}") from None


class Installation:
    """A migrated database, a projector of everything, and keys that open workspaces."""

    def __init__(self, writing: Writing, url: str) -> None:
        self.writing = writing
        self.url = url

    async def key(self, workspace_id: WorkspaceId) -> str:
        return await self.writing.create_key(workspace_id, "k", "tester")


@asynccontextmanager
async def projected(url: str, folder: Path) -> AsyncIterator[Installation]:
    """Stand for the projectors' processes: follow the log and keep read models."""
    migrate(url)
    writing = build_writing(Settings(data_dir=folder, database_url=url, kafka_partitions=1))
    engine = open_engine(url)
    follower = Follower(writing.store, engine, PROJECTORS)
    task = asyncio.create_task(_following(follower))
    try:
        yield Installation(writing, url)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        engine.dispose()
        await writing.aclose()


@asynccontextmanager
async def asking(installation: Installation, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with a key, of an API without a port."""
    settings = Settings(data_dir=folder, database_url=installation.url, kafka_partitions=1)
    app = build_api_app(build_api(settings), closing=lambda: False)
    headers = {"X-API-Key": await installation.key(WorkspaceId(new_uuid()))}
    # Each library spells ASGI's types in its own way.
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            base_url="http://api", headers=headers, transport=transport, timeout=WAIT_MAX_S
        ) as client,
    ):
        yield client


async def _following(follower: Follower) -> None:
    """Follow closely, whatever becomes of the database: nobody tells us of others' appends."""
    while True:
        with suppress(CommandError, OperationalError):
            await follower.catch_up()
        await asyncio.sleep(0.02)


class Processes:
    """One supervisor and its workers.

    Attributes:
        url: Of the port that they share.
    """

    def __init__(self, folder: Path, workers: int, **settings: str) -> None:
        self.url = ""
        self._output = folder / f"api-{new_uuid()}.out"
        with self._output.open("wb") as output:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "--workers", str(workers)],
                cwd=ROOT,
                env=environment(folder, settings | {"AUTOMATOS_KAFKA_PARTITIONS": "1"}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def workers(self) -> list[int]:
        """Give the workers' process ids."""
        pid = self.supervisor.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []

    async def ready(self) -> None:
        """Wait until the port answers that requests are welcome."""
        await until(self._has_told, "the supervisor tells its address")
        await until(self._is_ready, f"{self.url} is ready")

    async def _has_told(self) -> bool:
        assert self.supervisor.poll() is None, self.output
        found = re.search(r"serves (\S+)", self.output)
        self.url = found[1] if found else ""
        return bool(found)

    async def _is_ready(self) -> bool:
        assert self.supervisor.poll() is None, self.output
        async with self.client() as client:
            with suppress(httpx.TransportError):
                return (await client.get("/health/ready")).status_code == 200
        return False

    def client(self, key: str = "") -> httpx.AsyncClient:
        """Give a client that connects anew each time, and so to any of the workers."""
        limits = httpx.Limits(max_keepalive_connections=0)
        headers = {"X-API-Key": key} if key else {}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=WAIT_MAX_S
        )

    def terminate(self) -> None:
        self.supervisor.terminate()

    async def wait(self, timeout_s: float = WAIT_MAX_S) -> int:
        """Wait for the supervisor's end, and tell its exit code."""
        return await asyncio.to_thread(self.supervisor.wait, timeout_s)

    def clean_up(self) -> None:
        for pid in [*self.workers, self.supervisor.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.supervisor.wait(WAIT_MAX_S)
        sys.stdout.write(f"--- api\n{self.output[-20_000:]}\n")


@asynccontextmanager
async def serving(
    installation: Installation, folder: Path, workers: int, **settings: str
) -> AsyncIterator[Processes]:
    processes = Processes(folder, workers, DATABASE_URL=installation.url, **settings)
    try:
        await processes.ready()
        yield processes
    finally:
        processes.clean_up()


async def agent(client: httpx.AsyncClient, name: str = "Ada") -> Any:
    answer = await client.post("/api/agents", json={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()
