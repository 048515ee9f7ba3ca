"""Writes the event catalog of docs/events.md from the event types themselves.

`python -m docs.catalog` writes it anew between its marks; tests/architecture/test_docs.py
fails when the page is stale.
"""

import inspect
import re
import types
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

import msgspec

from domain.catalog import EVENT_TYPES
from domain.events import Event

PAGE = Path(__file__).with_name("events.md")
BEGIN, END = "<!-- written by python -m docs.catalog -->\n", "<!-- end -->\n"

_PLAIN: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime: "time",
    object: "any",
    types.NoneType: "null",
}
_ATTRIBUTE = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")


def catalog() -> str:
    """Spell every event type and every struct in their fields, grouped by slice."""
    lines: list[str] = []
    parts: dict[str, type[msgspec.Struct]] = {}
    for slice_name, kinds in _by_slice().items():
        lines += [f"### {slice_name.capitalize()}", "", *_HEAD]
        for kind in kinds:
            lines.append(_row(f"`{kind.tag()}` {kind.schema_version}", kind))
            _collect(kind, parts)
        lines.append("")
    lines += ["### Objects in their fields", "", *_HEAD]
    lines += [_row(name, kind) for name, kind in sorted(parts.items())]
    return "\n".join([*lines, "", ""])


_HEAD = ("| type and version | fields | meaning |", "|---|---|---|")


def written(page: str) -> str:
    """Give the page with its catalog made anew."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{PAGE.name} has lost the marks around its catalog"
    return f"{before}{BEGIN}\n{catalog()}{END}{after}"


def _by_slice() -> dict[str, list[type[Event]]]:
    found: dict[str, list[type[Event]]] = {}
    for _, kind in sorted(EVENT_TYPES.items()):
        found.setdefault(kind.__module__.split(".")[1], []).append(kind)
    return dict(sorted(found.items()))


def _row(name: str, kind: type[msgspec.Struct]) -> str:
    fields = ", ".join(f"{f.name}: {_spelled(f.type)}" for f in msgspec.structs.fields(kind))
    return f"| {name} | {fields} | {_meaning(kind)} |"


def _spelled(kind: Any) -> str:  # noqa: ANN401 a type's own description
    """Spell a type as the JSON that a consumer finds."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, NewType):
        return _spelled(kind.__supertype__)
    if origin is Annotated:
        personal = any((getattr(mark, "extra", None) or {}).get("personal") for mark in args[1:])
        return ("sealed " if personal else "") + _spelled(args[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return _any_of(args)
    if origin is tuple:
        return f"array of {_spelled(args[0])}"
    return "object" if origin is dict else _PLAIN.get(kind) or kind.__name__


def _any_of(kinds: tuple[Any, ...]) -> str:
    text = " or ".join(_spelled(kind) for kind in kinds if kind is not msgspec.UnsetType)
    return f"{text} or absent" if msgspec.UnsetType in kinds else text


def _meaning(kind: type[msgspec.Struct]) -> str:
    """Join a docstring's sentences: what the thing is, then what its fields mean."""
    doc = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    told, _, attributes = doc.partition("Attributes:")
    sentences = [" ".join(told.split()), *_attributes(attributes)]
    return re.sub(r"\bNone\b", "null", " ".join(filter(None, sentences)))


def _attributes(text: str) -> Iterator[str]:
    """Join each attribute's lines, and mark its name."""
    found: list[str] = []
    for line in map(str.strip, text.splitlines()):
        attribute = _ATTRIBUTE.match(line)
        if attribute:
            found.append(f"`{attribute['names']}`: {attribute['text']}")
        elif line:
            found[-1] += f" {line}"
    yield from found


def _collect(kind: Any, parts: dict[str, type[msgspec.Struct]]) -> None:  # noqa: ANN401
    """Find the structs that a type's fields hold, and those that theirs hold."""
    for inner in get_args(kind):
        _collect(inner, parts)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)) or kind.__name__ in parts:
        return
    if not issubclass(kind, Event):
        parts[kind.__name__] = kind
    for field in msgspec.structs.fields(kind):
        _collect(field.type, parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
