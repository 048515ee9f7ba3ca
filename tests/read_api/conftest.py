"""A real installation behind a real server: what every test of the API talks to."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from litestar import Litestar

from domain.events import PLATFORM_WORKSPACE, Recorded, WorkspaceId
from infra.composition import Installation, build_app, build_installation
from infra.ids import new_uuid
from infra.server import uvicorn_config
from infra.settings import Settings
from tests.tokens import ISSUER, PARTY, SigningKey

TENANTS = 24
"""Workspaces made beforehand; every test takes one for itself."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Shared and empty: to load the machine's certificates for each client takes longer than a test."""

WAIT_MAX_S = 60.0
"""Longer than anything here takes, on any machine."""


HARDENED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
}
"""Headers of every answer but those of the docs pages."""


class Tenant:
    """A workspace, its key, and a client that sends it."""

    def __init__(self, workspace_id: WorkspaceId, key: str, client: httpx.AsyncClient) -> None:
        self.workspace_id = workspace_id
        self.key = key
        self.http = client

    async def agent(self, name: str = "Ada", **fields: object) -> Any:
        return await self._made("/api/agents", {"name": name, **fields})

    async def workflow(self, name: str = "Research", **fields: object) -> Any:
        return await self._made("/api/workflows", {"name": name, **fields})

    async def three_steps(self) -> Any:
        """Publish a workflow whose steps build on each other."""
        agent = await self.agent("Ada")
        steps = [
            {"agent_id": agent["id"], "prompt_template": "About {input.topic}: tell facts."},
            {"agent_id": agent["id"], "prompt_template": "Shorten: {previous.output}"},
            {"agent_id": agent["id"], "prompt_template": "Title of {steps.step-1.output}"},
        ]
        return await self.workflow(steps=steps, is_active=True)

    async def ended_run(self, workflow_id: int) -> Any:
        """Run a workflow to its end and tell its execution."""
        body = {"input_data": {"topic": "rivers. Rivers flow."}}
        started = await self.http.post(f"/api/workflows/{workflow_id}/execute", json=body)
        assert started.status_code == 202, started.text
        path = f"/api/workflows/executions/{started.json()['id']}"

        async def ended() -> bool:
            return (await self.http.get(path)).json()["status"] not in {"pending", "running"}

        await until(ended)
        return (await self.http.get(path)).json()

    async def _made(self, path: str, body: object) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()


class Served:
    """An installation that answers on a port of this machine.

    Attributes:
        tenants: Made before the server started, to be taken by tests: `pop` one.
        operator: Of the platform workspace.
        closing: Set to end the live streams.
    """

    tenants: list[Tenant]
    operator: Tenant

    def __init__(self, installation: Installation, app: Litestar, url: str) -> None:
        self.installation = installation
        self.app = app
        self.url = url
        self.closing = False
        self._clients: list[httpx.AsyncClient] = []

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {} if key is None else {"X-API-Key": key}
        limits = httpx.Limits(max_connections=400)
        client = httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=WAIT_MAX_S, verify=NO_TLS
        )
        self._clients.append(client)
        return client

    async def tenant(self, workspace_id: WorkspaceId | None = None) -> Tenant:
        """Make a workspace with a key. Before the server starts, so that the key is known."""
        workspace_id = workspace_id or WorkspaceId(new_uuid())
        key = await self.installation.writing.create_key(workspace_id, "test", "tester")
        return Tenant(workspace_id, key, self.client(key))

    async def log(self, tenant: Tenant) -> list[Recorded[Any]]:
        """Read all that is recorded of a tenant."""
        store = self.installation.writing.store
        events: list[Recorded[Any]] = []
        while page := await store.read_workspace(
            tenant.workspace_id, after=events[-1].global_position if events else 0
        ):
            events += page
        return events

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


def assert_problem(answer: httpx.Response, status: int, code: str) -> Any:
    """Insist on a whole problem, with its headers; tell the body."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["detail"]
    assert body["title"]
    assert body["type"] == f"/docs/problems#{code}"
    assert isinstance(body["errors"], list)
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    for name, value in HARDENED.items():
        assert answer.headers[name] == value, name
    return body


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not await condition():  # noqa: ASYNC110 it is on the other side of HTTP
            await asyncio.sleep(0.01)


def clerk_settings(folder: Path, signing: SigningKey) -> Settings:
    """Let people log in by tokens that a key has signed."""
    return Settings(
        data_dir=folder,
        llm_provider="offline",
        clerk_issuer=ISSUER,
        clerk_jwt_key=signing.pem,
        clerk_authorized_parties=PARTY,
    )


@asynccontextmanager
async def serving(
    folder: Path, settings: Settings | None = None, *, tenants: int = 1
) -> AsyncIterator[Served]:
    settings = settings or Settings(data_dir=folder, llm_provider="offline")
    installation = build_installation(settings)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    # Inherited by what is accepted. uvloop sets it, asyncio does not: without it an answer
    # waits 40 ms for the client's delayed acknowledgement of its headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = build_app(installation, closing=lambda: server.should_exit or served.closing)
    served = Served(installation, app, url)
    served.tenants = await asyncio.gather(*(served.tenant() for _ in range(tenants)))
    served.operator = await served.tenant(PLATFORM_WORKSPACE)
    server = uvicorn.Server(uvicorn_config(app))
    task = asyncio.create_task(server.serve(sockets=[listening]))

    async def started() -> bool:
        return server.started or task.done()

    try:
        await until(started)
        yield served
    finally:
        await served.close()
        server.should_exit = True
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Serve one installation to a module's tests, which tell themselves apart by workspace."""
    async with serving(tmp_path_factory.mktemp("served"), tenants=TENANTS) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def alone(tmp_path: Path) -> AsyncIterator[Served]:
    """Serve an installation to one test that will not leave it as it was."""
    async with serving(tmp_path) as made:
        yield made


@pytest.fixture
def tenant(served: Served) -> Tenant:
    return served.tenants.pop()


@pytest.fixture
def other(served: Served) -> Tenant:
    """Give a second workspace, for tests of what keeps two apart."""
    return served.tenants.pop()
