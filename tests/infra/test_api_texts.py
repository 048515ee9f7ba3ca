"""What PostgreSQL's text cannot hold is refused before it is asked."""

from pathlib import Path

from tests.api_processes import asking, projected
from tests.read_api.conftest import assert_problem

NUL = "%00"


REQUESTS = (
    ("GET", f"/api/agents?search=a{NUL}", "", "bad_parameter"),
    ("GET", f"/api/agents?tag={NUL}", "", "bad_parameter"),
    ("GET", f"/api/workflows?q={NUL}", "", "bad_parameter"),
    ("GET", f"/api/events?stream={NUL}", "", "bad_parameter"),
    ("GET", f"/api/workflows/executions/exec{NUL}", "", "bad_parameter"),
    ("POST", f"/api/workflows/executions/exec{NUL}/cancel", "", "bad_parameter"),
    ("POST", "/api/agents", r'{"name": "a\u0000"}', "bad_body"),
)


async def test_no_text_with_u_0000_gets_as_far_as_the_database(
    postgres_url: str, tmp_path: Path
) -> None:
    async with (
        projected(postgres_url, tmp_path) as installation,
        asking(installation, tmp_path) as client,
    ):
        for method, path, body, code in REQUESTS:
            assert_problem(await client.request(method, path, content=body), 400, code)
