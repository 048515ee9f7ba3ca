"""Who may import whom: import-linter's contracts, and the domain's diet read from its source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import configuration
from importlinter.application import use_cases
from importlinter.application.user_options import UserOptions

ROOT = Path(__file__).resolve().parents[2]
DIET = {"domain", "msgspec"}
CONTRACTS = {
    "domain imports nothing of ours and no framework",
    "the write side and the read side do not know each other",
    "only infra touches the world",
    "requests flow down",
}


def contracts(config: Path) -> UserOptions:
    """Read the contracts; a layer whose module is not written yet does not count."""
    configuration.configure()
    options = use_cases.read_user_options(str(config))
    for contract in options.contracts_options:
        if "layers" in contract:
            contract["layers"] = [
                layer if "." not in layer or _is_written(config.parent, layer) else f"({layer})"
                for layer in contract["layers"]
            ]
    return options


def _is_written(root: Path, module: str) -> bool:
    path = root.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def broken(options: UserOptions) -> list[str]:
    """Name the contracts that do not hold."""
    use_cases._register_contract_types(options)
    report = use_cases.create_report(options, cache_dir=None)
    assert not report.could_not_run, report.invalid_contract_options
    return [
        contract.name for contract, check in report.get_contracts_and_checks() if not check.kept
    ]


def foreign(source: str, *, depth: int = 1) -> Iterator[str]:
    """Give each import that is neither the standard library's nor on the domain's diet.

    Args:
        source: A module's text.
        depth: How many packages the module is in; a relative import may climb no higher.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(level=0, module=str(module)):
                modules = [module]
            case ast.ImportFrom(level=level) if level > depth:
                modules = ["." * level]
            case _:
                continue
        for module in modules:
            if module.split(".")[0] not in sys.stdlib_module_names | DIET:
                yield f"line {node.lineno}: {module}"


def test_the_contracts_between_the_packages_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    options = contracts(ROOT / "pyproject.toml")
    assert {contract["name"] for contract in options.contracts_options} >= CONTRACTS
    assert broken(options) == []


def test_the_domain_imports_the_standard_library_and_msgspec_only() -> None:
    domain = ROOT / "domain"
    found = {
        str(path.relative_to(ROOT)): imports
        for path in sorted(domain.rglob("*.py"))
        if (
            imports := list(
                foreign(path.read_text("utf-8"), depth=len(path.parent.relative_to(ROOT).parts))
            )
        )
    }
    assert found == {}


BROKEN_ON_PURPOSE = """
[tool.importlinter]
root_packages = ["low_side", "high_side"]

[[tool.importlinter.contracts]]
name = "low does not look up"
type = "layers"
layers = ["high_side.not_written", "high_side", "low_side"]

[[tool.importlinter.contracts]]
name = "they never meet"
type = "independence"
modules = ["low_side", "high_side"]
"""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("", "", []),
        ("", "import low_side", ["they never meet"]),
        ("import high_side", "", ["low does not look up", "they never meet"]),
    ],
)
def test_a_broken_contract_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: str, high: str, expected: list[str]
) -> None:
    for name, source in (("low_side", low), ("high_side", high)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
    config = tmp_path / "pyproject.toml"
    config.write_text(BROKEN_ON_PURPOSE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert broken(contracts(config)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import litestar",
        "import json, litestar.types",
        "from sqlalchemy import select",
        "def late():\n    import infra.settings",
        "from commands import transact",
        "from .. import commands",
        "if TYPE_CHECKING:\n    import httpx",
    ],
)
def test_a_foreign_import_is_found(source: str) -> None:
    assert len(list(foreign(source))) == 1


def test_the_domains_diet_is_let_through() -> None:
    source = (
        "import json\nimport msgspec.json\nfrom domain.agents import archive\nfrom . import runs"
    )
    assert list(foreign(source)) == []
