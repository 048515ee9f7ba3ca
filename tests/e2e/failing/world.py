"""Where a process fails: its folder, the servers that it needs, the point, and its successors."""

import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import pytest

from infra.failpoints import VARIABLE
from infra.postgres.migrations import migrate
from infra.settings import Settings
from infra.supervisor import EXIT_AT_ONCE
from tests.e2e.failing.nursery import Child, Nursery
from tests.e2e.installation import WAIT_MAX_S
from tests.relaying import PARTITIONS

PATIENCE_S = 5.0
"""How long a process that serves is given to pass a point more than once; not all are."""


AT_STOP = {
    "lease.before_release",
    "lease.after_release",
    "supervisor.stopping",
    "supervisor.before_kill",
}
"""Points that are passed when a process is told to stop, or told so again."""


class World:
    """A folder, servers where they are asked for, and a point at which to be killed."""

    def __init__(
        self, nursery: Nursery, folder: Path, request: pytest.FixtureRequest, point: str, hit: int
    ) -> None:
        self.folder, self.point, self.hit = folder, point, hit
        self.data = folder / "data"
        self.acknowledged = folder / "acknowledged"
        self._nursery = nursery
        self._request = request
        self._children: list[Child] = []

    def server(self, fixture: str) -> str:
        return str(self._request.getfixturevalue(fixture))

    def database(self) -> dict[str, str]:
        url = self.server("postgres_url")
        migrate(url)
        return {"DATABASE_URL": url, "AUTOMATOS_KAFKA_PARTITIONS": str(PARTITIONS)}

    def settings(self, chosen: dict[str, str]) -> Settings:
        return Settings.from_env({"DATA_DIR": str(self.data)} | chosen)

    def start(self, *arguments: str, **settings: str) -> Child:
        output = self.folder / f"{len(self._children)}.out"
        self._children.append(self._nursery.start(output, *arguments, **settings))
        return self._children[-1]

    def run(self, *arguments: str, **settings: str) -> str:
        """Have a command do all it has to do; give what it tells."""
        child = self.start(*arguments, **settings)
        assert child.wait() == 0, child.output
        return child.output

    def wanted(self, later: int = 0) -> dict[str, str]:
        """Spell where to be killed: so many passages later than this world's."""
        return {VARIABLE: f"{self.point}:{self.hit + later}:kill"}

    def fail(self, *arguments: str, **settings: str) -> Child:
        return self.start(*arguments, **settings, **self.wanted())

    def killed(
        self,
        child: Child,
        meanwhile: Callable[[], object] = lambda: None,
        *,
        surely: bool = True,
    ) -> None:
        """Do something again and again until a process is killed at the point.

        Not every point is passed more than once: then a process may end, or is killed later.
        """
        surely, began = surely and self.hit == 1, monotonic()
        while not child.has_ended(0.05):
            meanwhile()
            if not surely and monotonic() - began > PATIENCE_S:
                child.kill()
            assert monotonic() - began < WAIT_MAX_S, f"{self.point} in vain: {child.output}"
        expected = {-signal.SIGKILL} if surely else {-signal.SIGKILL, 0, EXIT_AT_ONCE}
        assert child.wait() in expected, child.output

    def end(self) -> None:
        for child in self._children:
            child.kill()


Scenario: TypeAlias = Callable[[World], None]


def part_of(point: str) -> str:
    return point.partition(".")[0]


def told_to_stop(world: World, child: Child, once: str) -> None:
    """Ask a process to end, if that is when it passes the point, once it has said something."""
    if world.point in AT_STOP and once in child.output:
        child.send(signal.SIGTERM)
