"""Files in the Claude plugin format, written and read."""

import json
from pathlib import Path

from infra.claude_format import AgentFile, Found, find_agents

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
