"""The pages agree with the code: links, settings, bounds, refusals and the catalog of events."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import commands.transact
import domain.errors
import read_api.errors
from commands.transact import CommandError
from docs.catalog import BEGIN, END, PAGE, written
from domain.errors import DomainError
from infra.settings import SECRETS, UNPREFIXED, Settings
from read_api.errors import ApiError, of_api, of_command, of_domain
from read_api.problems import explained

ROOT = Path(__file__).resolve().parents[2]
LINES_MAX = 200
HERE = {".venv", "node_modules"}

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part in HERE or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
GUIDES = sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def anchors(page: str) -> set[str]:
    """Give the names under which a page's headings can be linked to, as code hosts make them."""
    found = (match["text"].lower() for match in _HEADING.finditer(_FENCED.sub("", page)))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in found}


def broken(name: str, page: str, root: Path = ROOT) -> Iterator[str]:
    """Name the links that lead nowhere in the project."""
    for match in _LINK.finditer(_FENCED.sub("", page)):
        path, _, anchor = match["target"].partition("#")
        if ":" in path:
            continue
        target = (root / name).parent / path if path else root / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            yield match["target"]


def rows(page: str, heading: str) -> Iterator[list[str]]:
    """Give the cells of the first table under a heading, without its head."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def codes(page: str) -> dict[str, str]:
    """Give the status under which the page lists each code."""
    return {
        code: cells[0]
        for cells in rows(page, "Refusals")
        for code in re.findall(r"`(\w+)`", cells[1])
    }


def statuses() -> dict[str, int]:
    """Tell with which status each refusal of ours is answered."""
    families: tuple[tuple[ModuleType, type[Exception], Callable[[Any], Any]], ...] = (
        (domain.errors, DomainError, of_domain),
        (commands.transact, CommandError, of_command),
        (read_api.errors, ApiError, of_api),
    )
    found: dict[str, int] = {}
    for module, base, answer in families:
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
                error: Any = kind.__new__(kind)
                error.pointer = None
                found[error.code] = answer(error).status_code
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert list(broken(name, text(name))) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One thing, here\n```\n# not a heading\n```\n")
    good = "[a](a.md) [b](a.md#one-thing-here) [c](https://example.com/x)\n```\n[d](none.md)\n```\n"
    assert list(broken("b.md", good, tmp_path)) == []
    bad = "[a](none.md) [b](a.md#not-a-heading)"
    assert list(broken("b.md", bad, tmp_path)) == ["none.md", "a.md#not-a-heading"]


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_stays_short(name: str) -> None:
    assert len(text(name).splitlines()) <= LINES_MAX


def test_no_page_names_this_machine_or_a_registry() -> None:
    pages = [str(ROOT / name) for name in PAGES]
    check = [sys.executable, str(ROOT / ".ci" / "addresses.py"), *pages]
    found = subprocess.run(check, capture_output=True, text=True, check=False, env=os.environ)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_catalog_of_events_is_current() -> None:
    page = PAGE.read_text("utf-8")
    assert page == written(page), "write it again with `python -m docs.catalog`"


def test_a_stale_catalog_is_found() -> None:
    stale = f"# Page\n{BEGIN}\n| `agent_renamed` 1 |\n{END}the rest\n"
    made = written(stale)
    assert "agent_renamed" not in made
    assert "`agent_registered` 1" in made
    assert made.endswith(f"{END}the rest\n")


def test_the_settings_are_those_of_the_code() -> None:
    told = {cells[0]: cells[1].strip("`") for cells in rows(text("docs/operator.md"), "Settings")}
    defaults = Settings()
    known = {
        f"`{name.upper()}`{' *' if name.upper() in UNPREFIXED else ''}": value
        for name, value in defaults.shown().items()
    }
    assert told == {n: "" if n.strip("`* ").lower() in SECRETS else v for n, v in known.items()}


@pytest.mark.parametrize("cells", list(rows(text("docs/operator.md"), "Limits")), ids=str)
def test_a_bound_has_the_value_that_is_told(cells: list[str]) -> None:
    module, _, name = cells[0].strip("`").rpartition(".")
    assert getattr(import_module(module), name) == int(cells[1])


def test_every_refusal_is_told_and_no_other() -> None:
    assert set(codes(text("docs/frontend.md"))) == set(explained())


def test_refusals_are_told_with_their_status() -> None:
    told = codes(text("docs/frontend.md"))
    wrong = {c: s for c, s in statuses().items() if str(s) not in told[c].split(", ")}
    assert wrong == {}
