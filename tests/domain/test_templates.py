"""Prompt templates are filled in a single pass, and refused when they never could be."""

import pytest
from hypothesis import example
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.errors import Invalid
from domain.templates import PREVIOUS, Reference, check, references, render

TOPIC = Reference("input", "topic")
RESEARCH = Reference("steps", "research")
HOLES = {
    "{input.topic}": TOPIC,
    "{steps.research.output}": RESEARCH,
    "{previous.output}": PREVIOUS,
}
TEXTS = [
    "Say ",
    "{",
    "}",
    "{}",
    "{x}",
    "{.a}",
    "{ input.topic }",
    '{"a": 1}',
    "{{",
    "{{ x }}",
    "ü\n",
]
UNKNOWN = ["{input.a.b}", "{steps.research}", "{previous.input}", "{foo.bar}"]

pieces = st.lists(st.sampled_from([*HOLES, *TEXTS, *UNKNOWN]) | st.text(max_size=3), max_size=8)


@pytest.mark.parametrize(("hole", "reference"), HOLES.items())
def test_a_hole_is_filled_with_what_it_names(hole: str, reference: Reference) -> None:
    assert list(references(f"About {hole}.")) == [reference]
    assert render(f"About {hole}.", {reference: "bees"}) == "About bees."


@pytest.mark.parametrize("text", TEXTS)
def test_any_other_brace_is_text(text: str) -> None:
    assert list(references(text)) == []
    assert render(text, {}) == text


def test_a_hole_in_doubled_braces_is_text() -> None:
    assert list(references("{{input.topic}}")) == []
    assert render("{{input.topic}} is {input.topic}", {TOPIC: "bees"}) == "{input.topic} is bees"
    check("{{foo.bar}}", earlier=(), inputs=(), pointer="/p")


def test_a_value_that_is_missing_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        render("{input.topic}", {RESEARCH: "bees"})


@for_all(st.text() | st.sampled_from([*HOLES, "{{input.topic}}", "{foo.bar}"]))
def test_what_is_filled_in_is_never_looked_at_again(value: str) -> None:
    template = "".join(HOLES)
    assert render(template, dict.fromkeys(HOLES.values(), value)) == value * len(HOLES)


@for_all(pieces)
@example(["{", "{input.topic}", "}"])
def test_what_passes_the_check_can_be_filled(template: list[str]) -> None:
    joined = "".join(template)
    try:
        check(joined, earlier=("research",), inputs=("topic",), pointer="/p")
    except Invalid:
        return
    render(joined, dict.fromkeys(HOLES.values(), "bees"))


@pytest.mark.parametrize("hole", UNKNOWN)
def test_a_hole_that_names_nothing_a_run_has_is_refused(hole: str) -> None:
    with pytest.raises(Invalid, match="is not known") as refusal:
        check(f"About {hole}", earlier=("research",), inputs=None, pointer="/steps/1")
    assert refusal.value.pointer == "/steps/1"


@pytest.mark.parametrize(
    ("hole", "complaint"),
    [
        ("{previous.output}", "first step"),
        ("{steps.research.output}", "No earlier step is called 'research'"),
        ("{input.topic}", "no input called 'topic'"),
    ],
)
def test_a_hole_that_nothing_could_fill_is_refused(hole: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint) as refusal:
        check(hole, earlier=(), inputs=("other",), pointer="/steps/0")
    assert refusal.value.pointer == "/steps/0"


def test_where_no_inputs_are_declared_any_may_be_asked_for() -> None:
    check("{input.whatever}", earlier=(), inputs=None, pointer="/p")
