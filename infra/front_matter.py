"""A Markdown file's front matter: YAML between two lines of dashes, as others wrote it."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec
import yaml

from domain.events import JsonObject

FILE_BYTES_MAX = 1024 * 1024
FRONT_MATTER_BYTES_MAX = 64 * 1024
FRONT_MATTER_DEPTH_MAX = 20
NAME_CHARS_MAX = 255
DESCRIPTION_BYTES_MAX = 8 * 1024


class Unfit(Exception):
    """A file that cannot be taken; the message names the line, where there is one."""

    def __init__(self, reason: str, *, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")


BOM = b"\xef\xbb\xbf"


def text_of(content: bytes) -> str:
    """Decode a file.

    Raises:
        Unfit: It is too large, not UTF-8, or holds a NUL.
    """
    if len(content) > FILE_BYTES_MAX:
        raise Unfit(f"more than {FILE_BYTES_MAX:,} bytes")
    content = content.removeprefix(BOM)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unfit("not UTF-8", line=content.count(b"\n", 0, error.start) + 1) from error
    if "\0" in text:  # Postgres has no place for it in a text.
        raise Unfit("a NUL character", line=text.count("\n", 0, text.index("\0")) + 1)
    return text.replace("\r\n", "\n")


def split(text: str) -> tuple[str, str, int]:
    """Part the front matter from the body, whose first line comes third."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        raise Unfit("front matter is missing: the file has to begin with ---", line=1)
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            header = "\n".join(lines[1:index])
            at_most(header, FRONT_MATTER_BYTES_MAX, what="the front matter", line=1)
            return header, "\n".join(lines[index + 1 :]), index + 2
    raise Unfit("the front matter is not closed with ---", line=1)


def at_most(text: str, bytes_max: int, *, what: str, line: int) -> None:
    if len(text.encode()) > bytes_max:
        raise Unfit(f"{what} has more than {bytes_max:,} bytes", line=line)


def single_line(text: str, *, what: str, line: int | None = None) -> str:
    if not 0 < len(text) <= NAME_CHARS_MAX:
        raise Unfit(f"{what} has to have 1 to {NAME_CHARS_MAX} characters", line=line)
    if any(unicodedata.category(c) in _NOT_IN_A_LINE for c in text):
        raise Unfit(f"{what} has a control character or a line break", line=line)
    return text


_NOT_IN_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INTERPRETED = frozenset({"name", "description", "model", "tools"})
# Commas part tools, but not within the parentheses of `Bash(git add:*, git push:*)`.
_TOOL = re.compile(r"(?:\([^)]*(?:\)|\Z)|[^,(])+")


class FrontMatter(NamedTuple):
    fields: JsonObject
    lines: dict[str, int]

    def name(self) -> str:
        return single_line(self._required("name").strip(), what="name", line=self._line("name"))

    def description(self) -> str:
        description = self._required("description").strip()
        line = self._line("description")
        at_most(description, DESCRIPTION_BYTES_MAX, what="description", line=line)
        return description

    def model(self) -> str | None:
        if self.fields.get("model") is None:
            return None
        return single_line(self._required("model").strip(), what="model", line=self._line("model"))

    def tools(self) -> tuple[str, ...]:
        line = self._line("tools")
        match self.fields.get("tools"):
            case None:
                return ()
            case str(written):
                named = [tool for tool in _TOOL.findall(written) if tool.strip()]
            case written:
                named = _texts(written, line=line)
        return tuple(single_line(tool.strip(), what="a tool", line=line) for tool in named)

    def extra(self) -> JsonObject:
        return {key: self.fields[key] for key in self.fields if key not in _INTERPRETED}

    def _required(self, key: str) -> str:
        value = self.fields.get(key)
        if value is None:
            raise Unfit(f"{key} is required", line=self._line(key))
        if not isinstance(value, str) or not value.strip():
            raise Unfit(f"{key} has to be a text that is not empty", line=self._line(key))
        return value

    def _line(self, key: str) -> int:
        return self.lines.get(key, 1)


def _texts(written: object, *, line: int) -> list[str]:
    try:
        return msgspec.convert(written, list[str])
    except msgspec.ValidationError as error:
        raise Unfit("tools has to be a text or a list of texts", line=line) from error


