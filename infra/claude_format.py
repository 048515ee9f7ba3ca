"""Reads agents in the Claude plugin format: a file, a folder, a plugin or a marketplace.

What is read was written by others. A bad file is refused by itself, with the
reason and the line, and never keeps the good ones from being read.
"""

import hashlib
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from domain.events import JsonObject
from infra.front_matter import (
    BOM,
    FILE_BYTES_MAX,
    NAME_CHARS_MAX,
    Unfit,
    at_most,
    front_matter,
    single_line,
    split,
    text_of,
)

FILES_MAX = 10_000
PLUGINS_MAX = 1_000
AGENT_PATHS_MAX = 1_000
SYSTEM_PROMPT_BYTES_MAX = 256 * 1024

MARKETPLACE_FILE = Path(".claude-plugin", "marketplace.json")
PLUGIN_FILE = Path(".claude-plugin", "plugin.json")
AGENTS_FOLDER = "agents"

MODEL_ALIASES = {
    "opus": "claude-opus-5-5",
    "sonnet": "claude-sonnet-5-5",
    "haiku": "claude-haiku-5-5",
}
"""The newest of each family that genai-prices 0.2.3 has a price for."""

PROVIDERS = frozenset({"openai", "anthropic", "huggingface", "offline"})


class AgentFile(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as its author wrote it.

    Attributes:
        key: `<marketplace>/<plugin>/<file stem>`, without the parts that do
            not exist; stays when the agent is renamed or reworded.
        model: As written: opus, sonnet, haiku, inherit or a full id.
        plugin: Empty for a file or folder outside of a plugin.
        path: Relative to the path that was searched.
        digest: SHA-256 of the file's bytes, hex.
        extra: The front matter that is not interpreted here.
    """

    key: str
    name: str
    description: str
    model: str | None
    tools: tuple[str, ...]
    system_prompt: str
    plugin: str
    path: str
    digest: str
    extra: JsonObject


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder that was not read, its path relative to the one searched."""

    path: str
    reason: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The agents by key, and the refusals in the order they were met."""

    agents: tuple[AgentFile, ...]
    refused: tuple[Refused, ...]


class NotAPlugin(Exception):
    """The path leads to nothing in the Claude plugin format."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{_printable(str(path))}: {reason}")
        self.path = path
        self.reason = reason


def find_agents(path: Path) -> Found:
    """Read every agent that the path leads to.

    Raises:
        NotAPlugin: The path does not exist, or holds nothing of the kind.
    """
    try:
        search = _search(path)
    except (OSError, RuntimeError) as error:
        raise NotAPlugin(path, f"cannot be read: {error}") from error
    agents = tuple(search.agents[key] for key in sorted(search.agents))
    return Found(agents=agents, refused=tuple(search.refused))


def model_of(name: str | None) -> tuple[str, str] | None:
    """Name the provider and its model; None leaves the choice to whoever runs the agent."""
    if name is None or _MODEL_ID.fullmatch(name) is None:
        return None
    if name in MODEL_ALIASES:
        return "anthropic", MODEL_ALIASES[name]
    provider, slash, model = name.partition("/")
    if slash:
        return (provider, model) if provider in PROVIDERS and model else None
    for model_ids, provider in _MODELS_BY_PREFIX:
        if model_ids.match(name):
            return provider, name
    return None


_MODEL_ID = re.compile(r"[\w.:@+/-]+", re.ASCII)
_MODELS_BY_PREFIX = (
    (re.compile(r"claude-."), "anthropic"),
    (re.compile(r"gpt-.|o[0-9]"), "openai"),
)


def _search(path: Path) -> "_Search":
    if not path.exists():
        raise NotAPlugin(path, "does not exist.")
    search = _Search(top=path if path.is_dir() else path.parent, root=path.resolve())
    if not path.is_dir():
        if path.suffix != ".md":
            raise NotAPlugin(path, "is neither a folder nor a .md file.")
        search.read_agent(path, ())
    elif (path / MARKETPLACE_FILE).is_file():
        search.read_marketplace()
    elif (path / PLUGIN_FILE).is_file():
        search.read_plugin(path, ())
    else:
        search.read_folder()
        if not search.agents and not search.refused:
            wanted = f"{MARKETPLACE_FILE}, {PLUGIN_FILE}, agents/*.md or *.md with front matter"
            raise NotAPlugin(path, f"holds no agents: none of {wanted}.")
    return search


