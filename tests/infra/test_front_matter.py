"""The front matter of an agent's file: what is read of it, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.infra.plugin_files import ADA, agent_text, read, refusal


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "line 1: front matter is missing"),
        ("# Ada\n", "line 1: front matter is missing"),
        ("---\nname: ada\n", "line 1: the front matter is not closed"),
        ("---\n---\nBody", "line 2: the front matter is not a mapping"),
        ("---\n- name\n---\nBody", "line 2: the front matter is not a mapping"),
        ("---\njust text\n---\nBody", "line 2: the front matter is not a mapping"),
        (agent_text("description: d"), "line 1: name is required"),
        (agent_text("description: d", "name:"), "line 3: name is required"),
        (agent_text("description: d", "name: ''"), "line 3: name has to be a text"),
        (agent_text("description: d", "name: 7"), "line 3: name has to be a text"),
        (agent_text("description: d", "name: [a]"), "line 3: name has to be a text"),
        (agent_text("name: " + "n" * 256, "description: d"), "line 2: name has to have 1 to 255"),
        (agent_text('name: "a\\nb"', "description: d"), "line 2: name has a control character"),
        (agent_text('name: "a\\x07"', "description: d"), "line 2: name has a control character"),
        (agent_text('name: "a\\u2028b"', "description: d"), "line 2: name has a control character"),
        (agent_text("name: ada"), "line 1: description is required"),
        (agent_text("name: ada", "description: ' '"), "line 3: description has to be a text"),
        (agent_text("name: ada", "description: {}"), "line 3: description has to be a text"),
        (agent_text("name: a", f"description: {'é' * 4097}"), "line 3: description has more than"),
        (agent_text("name: a", "description: d", "model: [a]"), "line 4: model has to be a text"),
        (agent_text("name: a", "description: d", 'model: "a\\tb"'), "line 4: model has a control"),
        (agent_text("name: a", "description: d", "tools: 7"), "line 4: tools has to be"),
        (agent_text("name: a", "description: d", "tools: {a: b}"), "line 4: tools has to be"),
        (agent_text("name: a", "description: d", "tools: [a, 7]"), "line 4: tools has to be"),
        (agent_text("name: a", "description: d", "tools: ['']"), "line 4: a tool has to have 1"),
        (agent_text("name: a", "description: d", "7: x"), "line 4: a key is not a text"),
        (agent_text("name: a", "description: d", "[a]: x"), "line 4: a key is not a text"),
        (agent_text("name: a", "description: d", body=" \n\t"), "line 5: the system prompt"),
        (agent_text("name: a", "description: d", body="x" * 262_145), "line 5: the system prompt"),
        (agent_text("name: a", "description: d", "x: " + "y" * 65_536), "line 1: the front matter"),
    ],
    ids=range(30),
)
def test_front_matter_that_breaks_a_rule_is_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    assert refusal(tmp_path, content).startswith(reason)


def test_what_just_meets_its_bound_is_read(tmp_path: Path) -> None:
    lines = ("name: " + "n" * 255, "description: " + "é" * 4096)
    agent = read(tmp_path, agent_text(*lines, body="x" * 262_144))
    assert len(agent.name) == 255
    assert len(agent.description) == 4096
    assert len(agent.system_prompt) == 262_144


@pytest.mark.parametrize(
    ("written", "tools"),
    [
        ("", ()),
        ("[]", ()),
        ("Read", ("Read",)),
        ("Read, Grep,  Bash ,", ("Read", "Grep", "Bash")),
        ("Bash(git add:*, git push:*), Read", ("Bash(git add:*, git push:*)", "Read")),
        ("Bash(unclosed, Read", ("Bash(unclosed, Read",)),
        ('["Read", "Grep"]', ("Read", "Grep")),
        ("\n  - Read\n  - mcp__a__b", ("Read", "mcp__a__b")),
    ],
)
def test_tools_are_a_list_or_a_text_with_commas(
    tmp_path: Path, written: str, tools: tuple[str, ...]
) -> None:
    content = agent_text("name: ada", "description: Counts.", f"tools: {written}")
    assert read(tmp_path, content).tools == tools


@pytest.mark.parametrize("model", ["opus", "inherit", "claude-opus-4-5-20251101", "openai/gpt-5"])
def test_the_model_is_kept_as_written(tmp_path: Path, model: str) -> None:
    content = agent_text("name: ada", "description: Counts.", f"model: {model}")
    assert read(tmp_path, content).model == model


def test_without_a_model_there_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, ADA).model is None
    assert read(tmp_path, agent_text("name: ada", "description: d", "model:")).model is None


def test_a_description_may_have_several_lines(tmp_path: Path) -> None:
    content = agent_text("name: ada", "description: |", "  Counts.", "  Adds: too.")
    assert read(tmp_path, content).description == "Counts.\nAdds: too."


def test_what_is_not_interpreted_is_kept_as_json(tmp_path: Path) -> None:
    content = agent_text(
        "name: ada",
        "description: Counts.",
        "color: blue",
        "since: 2024-01-31",
        "weight: .nan",
        "nested: {list: [1, 2.5, true, null]}",
    )
    assert read(tmp_path, content).extra == {
        "color": "blue",
        "since": "2024-01-31",
        "weight": None,
        "nested": {"list": [1, 2.5, True, None]},
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x: &a [1, 2]", "line 3: YAML anchors and aliases"),
        ("x: *a", "line 3: YAML anchors and aliases"),
        ("x: !!python/object:os.system {}", "line 3: YAML tags"),
        ("x: !!int seven", "line 3: YAML tags"),
        ("x: " + "[" * 30_000, "line 3: nested deeper than 20"),
        ("<<: {name: bob}", "line 3: a key is not a text"),
    ],
)
def test_yaml_that_could_grow_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    assert refusal(tmp_path, agent_text("name: ada", line, "description: d")).startswith(reason)


def test_a_yaml_bomb_is_refused_before_it_is_built(tmp_path: Path) -> None:
    doublings = [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 200)]
    content = agent_text("name: ada", "description: d", "a0: &a0 [x]", *doublings)
    started = datetime.now(UTC)
    assert refusal(tmp_path, content).startswith("line 4: YAML anchors and aliases")
    assert (datetime.now(UTC) - started).total_seconds() < 5


@pytest.mark.parametrize(
    "lines",
    [
        ("name: ada", "description: d", "name: bob"),
        ("name: ada", "description: Use when: asked", "name: bob"),
        ("name: ada", "inner: {x: 1, x: 2}", "description: d"),
        ("name: ada", "inner: [[{x: 1, x: 2}]]", "description: d"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, lines: tuple[str, ...]) -> None:
    reason = refusal(tmp_path, agent_text(*lines))
    assert reason.startswith("line ")
    assert reason.endswith(" is there twice")


def test_unquoted_colons_are_read_line_by_line(tmp_path: Path) -> None:
    content = agent_text(
        "# in the wild",
        'name: "ada"',
        "",
        "description: Use when: asked. Examples: <user: 'hi'>",
        "model: opus  ",
        'tools: ["Read", "Grep"]',
        "color:",
        "since: 2024-13-45",
        'motto: "half" quoted: yes',
        "bomb: [&a 1, *a]",
    )
    agent = read(tmp_path, content)
    assert agent.name == "ada"
    assert agent.description == "Use when: asked. Examples: <user: 'hi'>"
    assert (agent.model, agent.tools) == ("opus", ("Read", "Grep"))
    assert agent.extra == {
        "color": None,
        "since": "2024-13-45",
        "motto": '"half" quoted: yes',
        "bomb": "[&a 1, *a]",
    }


def test_lines_are_read_by_themselves_only_where_yaml_fails(tmp_path: Path) -> None:
    folded = agent_text("name: ada", "description: Counts", "  and: adds.".replace(":", ""))
    assert read(tmp_path, folded).description == "Counts and adds."


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("name: ada", "description: Use when: asked", "tools:", "  - Read"), "line 3: not YAML"),
        (("name: ada", "description: d", "x: ]", "y"), "line 4: not YAML"),
        (("name: ada", "- x", "description: d"), "line 3: not YAML"),
        (("name: ada", "x y: \x07", "description: d"), "line 3: not YAML: a control character"),
        (("name: ada", "x y: 2024-13-45", "description: d"), "line 2: not YAML: a date or number"),
        (("name: ada", "x y: " + "9" * 5000), "line 2: not YAML: a date or number"),
    ],
    ids=range(6),
)
def test_what_neither_reading_takes_is_refused_where_yaml_failed(
    tmp_path: Path, lines: tuple[str, ...], reason: str
) -> None:
    assert refusal(tmp_path, agent_text(*lines)).startswith(reason)
