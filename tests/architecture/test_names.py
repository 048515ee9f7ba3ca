"""The slice is the file name, and our five top-level names are nobody else's."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"domain", "commands", "projections", "read_api", "infra"}

# What is no slice. A name that is in the domain, too, does not belong here.
NO_SLICE = {
    "commands": {"names", "processes", "transact"},
    "commands/processes": {"model_calls"},
    "projections": {"projector", "rows"},
    "read_api": {
        "accepted",
        "addresses",
        "app",
        "asked",
        "auth",
        "lane",
        "methods",
        "limits",
        "metrics",
        "bodies",
        "cors",
        "defaults",
        "document",
        "edge",
        "endpoint_statistics",
        "errors",
        "gate",
        "health",
        "money",
        "problems",
        "quotas",
        "raw",
        "reads",
        "standing",
        "streams",
        "system",
        "system_config",
        "texts",
        "tickets",
        "view",
    },
}


def clashes(owners: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Give our names that something installed has as well."""
    return {name: by for name, by in owners.items() if name in OURS and set(by) != {"automatos"}}


def strays(root: Path) -> list[str]:
    """Give modules outside the domain that are named for no slice of it."""
    slices = _modules(root / "domain")
    return sorted(
        f"{package}/{module}"
        for package, others in NO_SLICE.items()
        for module in _modules(root / package) - slices - others
    )


def slice_packages(root: Path) -> list[Path]:
    """Give the slices that outgrew a file: packages of their name."""
    slices = _modules(root / "domain")
    return sorted(
        root / folder / name
        for folder in {"domain", *NO_SLICE}
        for name in slices & _modules(root / folder)
        if (root / folder / name).is_dir()
    )


def reached_into(root: Path) -> list[str]:
    """Give imports that name a part of a slice's package from outside of it.

    What is in which part is the package's own affair, so that a part may be split or moved.
    """
    parts = {
        f"{_dotted(package, root)}.{part}": package
        for package in slice_packages(root)
        for part in _modules(package)
    }
    return sorted(
        f"{file.relative_to(root)}: {part}"
        for file, uses in _sources(root)
        for part, package in parts.items()
        if package not in file.parents and part in uses.modules
    )


def more_than_names(root: Path) -> list[str]:
    """Give the slices' packages whose `__init__` does more than gather names."""
    return [
        str(package.relative_to(root))
        for package in slice_packages(root)
        if not all(
            isinstance(node, ast.ImportFrom | ast.Expr | ast.Assign)
            for node in ast.parse((package / "__init__.py").read_text("utf-8")).body
        )
    ]


def unwanted(root: Path) -> list[str]:
    """Give the names that a slice's package offers and nobody outside of it uses."""
    pages = "".join(page.read_text("utf-8") for page in root.glob("docs/*.md"))
    found: list[str] = []
    for package in slice_packages(root):
        whole = _dotted(package, root)
        used = {
            name
            for file, uses in _sources(root)
            if package not in file.parents
            for name in uses.of(whole)
        }
        found += [f"{whole}.{name}" for name in sorted(_offered(package) - used)]
    return [name for name in found if name not in pages]


def _dotted(package: Path, root: Path) -> str:
    return ".".join(package.relative_to(root).parts)


def _offered(package: Path) -> set[str]:
    tree = ast.parse((package / "__init__.py").read_text("utf-8"))
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imports for alias in node.names}


class Uses(NamedTuple):
    """What a file imports, and the attributes it looks for in names.

    Attributes:
        modules: Whatever an import may have loaded: `from a import b` may be of a module `a.b`.
        known_as: The names under which the file knows what it imports.
    """

    modules: set[str]
    known_as: dict[str, set[str]]
    attributes: dict[str, set[str]]

    def of(self, module: str) -> set[str]:
        """Give the names of a module's that are used here."""
        imported = {
            name.removeprefix(f"{module}.")
            for name in self.modules
            if name.startswith(f"{module}.")
        }
        return imported.union(
            *(self.attributes.get(name, ()) for name in self.known_as.get(module, ()))
        )


def _sources(root: Path) -> Iterator[tuple[Path, Uses]]:
    for folder in sorted(OURS | {"benchmarks", "docs", "tests"}):
        for file in sorted((root / folder).rglob("*.py")):
            yield file, _uses(file.read_text("utf-8"))


