"""A name belongs to one thing of its kind in a workspace."""

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain import claims
from domain.claims import CLAIM, NameClaimed, NameReleased, claim_stream, folded
from domain.errors import NameIsTaken
from domain.events import WorkspaceId
from tests.given import given

ADA: dict[str, Any] = {"kind": "Agent", "name": "Ada  Lovelace", "holder": "1"}
CLAIMED = NameClaimed(kind="Agent", name="ada lovelace", holder="1")
RELEASED = NameReleased(kind="Agent", name="ada lovelace", holder="1")


def test_a_free_name_is_claimed_by_its_folded_spelling() -> None:
    given(CLAIM).when(claims.claim, **ADA).then(CLAIMED)


def test_claiming_a_name_one_holds_records_nothing() -> None:
    given(CLAIM, CLAIMED).when(claims.claim, **ADA).then_nothing()


def test_a_name_somebody_else_holds_is_refused() -> None:
    given(CLAIM, CLAIMED).when(claims.claim, **(ADA | {"holder": "2"})).then_refused(
        NameIsTaken, pointer="/name"
    )


def test_a_name_given_back_is_free_for_others() -> None:
    given(CLAIM, CLAIMED).when(claims.release, **ADA).then(RELEASED)
    given(CLAIM, CLAIMED, RELEASED).when(claims.claim, **(ADA | {"holder": "2"})).then(
        NameClaimed(kind="Agent", name="ada lovelace", holder="2")
    )


def test_nobody_gives_back_what_another_holds() -> None:
    given(CLAIM, CLAIMED).when(claims.release, **(ADA | {"holder": "2"})).then_nothing()
    given(CLAIM).when(claims.release, **ADA).then_nothing()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada", "ADA"),
        ("Straße", "STRASSE"),
        (" Ada\t Lovelace\n", "ada lovelace"),
        ("e\N{COMBINING ACUTE ACCENT}", "É"),
        ("\N{LATIN SMALL LIGATURE FI}n", "FIN"),
        ("\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}", "\u03aa\u0301"),
    ],
)
def test_spellings_of_one_name_share_its_claim(one: str, other: str) -> None:
    acme = WorkspaceId("acme")
    assert claim_stream(acme, "Agent", one) == claim_stream(acme, "Agent", other)


@for_all(st.text())
def test_folding_a_folded_name_leaves_it(name: str) -> None:
    assert folded(folded(name)) == folded(name)


def test_kinds_and_workspaces_share_no_names() -> None:
    acme, globex = WorkspaceId("acme"), WorkspaceId("globex")
    streams = {
        claim_stream(acme, "Agent", "Ada"),
        claim_stream(acme, "Workflow", "Ada"),
        claim_stream(globex, "Agent", "Ada"),
    }
    assert streams == {
        "claim-acme+Agent:ada",
        "claim-acme+Workflow:ada",
        "claim-globex+Agent:ada",
    }
