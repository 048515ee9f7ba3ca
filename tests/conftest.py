"""What every test may use: the long sizes on demand, Hypothesis without a clock, shared data."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# Built on Hypothesis's own default, not on what it picks where CI is set: that one repeats
# the same examples for ever. No deadline, because a busy machine is no finding.
settings.register_profile(
    "ci",
    settings.get_profile("default"),
    deadline=None,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long sizes of slow suites, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long sizes: deselected, since a skipped test fails the CI run."""
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded with `record_property("figure", …)`, from workers as well."""
    reports: Sequence[object] = terminalreporter.stats.get("passed", [])
    for report in reports:
        if isinstance(report, pytest.TestReport):
            for name, value in report.user_properties:
                if name == "figure":
                    terminalreporter.write_line(f"figure: {value}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give `../shared/data`: real input of third parties, beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data beside the checkout: ../{SHARED.parent.name}/{SHARED.name}")
    return SHARED
