"""Prompt templates: text with holes for a run's input and earlier outputs.

`{input.topic}` is a value of the run's input, `{steps.research.output}` the
output of an earlier step, `{previous.output}` that of the step before. Any
other brace is text; to write one of these as text, double its braces.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import msgspec

from domain.errors import Invalid

_NAME = r"[A-Za-z_]\w*(?:\.[\w-]+)+"
_HOLE = re.compile(rf"\{{\{{(?P<escaped>{_NAME})\}}\}}|\{{(?P<name>{_NAME})\}}")


class Reference(msgspec.Struct, frozen=True):
    """A hole: `source` is `input` or `steps`, `key` an input's or a step's name."""

    source: str
    key: str


PREVIOUS = Reference("previous", "output")


def references(template: str) -> Iterator[Reference]:
    """Yield every hole in order.

    Raises:
        ValueError: A hole names nothing that a run has; its text is the message.
    """
    for match in _HOLE.finditer(template):
        if match["name"]:
            yield _reference(match["name"])


def render(template: str, values: Mapping[Reference, str]) -> str:
    """Fill every hole once; what is filled in is never looked at again.

    Raises:
        KeyError: A reference has no value.
    """

    def fill(match: re.Match[str]) -> str:
        if match["name"]:
            return values[_reference(match["name"])]
        return "{" + match["escaped"] + "}"

    return _HOLE.sub(fill, template)


def check(
    template: str, *, earlier: Collection[str], inputs: Collection[str] | None, pointer: str
) -> None:
    """Refuse a template that could never be filled.

    Args:
        earlier: Ids of the steps before the template's own.
        inputs: Names a run will be given; None when that is not declared.
        pointer: JSON pointer of the template, for the refusal.
    """
    try:
        found = list(references(template))
    except ValueError as unknown:
        raise Invalid(str(unknown), pointer=pointer) from unknown
    for reference in found:
        known = _known(reference, earlier, inputs)
        if not known:
            raise Invalid(_complaint(reference), pointer=pointer)


def _known(reference: Reference, earlier: Collection[str], inputs: Collection[str] | None) -> bool:
    if reference == PREVIOUS:
        return bool(earlier)
    if reference.source == "steps":
        return reference.key in earlier
    return inputs is None or reference.key in inputs


def _complaint(reference: Reference) -> str:
    if reference == PREVIOUS:
        return "The first step has no previous output."
    if reference.source == "steps":
        return f"No earlier step is called {reference.key!r}."
    return f"The workflow declares no input called {reference.key!r}."


def _reference(name: str) -> Reference:
    match name.split("."):
        case ["input", key]:
            return Reference("input", key)
        case ["steps", step_id, "output"]:
            return Reference("steps", step_id)
        case ["previous", "output"]:
            return PREVIOUS
        case _:
            raise ValueError(
                f"{{{name}}} is not known; use {{input.NAME}}, {{steps.STEP_ID.output}} or "
                "{previous.output}, and double the braces of what is meant as text."
            )