_PluginName = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z", max_length=NAME_CHARS_MAX)
]
_MarketplaceName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=NAME_CHARS_MAX)
]
_AgentPaths = Annotated[list[str], msgspec.Meta(max_length=AGENT_PATHS_MAX)]


class _Plugin(msgspec.Struct, frozen=True, kw_only=True):
    name: _PluginName
    agents: str | _AgentPaths = []

    def agent_paths(self) -> list[str]:
        return [self.agents] if isinstance(self.agents, str) else self.agents


class _Listing(msgspec.Struct, frozen=True, kw_only=True):
    name: _PluginName
    source: object


class _Marketplace(msgspec.Struct, frozen=True, kw_only=True):
    name: _MarketplaceName
    plugins: Annotated[list[object], msgspec.Meta(max_length=PLUGINS_MAX)]


M = TypeVar("M", _Plugin, _Listing, _Marketplace)


@dataclass(slots=True)
class _Search:
    """One search and what it has met so far.

    Attributes:
        top: What paths are shown relative to, as the caller wrote it.
        root: What no symlink may lead out of, resolved.
    """

    top: Path
    root: Path
    agents: dict[str, AgentFile] = field(default_factory=dict[str, AgentFile])
    refused: list[Refused] = field(default_factory=list[Refused])
    files_left: int = FILES_MAX

    def read_marketplace(self) -> None:
        file = self.top / MARKETPLACE_FILE
        with self._refusing(file):
            marketplace = _shaped(_json(self._read(file)), _Marketplace)
            for index, listing in enumerate(marketplace.plugins):
                with self._refusing(file):
                    self._read_listing(marketplace.name, listing, at=f"plugins[{index}]")

    def _read_listing(self, marketplace: str, value: object, *, at: str) -> None:
        listing = _shaped(value, _Listing, at=f"{at}: ")
        if not isinstance(listing.source, str) or not listing.source.startswith("./"):
            raise Unfit(f"{at}: the source of {listing.name} is not local; only './…' is read")
        folder = self.top / _relative(listing.source, at=f"{at}: ")
        if not self._inside(folder).is_dir():
            raise Unfit(f"{at}: the source of {listing.name} is not a folder here")
        self.read_plugin(folder, (marketplace, listing.name))

    def read_plugin(self, folder: Path, owners: tuple[str, ...]) -> None:
        """Read a plugin, under the names a marketplace gives it or under its own."""
        file = folder / PLUGIN_FILE
        with self._refusing(file):
            # Within a marketplace the listing may be all there is of a manifest.
            listed_only = bool(owners) and not file.is_file()
            plugin = (
                _Plugin(name=owners[-1])
                if listed_only
                else _shaped(_json(self._read(file)), _Plugin)
            )
            for agent_file in self._plugin_files(folder, plugin):
                self.read_agent(agent_file, owners or (plugin.name,))

    def _plugin_files(self, folder: Path, plugin: _Plugin) -> list[Path]:
        """List each file once, also when the manifest names the default folder again."""
        files: list[Path] = []
        if (folder / AGENTS_FOLDER).is_dir():
            files += self._markdown(folder / AGENTS_FOLDER)
        for written in plugin.agent_paths():
            with self._refusing(folder / PLUGIN_FILE):
                files += self._markdown(folder / _relative(written, at="agents: "))
        return list(dict.fromkeys(files))

    def read_folder(self) -> None:
        """Read a folder without a manifest: its agents/, or else its own agent files."""
        bare = not (self.top / AGENTS_FOLDER).is_dir()
        for file in self._markdown(self.top if bare else self.top / AGENTS_FOLDER):
            self.read_agent(file, (), bare=bare)

    def _markdown(self, path: Path) -> list[Path]:
        with self._refusing(path):
            real = self._inside(path)
            if not real.is_dir():
                if path.suffix != ".md" or not real.exists():
                    raise Unfit("there is no such folder or .md file")
                self._count(1)
                return [path]
            with os.scandir(real) as entries:
                names = [entry.name for entry in islice(entries, self.files_left + 1)]
            self._count(len(names))
            return [path / name for name in sorted(names) if _is_markdown(name)]
        return []

    def _count(self, files: int) -> None:
        if files > self.files_left:
            raise Unfit(f"more than {FILES_MAX:,} files in all; from here on none is read")
        self.files_left -= files

    def read_agent(self, file: Path, owners: tuple[str, ...], *, bare: bool = False) -> None:
        """Keep the agent of a file; in a bare folder, pass over what is not meant as one."""
        with self._refusing(file):
            content = self._read(file)
            if bare and not content.removeprefix(BOM).startswith(b"---"):
                return
            agent = _agent(content, path=file.relative_to(self.top), owners=owners)
            if agent.key in self.agents:
                raise Unfit(f"its key {agent.key!r} is that of {self.agents[agent.key].path}")
            self.agents[agent.key] = agent

    def _read(self, file: Path) -> bytes:
        """Read up to one byte over the bound, which tells that there are more."""
        real = self._inside(file)
        if not real.is_file():
            raise Unfit("is not a regular file")
        with real.open("rb") as stream:
            return stream.read(FILE_BYTES_MAX + 1)

    def _inside(self, path: Path) -> Path:
        real = path.resolve()
        if not real.is_relative_to(self.root):
            raise Unfit("is a symlink that leads outside")
        return real

    @contextmanager
    def _refusing(self, path: Path) -> Generator[None]:
        try:
            yield
        except Unfit as unfit:
            self._refuse(path, str(unfit))
        except OSError as error:
            self._refuse(path, error.strerror or "cannot be read")
        except RuntimeError:  # Path.resolve, before Python 3.13
            self._refuse(path, "is a symlink that leads to itself")

    def _refuse(self, path: Path, reason: str) -> None:
        shown = _printable(path.relative_to(self.top).as_posix())
        self.refused.append(Refused(path=shown, reason=reason))


