import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from infra import claude_format, front_matter
from infra.claude_format import (
    MODEL_ALIASES,
    AgentFile,
    Found,
    NotAPlugin,
    Refused,
    find_agents,
    model_of,
)

MARKETPLACE = Path(__file__).parents[3] / "shared" / "data" / "marketplace"

ADA = "---\nname: ada\ndescription: Counts.\n---\nYou count.\n"


def write(file: Path, content: str | bytes = ADA) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def agent_text(*front_matter: str, body: str = "You count.") -> str:
    return "\n".join(("---", *front_matter, "---", body))


def only_agent(found: Found) -> AgentFile:
    assert found.refused == ()
    (agent,) = found.agents
    return agent


def read(folder: Path, content: str | bytes) -> AgentFile:
    return only_agent(find_agents(write(folder / "ada.md", content)))


def refusal(folder: Path, content: str | bytes) -> str:
    found = find_agents(write(folder / "ada.md", content))
    assert found.agents == ()
    (refused,) = found.refused
    assert refused.path == "ada.md"
    return refused.reason


def keys(found: Found) -> list[str]:
    return [agent.key for agent in found.agents]


def plugin(folder: Path, **manifest: object) -> Path:
    write(folder / ".claude-plugin" / "plugin.json", json.dumps({"name": "tools", **manifest}))
    return folder


def marketplace(folder: Path, *plugins: object, name: object = "bazaar") -> Path:
    manifest = json.dumps({"name": name, "plugins": plugins})
    write(folder / ".claude-plugin" / "marketplace.json", manifest)
    return folder


# What a path may lead to


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    content = agent_text(
        "name: Ada Lovelace",
        "description: Counts things.",
        "model: opus",
        "tools: Read, Grep",
        "color: blue",
        body="\n# Ada\n\nYou count.\n",
    )
    assert read(tmp_path, content) == AgentFile(
        key="ada",
        name="Ada Lovelace",
        description="Counts things.",
        model="opus",
        tools=("Read", "Grep"),
        system_prompt="# Ada\n\nYou count.",
        plugin="",
        path="ada.md",
        digest=hashlib.sha256(content.encode()).hexdigest(),
        extra={"color": "blue"},
    )


def test_a_folder_is_read_from_its_agents_folder(tmp_path: Path) -> None:
    write(tmp_path / "agents" / "ada.md")
    write(tmp_path / "other.md")
    agent = only_agent(find_agents(tmp_path))
    assert (agent.key, agent.plugin, agent.path) == ("ada", "", "agents/ada.md")


def test_of_a_bare_folder_the_files_with_front_matter_are_read(tmp_path: Path) -> None:
    write(tmp_path / "ada.md")
    write(tmp_path / "bob.md", b"\xef\xbb\xbf" + ADA.encode())
    write(tmp_path / "README.md", "# Agents\n")
    write(tmp_path / "ada.txt")
    write(tmp_path / "._ada.md", b"\x00\x05\x16\x07")
    found = find_agents(tmp_path)
    assert keys(found) == ["ada", "bob"]
    assert found.refused == ()


def test_a_plugin_is_read_from_its_agents_folder(tmp_path: Path) -> None:
    write(plugin(tmp_path) / "agents" / "ada.md")
    agent = only_agent(find_agents(tmp_path))
    assert (agent.key, agent.plugin, agent.path) == ("tools/ada", "tools", "agents/ada.md")


def test_a_plugin_without_agents_is_a_plugin_nonetheless(tmp_path: Path) -> None:
    assert find_agents(plugin(tmp_path)) == Found(agents=(), refused=())


@pytest.mark.parametrize("written", ["./more", ["./more/"], ["./more/bob.md"]])
def test_the_paths_of_a_manifest_supplement_the_agents_folder(
    tmp_path: Path, written: object
) -> None:
    write(plugin(tmp_path, agents=written) / "agents" / "ada.md")
    write(tmp_path / "more" / "bob.md")
    found = find_agents(tmp_path)
    assert keys(found) == ["tools/ada", "tools/bob"]
    assert found.refused == ()


