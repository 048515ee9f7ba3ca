"""Users: people who log in. Recorded in the platform workspace, since they belong to none."""

from typing import ClassVar, NewType, TypeAlias
from uuid import NAMESPACE_URL, uuid5

import msgspec

from domain.events import Aggregate, Event, Personal

UserId = NewType("UserId", str)

USER_KIND = "user"
"""Kind of the claim on a login: one user for each issuer and subject."""


def user_id_of(issuer: str, subject: str) -> UserId:
    """Name the user of a login: the same for every process that meets it first."""
    return UserId(str(uuid5(NAMESPACE_URL, login_of(issuer, subject))))


def login_of(issuer: str, subject: str) -> str:
    return f"{issuer}|{subject}"


# Events.


class UserRegistered(Event, frozen=True, kw_only=True, tag="user_registered"):
    """Somebody logged in for the first time.

    Attributes:
        issuer, subject: The login, as the token names it.
        email, name: Empty when the token tells none.
    """

    subject_field: ClassVar[str] = "user_id"

    user_id: UserId
    issuer: str
    subject: str
    email: Personal[str]
    name: Personal[str]


UserEvent: TypeAlias = UserRegistered


# State.


class NoUser(msgspec.Struct, frozen=True, tag=True):
    pass


class User(msgspec.Struct, frozen=True, tag=True):
    """Of what is personal a folded state holds the sealed form only."""

    user_id: UserId


UserState: TypeAlias = NoUser | User


def evolve(_state: UserState, event: UserEvent) -> UserState:
    return User(event.user_id)


USER: Aggregate[UserState, UserEvent] = Aggregate(category="user", initial=NoUser(), evolve=evolve)


# Decisions.


def register_user(
    state: UserState, *, issuer: str, subject: str, email: str, name: str
) -> tuple[UserEvent, ...]:
    """Register once: whoever logs in again is known."""
    if isinstance(state, User):
        return ()
    user_id = user_id_of(issuer, subject)
    return (
        UserRegistered(user_id=user_id, issuer=issuer, subject=subject, email=email, name=name),
    )
