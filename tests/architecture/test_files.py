"""What is locked is locked once, and no file ties the project to a place."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOREIGN_LOCKS = ("uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json", "yarn.lock")
LOCKED = ("requirements.txt", "requirements-dev.txt")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


addresses = _script("addresses")
skipped = _script("skipped")


def foreign_locks(root: Path) -> list[str]:
    return [name for name in FOREIGN_LOCKS if (root / name).exists()]


def loose(requirements: str) -> Iterator[str]:
    """Give each line that names an address or an option, and each release without a hash."""
    for entry in re.split(r"(?<!\\)\n", requirements):
        line = entry.strip()
        pinned = "==" in line and "--hash=sha256:" in line
        loosened = "://" in line or " @ " in line or line.startswith("-")
        if loosened or not (pinned or line.startswith("#") or not line):
            yield line


def test_there_is_no_second_lock() -> None:
    assert foreign_locks(ROOT) == []


@pytest.mark.parametrize("name", LOCKED)
def test_everything_is_locked_with_hashes_and_without_addresses(name: str) -> None:
    assert list(loose((ROOT / name).read_text("utf-8"))) == []


def test_what_runs_is_what_is_tested() -> None:
    runtime, development = (
        set(re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in LOCKED
    )
    assert runtime < development


def test_a_second_lock_is_found(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").touch()
    assert foreign_locks(tmp_path) == ["uv.lock"]


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "--no-binary :all:",
        "msgspec @ https://packages.example/msgspec.whl",
        "msgspec==0.20.0",
        "msgspec>=0.20 \\\n    --hash=sha256:00",
    ],
)
def test_a_loose_requirement_is_found(line: str) -> None:
    locked = "typer==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n    # via automatos\n"
    assert list(loose(locked)) == []
    assert len(list(loose(locked + line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "https://" + "py" + "pi.org/simple",
        "registry." + "npm" + "js.org",
        "see /" + "work/main/README.md",
        "home = '/" + "root/.cache'",
        "https://mirror.example:8080/simple",
    ],
)
def test_an_address_is_found(line: str) -> None:
    assert list(addresses.findings(f"one\n{line}", {"mirror.example"})) == [f"2: {line}"]


def test_what_only_looks_like_an_address_is_let_through() -> None:
    text = "../shared/data and ./work/x, https://example.com/work/1, infra/work/, PyPI, <root>"
    assert list(addresses.findings(text, {"mirror.example"})) == []


def test_a_mirror_is_known_from_the_environment_and_from_pip() -> None:
    environment = {
        "PIP_INDEX_URL": "https://user:secret@one.example/simple",
        "UV_DEFAULT_INDEX": "http://localhost:3141/",
        "HOMEPAGE": "https://example.com",
    }
    config = "global.extra-index-url='https://two.example:8443/simple'"
    assert addresses.mirrors(environment, config) == {"one.example", "two.example"}


def test_a_skipped_test_is_found_and_an_expected_failure_is_not() -> None:
    junit = """<testsuites><testsuite>
        <testcase classname="tests.a" name="ran"/>
        <testcase classname="tests.a" name="known"><skipped type="pytest.xfail"/></testcase>
        <testcase classname="tests.a" name="left">
            <skipped type="pytest.skip" message="no Kafka"/>
        </testcase>
    </testsuite></testsuites>"""
    assert skipped.skipped(junit) == ["tests.a::left: no Kafka"]