def test_a_manifest_may_name_the_agents_folder_again(tmp_path: Path) -> None:
    write(plugin(tmp_path, agents=["./agents", "./agents/ada.md"]) / "agents" / "ada.md")
    assert keys(find_agents(tmp_path)) == ["tools/ada"]
    assert find_agents(tmp_path).refused == ()


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("more", "has to start with './'"),
        ("/etc", "has to start with './'"),
        ("../more", "has to start with './'"),
        ("./../more", "'..'"),
        ("./a\\b", "backslashes"),
        ("./a\x00b", "control characters"),
        ("./a\ud800b", "control characters"),
        ("./absent", "no such folder"),
        ("./" + "a" * 5000, "name too long"),
        ("./plain.txt", "no such folder"),
    ],
)
def test_a_path_that_a_manifest_may_not_name_is_refused(
    tmp_path: Path, written: str, reason: str
) -> None:
    write(plugin(tmp_path, agents=written) / "agents" / "ada.md")
    write(tmp_path / "plain.txt")
    found = find_agents(tmp_path)
    assert keys(found) == ["tools/ada"]
    (refused,) = found.refused
    assert reason in refused.reason.replace("File", "file")


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ('{"name": "tools",\n\n}', "line 3: not JSON"),
        ("{}", "missing required field `name`"),
        ("[]", "Expected `object`"),
        ('{"name": "Not Kebab"}', "$.name"),
        ('{"name": "tools\\n"}', "$.name"),
        ('{"name": "tools", "agents": 1}', "$.agents"),
        ('{"name": "tools", "agents": [1]}', "$.agents"),
        ("[" * 100_000, "nesting too deep"),
        ("9" * 5000, "number too long"),
        (b'{\n"name": "\xff"}', "line 2: not UTF-8"),
        (" " * (front_matter.FILE_BYTES_MAX + 1), "more than 1,048,576 bytes"),
    ],
    ids=range(11),
)
def test_a_bad_manifest_refuses_the_plugin(
    tmp_path: Path, manifest: str | bytes, reason: str
) -> None:
    write(tmp_path / "agents" / "ada.md")
    write(tmp_path / ".claude-plugin" / "plugin.json", manifest)
    found = find_agents(tmp_path)
    assert found.agents == ()
    (refused,) = found.refused
    assert refused.path == ".claude-plugin/plugin.json"
    assert reason in refused.reason


def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write(tmp_path / "agents" / "ada.md")
    write(tmp_path / ".claude-plugin" / "plugin.json", b'\xef\xbb\xbf{"name": "tools"}')
    assert keys(find_agents(tmp_path)) == ["tools/ada"]


def test_a_marketplace_is_read_with_all_its_plugins(tmp_path: Path) -> None:
    marketplace(
        tmp_path,
        {"name": "tools", "source": "./plugins/tools"},
        {"name": "unlisted", "source": "./plugins/without-manifest"},
    )
    write(plugin(tmp_path / "plugins" / "tools") / "agents" / "ada.md")
    write(tmp_path / "plugins" / "without-manifest" / "agents" / "ada.md")
    found = find_agents(tmp_path)
    assert found.refused == ()
    assert [(a.key, a.plugin, a.path) for a in found.agents] == [
        ("bazaar/tools/ada", "tools", "plugins/tools/agents/ada.md"),
        ("bazaar/unlisted/ada", "unlisted", "plugins/without-manifest/agents/ada.md"),
    ]


