"""Secrets planted wherever something comes in, and looked for wherever something goes out."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.collector import Collector
from tests.e2e.installation import Server, asking, made, run_ended, run_started, until, workflow_of
from tests.e2e.installation import serving as served_in
from tests.llm_server import Behaviour, LlmServer

PUBLIC = "A name for everybody"


class Secrets:
    """What was planted, by where."""

    def __init__(self) -> None:
        self._planted: dict[str, str] = {}

    def plant(self, where: str, prefix: str = "") -> str:
        """Give a secret that nobody has, to be put there."""
        return self._planted.setdefault(where, f"{prefix}canary{secrets.token_hex(12)}")

    def know(self, where: str, secret: str) -> None:
        """Look also for a secret that the server has made."""
        self._planted[where] = secret

    def found_in(self, output: bytes) -> list[str]:
        """Tell where what an output holds was planted."""
        return [where for where, secret in self._planted.items() if secret.encode() in output]


class Watched:
    """A client that looks into every answer."""

    def __init__(self, client: httpx.Client, planted: Secrets) -> None:
        self.client = client
        self._planted = planted

    def send(self, method: str, path: str, expected: int, **sent: Any) -> httpx.Response:
        answer = self.client.request(method, path, **sent)
        assert answer.status_code == expected, answer.text
        head = repr(answer.headers.raw).encode()
        assert self._planted.found_in(answer.content + head) == [], (method, path, answer.text)
        return answer


@pytest.fixture
def collector() -> Iterator[Collector]:
    collecting = Collector()
    yield collecting
    collecting.server.shutdown()
    collecting.server.server_close()


def test_secrets_that_come_in_anywhere_come_out_nowhere(
    collector: Collector, tmp_path: Path
) -> None:
    planted, folder = Secrets(), tmp_path / "data"
    with ExitStack() as stack:
        llm = stack.enter_context(LlmServer())
        settings = asking(llm) | {
            "OPENAI_API_KEY": planted.plant("a provider's key", "sk-"),
            "ANTHROPIC_API_KEY": planted.plant("a key of a provider that is not asked", "sk-ant-"),
            "API_KEY": planted.plant("the key of the environment"),
            "LOG_LEVEL": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "CLERK_ISSUER": "https://clerk.invalid",
            "CLERK_AUTHORIZED_PARTIES": "https://app.invalid",
        }
        server = stack.enter_context(served_in(folder, **settings))
        watched = Watched(stack.enter_context(closing(server.client())), planted)
        in_headers(server, planted)
        in_requests(watched, planted)
        of_things(watched, planted)
        at_a_provider(watched, llm)
        for path in ("/metrics", "/api/health/endpoints", "/api/system/config", "/api/events"):
            watched.send("GET", path, watched.client.get(path).status_code)
        server.stop()
        planted.know("the first key", server.key)
        shown = server.output.replace(server.key, "", 1)
    assert planted.found_in(shown.encode()) == []
    until(lambda: collector.bodies, "traces have come")
    assert planted.found_in(b"".join(collector.bodies)) == []
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    # What is no secret is found: so is one that is not kept.
    assert any(PUBLIC.encode() in file.read_bytes() for file in files)
    assert '"path": "/api/agents"' in shown
    assert any(b"/api/agents" in body for body in collector.bodies)
    for file in files:
        assert planted.found_in(file.read_bytes()) == [], file.name


def in_headers(server: Server, planted: Secrets) -> None:
    """Send credentials that are not valid in every form, and some where none belong."""
    bad = planted.plant("a key that is not valid", "atk_live_0123456789abcdef_")
    token = "eyJhbGciOiJSUzI1NiJ9." + planted.plant("a token that is not valid", "eyJ") + ".c2ln"
    forms = [
        {"X-API-Key": bad},
        {"Authorization": f"Bearer {bad}"},
        {"Authorization": f"ApiKey {bad}"},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": "Basic " + planted.plant("a password")},
        {"Cookie": "session=" + planted.plant("a cookie")},
    ]
    with httpx.Client(base_url=server.url) as client:
        watched = Watched(client, planted)
        for headers in forms:
            watched.send("GET", "/api/agents", 401, headers=headers)
        ticket = {"ticket": planted.plant("a ticket"), "api_key": planted.plant("a query")}
        watched.send("GET", "/api/events/stream", 401, params=ticket)
        watched.send("GET", "/api/agents", 401, params=ticket)


def in_requests(watched: Watched, planted: Secrets) -> None:
    """Send requests that fail in each way."""
    secret = planted.plant("a body that is refused")
    watched.send("POST", "/api/agents", 400, content=f'{{"name": "{secret}')
    watched.send("POST", "/api/agents", 400, json={"name": 1, "api_key": secret})
    watched.send("POST", "/api/agents", 400, json={"name": "A", "agent_type": {"x": secret}})
    watched.send("POST", "/api/agents", 413, content=secret + "x" * 2_000_000)
    watched.send("POST", "/api/invitations/accept", 403, json={"token": secret})
    watched.send("GET", "/api/agents/1", 404, params={"token": secret})
    watched.send("PATCH", "/api/agents", 405, json={"password": secret})
    watched.send("GET", "/api/none", 404, headers={"X-Secret": secret})
    key = {"Idempotency-Key": planted.plant("an idempotency key")}
    watched.send("POST", "/api/agents", 201, json={"name": PUBLIC}, headers=key)
    watched.send("POST", "/api/agents", 422, json={"name": "Bob"}, headers=key)


def of_things(watched: Watched, planted: Secrets) -> None:
    """Make what is secret: keys, invitations, sealed settings."""
    key = made(watched.client, "/api/api-keys", {"name": "second", "scopes": ["read"]}).json()
    planted.know("a key that was made", key["key"])
    watched.send("GET", "/api/api-keys", 200)
    sent = {"email": "new@x.org", "role": "viewer"}
    invited = made(watched.client, "/api/workspaces/current/invitations", sent).json()
    planted.know("an invitation", invited["token"])
    watched.send("GET", "/api/workspaces/current/invitations", 200)
    value = planted.plant("a sensitive setting")
    setting = {"category": "mail", "key": "password", "value": value, "is_sensitive": True}
    answer = watched.send("POST", "/api/system-settings", 201, json=setting)
    changed = {"value": planted.plant("a sensitive setting, changed")}
    watched.send("PUT", f"/api/system-settings/{answer.json()['id']}", 200, json=changed)
    watched.send("GET", "/api/system-settings", 200)


def at_a_provider(watched: Watched, llm: LlmServer) -> None:
    """Have a provider refuse the key, and repeat it."""
    llm.next(*[Behaviour(status=401, echo_key=True)] * 3)
    run = run_started(watched.client, workflow_of(watched.client, 1, "Say it."))
    ended = run_ended(watched.client, run.json()["id"])
    assert ended["status"] == "failed"
    watched.send("GET", f"/api/workflows/executions/{ended['id']}", 200)
