"""What schemathesis generates from our OpenAPI document, and whether the answers keep to it.

It runs in a process of its own, with all its checks, against the real server. Much the most of the
time is its own generation.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.read_api.conftest import Served, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
STREAM = "/api/events/stream"

TAIL = 20_000
"""Characters of its report that a failure shows."""


@pytest.mark.parametrize(
    ("examples", "cases"),
    [
        pytest.param(22, 5_000, id="5000", marks=pytest.mark.timeout(900)),
        pytest.param(850, 50_000, id="50000", marks=[pytest.mark.long, pytest.mark.timeout(7_200)]),
    ],
)
async def test_every_answer_keeps_to_the_document(
    served: Served,
    tenant: Tenant,
    tmp_path: Path,
    record_property: Any,
    examples: int,
    cases: int,
) -> None:
    workflow = await tenant.three_steps()
    await tenant.ended_run(workflow["id"])
    report = await checked(served, tenant, tmp_path, "--exclude-path", STREAM, "-n", str(examples))
    generated = report["test_cases"]["generated"]
    record_property(
        "figure",
        f"schemathesis: {generated} cases of {report['operations']['tested']} operations in"
        f" {report['running_time']:.0f} s, nothing found",
    )
    assert generated >= cases
    assert report["operations"]["tested"] == report["operations"]["total"] - 1
    never = [
        name
        for name, phases in report["valid_rates"].items()
        if name in MUST_BE_REACHED and not any(rate["accepted"] for rate in phases.values())
    ]
    assert set(report["valid_rates"]) >= MUST_BE_REACHED
    assert never == []


MUST_BE_REACHED = {
    "GET /api/agents",
    "GET /api/agents/{agent_id}",
    "GET /api/users/me",
    "GET /api/workflows/executions/{execution_id}",
    "POST /api/agents",
    "POST /api/api-keys",
    "POST /api/workflows",
}
"""Operations of which something must have been accepted, or the run has seen refusals only."""


async def test_the_live_stream_keeps_to_the_document(
    served: Served, tenant: Tenant, tmp_path: Path
) -> None:
    """By itself, while streams end at once: it would wait for the end of each."""
    served.closing = True
    try:
        report = await checked(served, tenant, tmp_path, "--include-path", STREAM, "-n", "20")
    finally:
        served.closing = False
    assert report["operations"]["tested"] == 1
    assert report["test_cases"]["generated"] > 20


async def test_what_operators_read_keeps_to_the_document(served: Served, tmp_path: Path) -> None:
    paths = ["/api/health/endpoints", "/api/system/metrics", "/metrics"]
    included = [f"--include-path={path}" for path in paths]
    report = await checked(served, served.operator, tmp_path, *included, "-n", "20")
    assert len(report["valid_rates"]) == len(paths)
    for name, phases in report["valid_rates"].items():
        assert any(rate["accepted"] for rate in phases.values()), name


async def checked(served: Served, tenant: Tenant, folder: Path, *arguments: str) -> Any:
    """Run schemathesis, insist that it finds nothing, and give its report."""
    report, printed = folder / "report.json", folder / "printed.txt"
    key_id = (await tenant.http.get("/api/users/me")).json()["id"]
    with printed.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("st"),
            f"--config-file={CONFIG}",
            "run",
            f"{served.url}/docs/openapi.json",
            "--report=json",
            f"--report-json-path={report}",
            *arguments,
            cwd=folder,
            env={
                **os.environ,
                "API_KEY": tenant.key,
                "API_KEY_ID": key_id,
                "PYTHONPATH": str(ROOT),
            },
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert code == 0, printed.read_text()[-TAIL:]
    told: Any = json.loads(report.read_text())
    assert (told["complete"], told["failures"], told["errors"]) == (True, [], [])
    assert (await tenant.http.get("/api/users/me")).status_code == 200, "the key was ended"
    return told
