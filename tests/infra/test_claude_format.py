"""Agents found at a path: a file, a folder, a plugin or a marketplace."""

import hashlib
import json
import os
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
from tests.infra.plugin_files import (
    ADA,
    agent_text,
    keys,
    marketplace,
    only_agent,
    plugin,
    read,
    refusal,
    write,
)

MARKETPLACE = Path(__file__).parents[3] / "shared" / "data" / "marketplace"


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