_Loader: TypeAlias = "yaml.SafeLoader | yaml.CSafeLoader"
_LOADER: type[_Loader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# ValueError is how PyYAML meets a date like 2024-13-45 and a number of 5,000 digits.
_YAML_FAILURES = (yaml.YAMLError, ValueError, OverflowError)
_FIRST_LINE = 2  # of the front matter within its file


def front_matter(header: str) -> FrontMatter:
    """Read YAML, and what authors take for YAML: `description: Use when: asked`."""
    try:
        return _from_yaml(header)
    except _YAML_FAILURES as error:
        front = _from_lines(header)
        if front is None:
            raise _unfit_yaml(header, error) from error
        return front


def _unfit_yaml(header: str, error: Exception) -> Unfit:
    match error:
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            line = _FIRST_LINE + (mark.line if mark else 0)
            return Unfit(f"not YAML: {error.problem or error.context}", line=line)
        case yaml.reader.ReaderError():
            before = header.encode()[: error.position]
            return Unfit("not YAML: a control character", line=_FIRST_LINE + before.count(b"\n"))
        case _:
            return Unfit("not YAML: a date or number that cannot be", line=_FIRST_LINE)


def _from_yaml(header: str) -> FrontMatter:
    _refuse_expansion(header)
    node = _LOADER(header).get_single_node()
    if not isinstance(node, yaml.MappingNode):
        raise Unfit("the front matter is not a mapping of keys to values", line=_FIRST_LINE)
    lines = _key_lines(node)
    # By way of JSON, in which a date is a text and NaN is null.
    written = msgspec.json.encode(_loaded(header))
    return FrontMatter(msgspec.json.decode(written, type=JsonObject), lines)


def _loaded(text: str) -> Any:  # noqa: ANN401  # what YAML holds, its author decides
    return yaml.load(text, _LOADER)  # noqa: S506  # both are safe loaders


def _refuse_expansion(header: str) -> None:
    """Refuse, before anything is built of it, what could grow: aliases, tags and nesting."""
    depth = 0
    parsed = yaml.parse(header, _LOADER)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    for event in cast("Iterable[yaml.Event]", parsed):
        line = _FIRST_LINE + (event.start_mark.line if event.start_mark else 0)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise Unfit("YAML anchors and aliases are not read", line=line)
        if getattr(event, "tag", None) is not None:
            raise Unfit("YAML tags are not read", line=line)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > FRONT_MATTER_DEPTH_MAX:
            raise Unfit(f"nested deeper than {FRONT_MATTER_DEPTH_MAX}", line=line)


def _key_lines(mapping: yaml.MappingNode) -> dict[str, int]:
    """Tell where each key stands; YAML itself lets the last of two equal keys win."""
    lines: dict[str, int] = {}
    for key, value in mapping.value:
        line = _FIRST_LINE + key.start_mark.line
        if key.tag != "tag:yaml.org,2002:str":
            raise Unfit("a key is not a text", line=line)
        if key.value in lines:
            raise Unfit(f"the key {key.value[:NAME_CHARS_MAX]!r} is there twice", line=line)
        lines[key.value] = line
        for inner in _mappings(value):
            _key_lines(inner)
    return lines


def _mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _mappings(item)


_KEY_VALUE = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*))?", re.ASCII)


def _from_lines(header: str) -> FrontMatter | None:
    """Read `key: value` lines only; None when any line is something else."""
    front = FrontMatter({}, {})
    for line, written in enumerate(header.split("\n"), start=_FIRST_LINE):
        if not written.strip() or written.startswith("#"):
            continue
        pair = _KEY_VALUE.fullmatch(written.rstrip())
        if pair is None:
            return None
        key = pair[1]
        if key in front.fields:
            raise Unfit(f"the key {key[:NAME_CHARS_MAX]!r} is there twice", line=line)
        front.fields[key] = _line_value(pair[2] or "")
        front.lines[key] = line
    return front


def _line_value(written: str) -> object:
    """Undo quotes and lists in brackets where well-formed; take the rest as written."""
    if not written.startswith(('"', "'", "[")):
        return written or None
    try:
        _refuse_expansion(written)
        return _loaded(written)
    except (*_YAML_FAILURES, Unfit):
        return written