@cache
def _uses(source: str) -> Uses:
    uses = Uses(set(), defaultdict(set), defaultdict(set))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                uses.modules.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                uses.modules.add(module)
                for alias in names:
                    uses.modules.add(f"{module}.{alias.name}")
                    uses.known_as[f"{module}.{alias.name}"].add(alias.asname or alias.name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                uses.attributes[name].add(attribute)
            case _:
                pass
    return uses


def _modules(package: Path) -> set[str]:
    return {
        path.stem
        for path in package.iterdir()
        if not path.name.startswith((".", "_")) and (path.suffix == ".py" or path.is_dir())
    }


def test_no_dependency_ships_a_package_of_our_names() -> None:
    """Two packages of one name would shadow each other by sys.path order."""
    assert clashes(packages_distributions()) == {}


def test_a_slice_has_one_name_in_every_package() -> None:
    assert strays(ROOT) == []


def test_nobody_reaches_into_a_slice_that_is_a_package() -> None:
    assert reached_into(ROOT) == []


def test_the_package_of_a_slice_gathers_names_and_does_nothing_else() -> None:
    assert more_than_names(ROOT) == []


def test_a_slice_that_is_a_package_offers_what_is_used_and_no_more() -> None:
    assert unwanted(ROOT) == []


def test_a_clash_is_found() -> None:
    installed = {
        "domain": ["automatos", "domain"],
        "infra": ["automatos"],
        "litestar": ["litestar"],
    }
    assert clashes(installed) == {"domain": ["automatos", "domain"]}


def test_a_stray_module_is_found(tmp_path: Path) -> None:
    _fill(tmp_path)
    (tmp_path / "read_api" / "app.py").touch()
    (tmp_path / "commands" / "agent.py").touch()
    (tmp_path / "projections" / "plugins").mkdir()
    (tmp_path / "commands" / "processes" / "agent_scans.py").touch()
    assert strays(tmp_path) == [
        "commands/agent",
        "commands/processes/agent_scans",
        "projections/plugins",
    ]


def _fill(root: Path, *, package: str | None = None) -> None:
    """Write the slice `agents` everywhere; in one folder as a package, if one is named."""
    for folder in (*sorted(OURS), "commands/processes"):
        (root / folder).mkdir()
        (root / folder / "__init__.py").touch()
        if folder != package:
            (root / folder / "agents.py").touch()
    if package is not None:
        (root / package / "agents").mkdir()
        (root / package / "agents" / "tables.py").write_text("agents = 1\n")


@pytest.mark.parametrize(
    "source",
    [
        "import projections.agents.tables",
        "from projections.agents import tables",
        "from projections.agents.tables import agents",
    ],
)
def test_an_import_that_reaches_into_a_slice_is_found(tmp_path: Path, source: str) -> None:
    _fill(tmp_path, package="projections")
    inside, outside = tmp_path / "projections" / "agents", tmp_path / "read_api"
    (inside / "__init__.py").write_text(source)
    (outside / "view.py").write_text("from projections.agents import agents")
    assert reached_into(tmp_path) == []
    (outside / "agents.py").write_text(source)
    assert reached_into(tmp_path) == ["read_api/agents.py: projections.agents.tables"]


def test_a_package_that_does_more_than_gather_names_is_found(tmp_path: Path) -> None:
    _fill(tmp_path, package="domain")
    start = tmp_path / "domain" / "agents" / "__init__.py"
    start.write_text('"""Agents."""\nfrom domain.agents.tables import agents\n__all__ = ["agents"]')
    assert more_than_names(tmp_path) == []
    start.write_text("def agents() -> None: ...")
    assert more_than_names(tmp_path) == ["domain/agents"]


@pytest.mark.parametrize(
    "use",
    [
        "from domain.agents import agents",
        "from domain import agents\nprint(agents.agents)",
        "from domain import agents as slice\nprint(slice.agents)",
    ],
)
def test_a_name_that_nobody_wants_is_found(tmp_path: Path, use: str) -> None:
    _fill(tmp_path, package="domain")
    start = tmp_path / "domain" / "agents" / "__init__.py"
    start.write_text("from domain.agents.tables import agents")
    assert unwanted(tmp_path) == ["domain.agents.agents"]
    (tmp_path / "commands" / "agents.py").write_text(use)
    assert unwanted(tmp_path) == []