def test_a_marketplace_may_be_its_own_plugin(tmp_path: Path) -> None:
    write(marketplace(tmp_path, {"name": "tools", "source": "./"}) / "agents" / "ada.md")
    assert keys(find_agents(tmp_path)) == ["bazaar/tools/ada"]


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        ({"name": "far", "source": {"source": "github", "repo": "a/b"}}, "far is not local"),
        ({"name": "far", "source": "https://example.com/a.git"}, "far is not local"),
        ({"name": "far", "source": "plugins/far"}, "far is not local"),
        ({"name": "far", "source": "./../far"}, "'..'"),
        ({"name": "far", "source": "./absent"}, "not a folder"),
        ({"name": "far"}, "missing required field `source`"),
        ({"name": "a/b", "source": "./far"}, "$.name"),
        (7, "Expected `object`"),
    ],
)
def test_a_listing_that_cannot_be_read_is_refused_alone(
    tmp_path: Path, listing: object, reason: str
) -> None:
    write(marketplace(tmp_path, listing, {"name": "tools", "source": "./"}) / "agents" / "ada.md")
    found = find_agents(tmp_path)
    assert keys(found) == ["bazaar/tools/ada"]
    (refused,) = found.refused
    assert refused.path == ".claude-plugin/marketplace.json"
    assert refused.reason.startswith("plugins[0]: ")
    assert reason in refused.reason


@pytest.mark.parametrize("name", [None, "", "a/b", "..", "a\n"])
def test_a_marketplace_whose_name_cannot_be_in_a_key_is_refused(
    tmp_path: Path, name: object
) -> None:
    (refused,) = find_agents(marketplace(tmp_path, name=name)).refused
    assert "$.name" in refused.reason


def test_a_marketplace_lists_no_more_plugins_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = [{"name": "tools", "source": "./"}] * (claude_format.PLUGINS_MAX + 1)
    (refused,) = find_agents(marketplace(tmp_path, *listings)).refused
    assert "length <= 1000" in refused.reason


@pytest.mark.parametrize("name", ["absent", "absent.md", "a\x00b", "a" * 5000])
def test_a_path_to_nothing_is_not_a_plugin(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotAPlugin, match=r"does not exist|cannot be read"):
        find_agents(tmp_path / name)


def test_a_file_of_another_kind_is_not_a_plugin(tmp_path: Path) -> None:
    with pytest.raises(NotAPlugin, match=r"neither a folder nor a \.md file"):
        find_agents(write(tmp_path / "ada.txt"))


def test_a_folder_of_other_things_is_not_a_plugin(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "# Nothing here\n")
    with pytest.raises(NotAPlugin, match="holds no agents"):
        find_agents(tmp_path)


# The front matter


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


