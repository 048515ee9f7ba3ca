"""Tenants that live side by side, each with a canary in all that it writes."""

import asyncio
import re
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx

CANARY = re.compile(r"canary-[0-9a-f]{12}")
STREAM = "/api/events/stream"

LISTS = (
    "agents",
    "agents/stats",
    "agents/available",
    "workflows",
    "workflows/active",
    "workflows/executions",
    "workflows/stats/dashboard",
    "usage",
    "events",
    "system-settings",
    "system/config",
    "system/agent-statistics",
    "api-keys",
    "users/me",
    "workspaces",
    "workspaces/current",
    "workspaces/current/members",
)


class Bird:
    """One tenant.

    Attributes:
        seen: How many answers held its own canary.
        dropped: How many requests found their connection closed.
        leaks: Answers that held another's, by what was asked.
        ids: What others know it by: of agents, workflows and executions.
    """

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self._random = Random(seed)
        self.canary = f"canary-{self._random.getrandbits(48):012x}"
        self.http = http
        self.asked = self.seen = self.dropped = 0
        self.leaks: list[str] = []
        self.ids: dict[str, list[int]] = {"agents": [], "workflows": [], "workflows/executions": []}

    async def live(self, requests: int, neighbours: Sequence["Bird"]) -> None:
        """Ask for so many things, some of them not its own."""
        for _ in range(requests):
            await self._random.choice([self._write, self._write, self._read, self._look])(
                neighbours
            )

    async def browse(self) -> None:
        """Look at every list, whatever the answer is."""
        for name in LISTS:
            self._note(f"GET {name}", (await self.http.get(f"/api/{name}")).text)

    async def listen(self) -> None:
        """Read the live stream from the beginning until it has told of an own canary, or ends."""
        async with self.http.stream("GET", STREAM, params={"after": 0}) as answer:
            async for line in answer.aiter_lines():
                self._note("stream", line)
                if self.canary in line:
                    return

    async def _write(self, _: Sequence["Bird"]) -> None:
        name = f"{self.canary} {self._random.getrandbits(40):x}"
        agents = self.ids["agents"]
        made: list[tuple[str, str, Any]] = [
            ("agents", "/api/agents", {"name": name, "description": name, "tags": [self.canary]}),
            ("", "/api/system-settings", {"category": "mine", "key": name[-8:], "value": name}),
            ("", "/api/agents", {"name": "", "description": name}),
            ("", "/api/agents", f'{{"name": "{name}", '),
        ]
        if agents:
            steps = [{"agent_id": self._random.choice(agents), "prompt_template": name}]
            body = {"name": name, "steps": steps, "is_active": True}
            made.append(("workflows", "/api/workflows", body))
        for workflow in self.ids["workflows"][-1:]:
            body = {"input_data": {"topic": name}}
            made.append(("workflows/executions", f"/api/workflows/{workflow}/execute", body))
        kind, path, content = self._random.choice(made)
        sent = {"content": content} if isinstance(content, str) else {"json": content}
        answer = await self._ask("POST", path, **sent)
        if kind and answer.is_success:
            self.ids[kind].append(answer.json()["id"])

    async def _read(self, _: Sequence["Bird"]) -> None:
        await self._ask("GET", f"/api/{self._random.choice(LISTS)}")

    async def _look(self, neighbours: Sequence["Bird"]) -> None:
        """Ask for one thing, mostly a neighbour's; and for a page that begins among all others'."""
        whose = self._random.choice([self, *neighbours])
        kind = self._random.choice(list(self.ids))
        if not whose.ids[kind]:
            await self._ask("GET", "/api/events", params={"limit": 3, "cursor": "1"})
            return
        path = f"/api/{kind}/{self._random.choice(whose.ids[kind])}"
        answer = await self._ask("GET", path)
        if whose is not self and answer.is_success:
            self.leaks.append(f"GET {path}: another's is found")

    async def _ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            answer = await self.http.request(method, path, **sent)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # The server has closed an idle connection in the moment that it was used again.
            self.dropped += 1
            answer = await self.http.request(method, path, **sent)
        self.asked += 1
        self._note(f"{method} {path}", answer.text + repr(answer.headers.raw))
        assert answer.status_code < 500, answer.text
        return answer

    def _note(self, what: str, text: str) -> None:
        found = set(CANARY.findall(text))
        self.seen += self.canary in found
        if found - {self.canary}:
            self.leaks.append(what)


async def live_together(birds: Sequence[Bird], requests: int) -> list[str]:
    """Let all ask so many things at once; give what leaked."""
    async with asyncio.TaskGroup() as group:
        for bird in birds:
            neighbours = [other for other in birds if other is not bird]
            group.create_task(bird.live(requests, neighbours))
    return [leak for bird in birds for leak in bird.leaks]
