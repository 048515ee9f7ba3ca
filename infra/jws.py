"""Signed tokens in compact form (RFC 7515): taken apart strictly, verified with RS256 only."""

import base64
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec

from domain.events import JsonObject

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from jwt import PyJWS

ALGORITHM: Final = "RS256"
TOKEN_MAX: Final = 8 * 1024
"""Characters. A browser's cookie, in which Clerk keeps a token, holds 4 KiB."""

_PARTS = 3
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


class InvalidToken(Exception):
    """A token is refused.

    Attributes:
        reason: For logs and tests; never holds any part of the token.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Jws(NamedTuple):
    """What a token says; nothing of it is verified yet."""

    header: JsonObject
    payload: bytes


def take_apart(token: str) -> Jws:
    """Raises:
    InvalidToken: It is not three parts in strict base64url, or its header is no JSON object.
    """
    if len(token) > TOKEN_MAX:
        raise InvalidToken("too long")
    parts = token.split(".", _PARTS)
    if len(parts) != _PARTS:
        raise InvalidToken("not three parts")
    try:
        header, payload, _ = [from_base64url(part) for part in parts]
    except ValueError:
        raise InvalidToken("not base64url") from None
    return Jws(object_of(header), payload)


def object_of(data: bytes) -> JsonObject:
    """Raises:
    InvalidToken: It is not one JSON object, or a name in it is there twice.
    """
    try:
        found = unique_json(data)
    except ValueError:
        raise InvalidToken("not strict JSON") from None
    if not isinstance(found, dict):
        raise InvalidToken("not a JSON object")
    return cast("JsonObject", found)


def check_signature(token: str, key: "RSAPublicKey") -> bytes:
    """Give the payload that the key has signed.

    The library is told the one algorithm, so that the token's own word is only
    compared with it: `none`, and a public key used as an HMAC secret, fail here.

    Raises:
        InvalidToken: It is not signed so, by this key.
    """
    from jwt import PyJWTError  # noqa: PLC0415  a tenth of a second

    payload = take_apart(token).payload
    try:
        _verifier().decode_complete(token, key, algorithms=[ALGORITHM])
    except PyJWTError:
        raise InvalidToken("not signed with RS256 by the key") from None
    return payload


@cache
def _verifier() -> "PyJWS":
    from jwt import PyJWS  # noqa: PLC0415

    return PyJWS(algorithms=[ALGORITHM])


def from_base64url(text: str) -> bytes:
    """Decode the one spelling that bytes have: no padding, no stray bits at the end.

    Raises:
        ValueError: It is another one.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:
        raise ValueError("not canonical")
    return data


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unique_json(data: bytes) -> object:
    """Decode JSON in UTF-8 in which no name is twice in one object.

    Of two values readers take different ones, and one of them may be the one that was checked.

    Raises:
        ValueError: It is anything else.
    """
    try:
        json.loads(data.decode(), object_pairs_hook=_unique)
        # Of the two readers the stricter one: no NaN, no half of a surrogate pair.
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
