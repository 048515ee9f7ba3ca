"""The slice is the file name, and our five top-level names are nobody else's."""

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"domain", "commands", "projections", "read_api", "infra"}

# What is no slice. A name that is in the domain, too, does not belong here.
NO_SLICE = {
    "commands": {"names", "processes", "transact"},
    "projections": {"projector"},
    "read_api": {
        "accepted",
        "app",
        "asked",
        "auth",
        "lane",
        "bodies",
        "edge",
        "errors",
        "health",
        "problems",
        "reads",
        "streams",
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


def test_a_clash_is_found() -> None:
    installed = {
        "domain": ["automatos", "domain"],
        "infra": ["automatos"],
        "litestar": ["litestar"],
    }
    assert clashes(installed) == {"domain": ["automatos", "domain"]}


def test_a_stray_module_is_found(tmp_path: Path) -> None:
    for package in OURS:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "agents.py").touch()
    (tmp_path / "read_api" / "app.py").touch()
    (tmp_path / "commands" / "agent.py").touch()
    (tmp_path / "projections" / "plugins").mkdir()
    assert strays(tmp_path) == ["commands/agent", "projections/plugins"]
