"""Prometheus can read the metrics, they are true, and they name nobody."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute
from prometheus_client.parser import text_string_to_metric_families

from infra.settings import Settings
from tests.read_api.conftest import Served, assert_problem, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/metrics"
ALLOWED_LABELS = {"endpoint", "status", "le", "projector", "process", "version"}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def measured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("measured")) as made:
        yield made


async def test_requests_streams_events_and_lag_are_told(measured: Served) -> None:
    tenant = measured.tenants[0]
    await tenant.agent()
    await tenant.http.post("/api/agents", json={"name": "ada"})
    async with tenant.http.stream("GET", "/api/events/stream") as stream:
        assert stream.status_code == 200

        async def is_told() -> bool:
            text = (await measured.operator.http.get(PATH)).text
            return 1.0 in [v for (name, _), v in samples(text).items() if "streams_open" in name]

        await until(is_told)
    answer = await measured.operator.http.get(PATH)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.text)
    posted = {"endpoint": "POST /api/agents"}
    assert one(found, "automatos_requests_total", **posted, status="201") == 1
    assert one(found, "automatos_requests_total", **posted, status="409") == 1
    assert one(found, "automatos_request_duration_seconds_count", **posted) == 2
    assert one(found, "automatos_request_duration_seconds_bucket", **posted, le="+Inf") == 2
    assert one(found, "automatos_request_duration_seconds_sum", **posted) > 0
    assert one(found, "automatos_events_appended_total") >= 1
    assert one(found, "automatos_projector_lag_events", projector="agents") == 0
    assert one(found, "automatos_projector_lag_seconds", projector="agents") == 0
    assert {dict(labels).get("process", "").rpartition("/")[2] for _, labels in found} == {
        "",
        str(os.getpid()),
    }


async def test_no_label_names_a_tenant_a_key_or_a_path_that_was_asked_for(measured: Served) -> None:
    tenant = measured.tenants[0]
    agent = await tenant.agent("Labelled")
    await tenant.http.get(f"/api/agents/{agent['id']}")
    await tenant.http.get("/secret-canary?x=secret-canary")
    text = (await measured.operator.http.get(PATH)).text
    assert {name for _, labels in samples(text) for name, _ in labels} <= ALLOWED_LABELS
    for secret in (tenant.workspace_id, tenant.key, str(agent["id"]), "secret-canary", "Labelled"):
        assert secret not in text


async def test_metrics_need_an_operator_s_key_unless_they_are_open_and_may_be_off(
    measured: Served, tmp_path: Path
) -> None:
    assert_problem(await measured.client().get(PATH), 401, "not_authenticated")
    assert_problem(await measured.tenants[0].http.get(PATH), 403, "not_permitted")
    is_open = Settings(data_dir=tmp_path / "open", metrics="open")
    async with serving(is_open.data_dir, is_open) as served:
        assert (await served.client().get(PATH)).status_code == 200
    off = Settings(data_dir=tmp_path / "off", metrics="off")
    async with serving(off.data_dir, off) as served:
        assert_problem(await served.operator.http.get(PATH), 404, "no_such_route")
        assert not [r for r in served.app.routes if isinstance(r, HTTPRoute) and r.path == PATH]


async def test_health_tells_what_the_machine_does(measured: Served) -> None:
    body = (await measured.client().get("/health")).json()
    assert {"api_server", "database", "config"} <= set(body["components"])
    metrics = body["metrics"]
    assert set(metrics) == {"cpu_percent", "memory_used_percent", "memory_available_mb"}
    assert 0 <= metrics["cpu_percent"] <= 100
    assert 0 < metrics["memory_used_percent"] <= 100
    assert metrics["memory_available_mb"] > 1


async def test_in_production_browsers_are_told_to_come_by_https(tmp_path: Path) -> None:
    told = "strict-transport-security"
    production = Settings(data_dir=tmp_path / "production", environment="production")
    async with serving(production.data_dir, production) as served:
        for path in ("/health", "/nope", "/docs/problems"):
            answer = await served.client().get(path)
            assert answer.headers[told] == "max-age=63072000; includeSubDomains"
            assert "server" not in answer.headers
    async with serving(tmp_path / "development") as served:
        assert told not in (await served.client().get("/health")).headers