def _is_markdown(name: str) -> bool:
    return name.endswith(".md") and not name.startswith(".")


def _printable(text: str) -> str:
    """Escape what could act on a terminal, and bytes of a file name that are not UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _relative(written: str, *, at: str) -> str:
    if not written.startswith("./"):
        raise Unfit(f"{at}a path has to start with './'")
    if ".." in written.split("/") or "\\" in written or not written.isprintable():
        raise Unfit(f"{at}a path may not contain '..', backslashes or control characters")
    return written


def _json(content: bytes) -> object:
    try:
        return json.loads(text_of(content))
    except json.JSONDecodeError as error:
        raise Unfit(f"not JSON: {error.msg}", line=error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise Unfit("not JSON that can be read: a number too long or nesting too deep") from error


def _shaped(value: object, shape: type[M], *, at: str = "") -> M:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise Unfit(f"{at}{error}") from error


def _agent(content: bytes, *, path: Path, owners: tuple[str, ...]) -> AgentFile:
    key = "/".join((*owners, single_line(path.stem, what="the file name")))
    header, body, body_line = split(text_of(content))
    front = front_matter(header)
    return AgentFile(
        key=key,
        name=front.name(),
        description=front.description(),
        model=front.model(),
        tools=front.tools(),
        system_prompt=_system_prompt(body, line=body_line),
        plugin=owners[-1] if owners else "",
        path=path.as_posix(),
        digest=hashlib.sha256(content).hexdigest(),
        extra=front.extra(),
    )


def _system_prompt(body: str, *, line: int) -> str:
    system_prompt = body.strip()
    if not system_prompt:
        raise Unfit("the system prompt below the front matter is empty", line=line)
    at_most(system_prompt, SYSTEM_PROMPT_BYTES_MAX, what="the system prompt", line=line)
    return system_prompt