# The file


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + agent_text("name: ada", "description: d", body="a\nb").replace(
        "\n", "\r\n"
    ).encode("utf-8")
    agent = read(tmp_path, content)
    assert (agent.name, agent.system_prompt) == ("ada", "a\nb")
    assert agent.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ADA.encode() + b"\xff", "line 6: not UTF-8"),
        (ADA.encode("utf-16"), "line 1: not UTF-8"),
        (ADA + "a\0b", "line 6: a NUL character"),
        (ADA + "x" * front_matter.FILE_BYTES_MAX, "more than 1,048,576 bytes"),
    ],
    ids=range(4),
)
def test_a_file_that_is_not_a_text_of_bounded_size_is_refused(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    assert refusal(tmp_path, content) == reason


def test_a_file_over_the_bound_is_not_read_to_its_end(tmp_path: Path) -> None:
    with write(tmp_path / "ada.md").open("r+b") as sparse:
        sparse.truncate(1 << 40)
    (refused,) = find_agents(tmp_path / "ada.md").refused
    assert refused.reason == "more than 1,048,576 bytes"


def test_two_files_with_one_key_are_one_agent_and_one_refusal(tmp_path: Path) -> None:
    write(plugin(tmp_path, agents="./more") / "agents" / "ada.md")
    write(tmp_path / "more" / "ada.md")
    found = find_agents(tmp_path)
    assert [agent.path for agent in found.agents] == ["agents/ada.md"]
    reason = "its key 'tools/ada' is that of agents/ada.md"
    assert found.refused == (Refused(path="more/ada.md", reason=reason),)


def test_a_bad_file_leaves_the_others_alone(tmp_path: Path) -> None:
    write(plugin(tmp_path) / "agents" / "bad.md", "no front matter")
    write(tmp_path / "agents" / "ada.md")
    found = find_agents(tmp_path)
    assert keys(found) == ["tools/ada"]
    assert [refused.path for refused in found.refused] == ["agents/bad.md"]


def test_symlinks_that_lead_outside_are_refused(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", plugin(tmp_path / "inside", agents="./more")
    write(outside / "bob.md")
    write(inside / "agents" / "ada.md")
    (inside / "agents" / "bob.md").symlink_to(outside / "bob.md")
    (inside / "more").symlink_to(outside)
    found = find_agents(inside)
    assert keys(found) == ["tools/ada"]
    assert {refused.path for refused in found.refused} == {"agents/bob.md", "more"}
    assert {refused.reason for refused in found.refused} == {"is a symlink that leads outside"}


def test_manifests_and_plugins_behind_symlinks_that_lead_outside_are_refused(
    tmp_path: Path,
) -> None:
    outside, inside = plugin(tmp_path / "outside"), tmp_path / "inside"
    write(outside / "agents" / "ada.md")
    marketplace(
        inside, {"name": "whole", "source": "./whole"}, {"name": "half", "source": "./half"}
    )
    (inside / "whole").symlink_to(outside)
    (inside / "half").mkdir()
    (inside / "half" / ".claude-plugin").symlink_to(outside / ".claude-plugin")
    found = find_agents(inside)
    assert found.agents == ()
    assert [refused.reason for refused in found.refused] == ["is a symlink that leads outside"] * 2


def test_symlinks_that_stay_inside_are_followed(tmp_path: Path) -> None:
    write(plugin(tmp_path) / "agents" / "ada.md")
    (tmp_path / "agents" / "bob.md").symlink_to("ada.md")
    assert keys(find_agents(tmp_path)) == ["tools/ada", "tools/bob"]


def test_the_path_itself_may_be_a_symlink(tmp_path: Path) -> None:
    write(plugin(tmp_path / "real") / "agents" / "ada.md")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert keys(find_agents(tmp_path / "link")) == ["tools/ada"]
    (tmp_path / "bob.md").symlink_to(tmp_path / "real" / "agents" / "ada.md")
    assert keys(find_agents(tmp_path / "bob.md")) == ["bob"]


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    agents = write(plugin(tmp_path) / "agents" / "ada.md").parent
    os.mkfifo(agents / "fifo.md")
    (agents / "folder.md").mkdir()
    (agents / "loop.md").symlink_to("loop.md")
    (agents / "dangling.md").symlink_to("absent")
    found = find_agents(tmp_path)
    assert keys(found) == ["tools/ada"]
    assert {refused.path: refused.reason for refused in found.refused} == {
        "agents/dangling.md": "is not a regular file",
        "agents/fifo.md": "is not a regular file",
        "agents/folder.md": "is not a regular file",
        "agents/loop.md": "is a symlink that leads to itself",
    }


@pytest.mark.parametrize("name", [b"a\xff.md", b"a\x1b[2J.md", b"a\n.md"])
def test_a_file_name_that_cannot_be_shown_is_refused_and_shown_escaped(
    tmp_path: Path, name: bytes
) -> None:
    write(tmp_path / "agents" / os.fsdecode(name))
    found = find_agents(tmp_path)
    (refused,) = found.refused
    assert found.agents == ()
    assert refused.path.isprintable()
    assert "the file name has a control character" in refused.reason
    msgspec.json.encode(found)


def test_no_more_files_are_read_than_the_bound(tmp_path: Path) -> None:
    write(plugin(tmp_path, agents="./more") / "agents" / "ada.md")
    (tmp_path / "more").mkdir()
    for n in range(claude_format.FILES_MAX):
        (tmp_path / "more" / f"{n}.md").touch()
    found = find_agents(tmp_path)
    assert keys(found) == ["tools/ada"]
    (refused,) = found.refused
    assert refused.path == "more"
    assert refused.reason.startswith("more than 10,000 files")


# Whatever is written


yaml_like = st.text(st.sampled_from("name:description \n-[]{}&*!|>'\"#,\\x0129éu<=%@`\t\r"))
contents = st.one_of(
    st.binary(),
    st.builds(lambda header, body: b"---\n" + header + b"\n---\n" + body, st.binary(), st.binary()),
    st.builds(
        lambda header: f"---\nname: a\ndescription: d\n{header}\n---\nBody".encode(), yaml_like
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arbitrary")


@given(content=contents)
def test_no_bytes_of_a_file_raise(folder: Path, content: bytes) -> None:
    found = find_agents(write(folder / "ada.md", content))
    assert len(found.agents) + len(found.refused) == 1
    assert msgspec.json.decode(msgspec.json.encode(found), type=Found) == found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
manifests = st.one_of(
    st.binary(),
    st.builds(
        lambda name, agents, plugins: json.dumps(
            {"name": name, "agents": agents, "plugins": plugins}
        ).encode(),
        st.just("tools") | json_values,
        st.text(st.sampled_from("./a\\\0\ud800é")) | json_values,
        st.lists(
            st.fixed_dictionaries(
                {"name": st.just("tools") | json_values, "source": st.just("./") | json_values}
            )
            | json_values
        ),
    ),
)


@given(content=manifests, kind=st.sampled_from(["plugin.json", "marketplace.json"]))
def test_no_bytes_of_a_manifest_raise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    top = tmp_path_factory.mktemp("arbitrary")
    write(top / "agents" / "ada.md")
    write(top / ".claude-plugin" / kind, content)
    found = find_agents(top)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Found) == found


# The models


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (None, None),
        ("inherit", None),
        ("opus", ("anthropic", MODEL_ALIASES["opus"])),
        ("sonnet", ("anthropic", MODEL_ALIASES["sonnet"])),
        ("haiku", ("anthropic", MODEL_ALIASES["haiku"])),
        ("claude-opus-4-5-20251101", ("anthropic", "claude-opus-4-5-20251101")),
        ("gpt-5.1", ("openai", "gpt-5.1")),
        ("o3", ("openai", "o3")),
        ("o4-mini", ("openai", "o4-mini")),
        ("openai/gpt-5", ("openai", "gpt-5")),
        ("anthropic/claude-opus-4-5", ("anthropic", "claude-opus-4-5")),
        ("huggingface/meta-llama/Llama-3.3", ("huggingface", "meta-llama/Llama-3.3")),
        ("offline/echo", ("offline", "echo")),
        ("mystery/model", None),
        ("openai/", None),
        ("/gpt-5", None),
        ("claude-", None),
        ("gpt-", None),
        ("other", None),
        ("", None),
        ("Opus", None),
        ("claude-opus 4", None),
        ("gpt-5\n", None),
    ],
)
def test_a_model_name_is_led_back_to_its_provider(
    name: str | None, model: tuple[str, str] | None
) -> None:
    assert model_of(name) == model


@pytest.mark.parametrize("alias", MODEL_ALIASES)
def test_every_alias_stands_for_a_model_with_a_price(alias: str) -> None:
    price = calc_price(Usage(input_tokens=1000), MODEL_ALIASES[alias], provider_id="anthropic")
    assert price.model.id == MODEL_ALIASES[alias]
    assert price.total_price > 0


# The real one


@pytest.mark.skipif(not MARKETPLACE.is_dir(), reason="the marketplace is not beside the project")
def test_every_agent_of_the_real_marketplace_is_found() -> None:
    found = find_agents(MARKETPLACE)
    assert found.refused == ()
    assert len(found.agents) == 23
    written = {
        path.relative_to(MARKETPLACE).as_posix() for path in MARKETPLACE.rglob("agents/*.md")
    }
    assert {agent.path for agent in found.agents} == written
    assert all(agent.key.startswith("claude-code-workflows/") for agent in found.agents)
    assert {agent.model for agent in found.agents} == {"opus", "sonnet", "inherit"}
