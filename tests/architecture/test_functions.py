"""Functions stay short: a median of 8 lines, and none over 70."""

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("domain", "commands", "projections", "read_api", "infra")
ELSEWHERE = {"tests", "data", "node_modules"}
LINES_MAX = 70
LINES_MEDIAN_MAX = 8


class RecordProperty(Protocol):
    def __call__(self, name: str, value: object) -> None: ...


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Give each function's place and lines, its decorators and docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{node.lineno} {node.name}", _lines(node) - _docstring_lines(node)


def too_long(files: Iterable[Path]) -> list[str]:
    return [
        f"{file}:{place}: {count} lines"
        for file in files
        for place, count in lengths(file.read_text("utf-8"))
        if count > LINES_MAX
    ]


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return _lines(node.body[0]) if ast.get_docstring(node, clean=False) is not None else 0


def _sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [
            name
            for name in subfolders
            if name == ".ci" or not (name.startswith(".") or name in ELSEWHERE)
        ]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def test_no_function_is_over_70_lines() -> None:
    assert too_long(_sources(ROOT)) == []


def test_half_of_the_functions_have_at_most_8_lines(record_property: RecordProperty) -> None:
    counts = [
        count
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for _, count in lengths(file.read_text("utf-8"))
    ]
    p90 = quantiles(counts, n=10)[-1]
    record_property(
        "figure",
        f"{len(counts)} functions, lines: median {median(counts):g}, "
        f"90th percentile {p90:.0f}, longest {max(counts)}",
    )
    assert median(counts) <= LINES_MEDIAN_MAX


def test_a_long_function_is_found(tmp_path: Path) -> None:
    def function(lines: int) -> str:
        return "\n".join(
            ["def long():", '    """One.', "", '    Two."""', *["    pass"] * (lines - 1)]
        )

    file = tmp_path / "long.py"
    file.write_text(function(LINES_MAX))
    assert too_long(_sources(tmp_path)) == []
    file.write_text(
        f"class Nest:\n    {function(LINES_MAX + 1).replace(chr(10), chr(10) + '    ')}"
    )
    assert too_long(_sources(tmp_path)) == [f"{file}:2 long: 71 lines"]


def test_a_function_is_counted_without_decorators_and_docstring() -> None:
    source = '@cache\ndef one() -> None:\n    """Say so."""\n\n\nasync def two():\n    return 1\n'
    assert dict(lengths(source)) == {"2 one": 1, "6 two": 2}
