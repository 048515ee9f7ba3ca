"""U+0000 is found wherever a request can hold it, and nothing else is taken for it."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_api.errors import BadBody
from read_api.texts import check_body, fault_in_url

sound = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.just(r"\u0000")
names = st.sampled_from(["a", "b/c", "~d", r"\u0000"])
documents = st.recursive(
    sound | st.integers(-9, 9) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
around = st.lists(names | st.integers(0, 2), max_size=4)


def put(inner: object, steps: list[str | int], beside: object) -> object:
    """Wrap a value in lists and objects, with something sound before it."""
    for step in reversed(steps):
        inner = {step: inner} if isinstance(step, str) else [*[beside] * step, inner]
    return inner


def pointed(document: Any, pointer: str) -> Any:
    """Follow a JSON pointer (RFC 6901)."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        document = document[int(name) if isinstance(document, list) else name]
    return document


@given(documents)
def test_a_body_without_it_passes(document: object) -> None:
    check_body(json.dumps(document).encode())


@given(sound, sound, around, documents)
def test_a_body_with_it_is_refused_at_its_place(
    before: str, after: str, steps: list[str | int], beside: object
) -> None:
    text = f"{before}\0{after}"
    document = put(text, steps, beside)
    with pytest.raises(BadBody) as refused:
        check_body(json.dumps(document).encode())
    assert refused.value.pointer is not None
    assert pointed(document, refused.value.pointer) == text


def test_a_name_with_it_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadBody) as refused:
        check_body(json.dumps({"a": [{"b\0": 1}]}).encode())
    assert refused.value.pointer == "/a/0/b"


@given(sound, st.dictionaries(sound, sound, max_size=3))
def test_a_url_without_it_passes(path: str, query: dict[str, str]) -> None:
    assert fault_in_url(f"/{path}", urlencode(query).encode()) is None


@given(sound, sound, st.dictionaries(names, sound, max_size=2))
def test_a_query_with_it_is_refused_at_its_parameter(
    before: str, after: str, query: dict[str, str]
) -> None:
    spelled = urlencode([*query.items(), ("q/r", f"{before}\0{after}"), ("s", "")])
    fault = fault_in_url("/", spelled.encode())
    assert fault is not None
    assert (fault.code, fault.pointer) == ("bad_parameter", "/query/q~1r")


def test_a_parameter_s_name_with_it_is_refused() -> None:
    fault = fault_in_url("/", f"{quote(chr(0))}a=1".encode())
    assert fault is not None
    assert fault.pointer == "/query/a"


def test_a_path_with_it_is_refused() -> None:
    fault = fault_in_url("/api/workflows/executions/exec\0", b"")
    assert fault is not None
    assert (fault.code, fault.pointer) == ("bad_parameter", "/path")
