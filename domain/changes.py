"""Partial changes: structs whose fields are UNSET where nothing is to change. And differences."""

from collections.abc import Iterator
from typing import Literal, TypeVar, cast

import msgspec
from msgspec import UNSET

from domain.events import JsonObject

C = TypeVar("C", bound=msgspec.Struct)
P = TypeVar("P", bound=msgspec.Struct)

DEPTH_MAX = 16
"""Levels of JSON in which differences are told apart."""


def differing(changes: C, known: msgspec.Struct) -> C:
    """Keep of a change what differs from what is known."""
    names = changes.__struct_fields__
    same = [name for name in names if _same(getattr(changes, name), getattr(known, name))]
    return msgspec.structs.replace(changes, **dict.fromkeys(same, UNSET))


def applied(known: P, changes: msgspec.Struct) -> P:
    """Give what is known the values that a change sets."""
    # A plain loop: histories are folded with it, and every other way takes twice as long.
    given: dict[str, object] = {}
    for name in changes.__struct_fields__:
        value = getattr(changes, name)
        if value is not UNSET:
            given[name] = value
    return msgspec.structs.replace(known, **given)


def alike(one: object, other: object) -> bool:
    """Compare as JSON, which tells 1 from true and from 1.0."""
    return _json(one) == _json(other)


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operation of RFC 6902 (JSON Patch), and what was there before it.

    Attributes:
        path: RFC 6901 (JSON Pointer).
        value: After it; unset where `op` is `remove`.
        was: Before it; unset where `op` is `add`.
    """

    op: Literal["add", "remove", "replace"]
    path: str
    value: object = UNSET
    was: object = UNSET


def differences(before: object, after: object) -> list[Difference]:
    """Tell what makes `after` of `before`, both of builtin types; lists are compared whole.

    No deeper than `DEPTH_MAX` levels: what lies below is compared whole, too.
    """
    return list(_differences(before, after, "", DEPTH_MAX))


def _differences(before: object, after: object, path: str, depth: int) -> Iterator[Difference]:
    if alike(before, after):
        return
    both = isinstance(before, dict), isinstance(after, dict)
    if not (depth and all(both)):
        yield Difference(op="replace", path=path, value=after, was=before)
        return
    old, new = cast("JsonObject", before), cast("JsonObject", after)
    for key in sorted(old.keys() | new.keys()):
        at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            yield Difference(op="remove", path=at, was=old[key])
        elif key not in old:
            yield Difference(op="add", path=at, value=new[key])
        else:
            yield from _differences(old[key], new[key], at, depth - 1)


def _same(change: object, known: object) -> bool:
    return change is not UNSET and alike(change, known)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
