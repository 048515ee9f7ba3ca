"""Processes killed at every named point, and started again: each part keeps its promises.

The points are collected from the source, so that a new one is walked without being told of here.
What comes before the dot names the part, and with it the scenarios that get a process there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.architecture.test_failpoints import points, sources
from tests.e2e.failing.nursery import Nursery
from tests.e2e.failing.operating import diagnosing, exporting, importing, relaying, supervising
from tests.e2e.failing.projecting import (
    bringing_back,
    migrating,
    projecting,
    rebuilding_in_a_folder,
    rebuilding_in_postgres,
)
from tests.e2e.failing.recording import appending_to_a_folder, appending_to_postgres, serving
from tests.e2e.failing.world import Scenario, World, part_of

HITS = (1, *(pytest.param(hit, marks=pytest.mark.long) for hit in range(2, 6)))


SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "api": (serving,),
    "checkpoint": (relaying,),
    "doctor": (diagnosing,),
    "endpoint_statistics": (serving,),
    "export": (exporting,),
    "folder": (appending_to_a_folder,),
    "heartbeat": (projecting,),
    "import": (importing,),
    "keys": (appending_to_a_folder,),
    "lease": (projecting,),
    "llm": (serving,),
    "lock": (diagnosing,),
    "log": (appending_to_postgres,),
    "migrate": (migrating,),
    "park": (projecting,),
    "partitions": (relaying,),
    "projector": (projecting,),
    "read_models": (serving,),
    "rebuild": (rebuilding_in_a_folder, rebuilding_in_postgres),
    "relay": (relaying,),
    "sqlite": (appending_to_a_folder,),
    "supervisor": (supervising,),
    "topic": (relaying,),
    "unpark": (bringing_back,),
    "wakes": (projecting,),
}
"""What gets a process to the points of each part."""


def all_points() -> list[str]:
    return [name for file in sources() for name in points(file.read_text("utf-8"))]


def cases() -> Iterator[Any]:
    for point in all_points():
        for scenario in SCENARIOS.get(part_of(point), ()):
            yield pytest.param(point, scenario, id=f"{point}-{scenario.__name__}")


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


def test_every_point_has_a_scenario() -> None:
    assert {part_of(point) for point in all_points()} == set(SCENARIOS)


@pytest.mark.parametrize("hit", HITS)
@pytest.mark.parametrize(("point", "scenario"), list(cases()))
def test_a_process_killed_at_any_point_keeps_its_promises(
    point: str,
    scenario: Scenario,
    hit: int,
    nursery: Nursery,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    world = World(nursery, tmp_path, request, point, hit)
    try:
        with capture_logs():
            scenario(world)
    finally:
        world.end()
