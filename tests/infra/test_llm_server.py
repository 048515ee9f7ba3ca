"""The fake provider as a process of its own, which suites of crashes rely on."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

import pytest

from commands.processes.model_calls import ModelCallError
from tests.llm_calls import models_at_url, question
from tests.llm_server import answer_text


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def url(log: Path) -> Iterator[str]:
    yield from served(log)


def served(log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.llm_server", "--port", "0", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def control(url: str, told: object) -> dict[str, Any]:
    with urlopen(Request(f"{url}/control", data=json.dumps(told).encode())) as answer:
        return cast("dict[str, Any]", json.load(answer))


def lines_of(log: Path, url: str) -> list[dict[str, Any]]:
    """Read the log when the server is idle: it writes the last line after it has answered."""
    with urlopen(f"{url}/control"):
        return [json.loads(line) for line in log.read_text().splitlines()]


async def test_calls_are_written_down_before_and_after_they_are_answered(
    url: str, log: Path
) -> None:
    models = models_at_url(url)
    await models.complete(question("openai", stream=True))
    control(url, {"behaviours": [{"status": 429, "retry_after": "3"}]})
    with pytest.raises(ModelCallError) as caught:
        await models.complete(question("anthropic", stream=False, prompt="Again?"))
    answer = await models.complete(question("anthropic", stream=False, prompt="Again?"))
    await models.close()
    assert caught.value.retry_after_s == 3
    assert answer.text == answer_text("claude-opus-5", "Again?")
    lines = lines_of(log, url)
    assert [(line["number"], line["event"], line.get("status")) for line in lines] == [
        (1, "received", None),
        (1, "answered", 200),
        (2, "received", None),
        (2, "answered", 429),
        (3, "received", None),
        (3, "answered", 200),
    ]
    assert lines[2]["prompt"] == "Again?"
    assert lines[2]["model"] == "claude-opus-5"
    assert control(url, {})["count"] == 3


async def test_numbers_go_on_after_a_restart(log: Path) -> None:
    for _ in range(2):
        for url in served(log):
            models = models_at_url(url)
            await models.complete(question("openai", stream=False))
            await models.close()
            numbers = [line["number"] for line in lines_of(log, url)]
    assert numbers == [1, 1, 2, 2]
