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
    from jwt.algorithms import RSAAlgorithm

ALGORITHM: Final = "RS256"
TOKEN_MAX: Final = 8 * 1024
"""Characters. A browser's cookie, in which Clerk keeps a token, holds 4 KiB."""

EXTENSIONS: Final = frozenset({"crit", "b64"})
"""Header parameters that change what a signature is of (RFC 7515 §4.1.11, RFC 7797)."""

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
    signing_input: bytes
    signature: bytes


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
        header, payload, signature = [from_base64url(part) for part in parts]
    except ValueError:
        raise InvalidToken("not base64url") from None
    signing_input = token.rpartition(".")[0].encode()
    return Jws(object_of(header), payload, signing_input, signature)


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


def check_signature(jws: Jws, key: "RSAPublicKey") -> None:
    """Verify with the one algorithm that there is, whatever the token wants.

    The library's algorithm and not its reader of tokens, which looks at every letter in
    Python and takes five times as long as the arithmetic.

    Raises:
        InvalidToken: It is not signed so, by this key, or wants more than a signature (`crit`).
    """
    if jws.header.get("alg") != ALGORITHM or not EXTENSIONS.isdisjoint(jws.header):
        raise InvalidToken("its algorithm is not RS256")
    if not rs256().verify(jws.signing_input, key, jws.signature):
        raise InvalidToken("not signed by the key")


@cache
def rs256() -> "RSAAlgorithm":
    """Import the library, a tenth of a second: whoever will verify asks for it at the start."""
    from jwt.algorithms import RSAAlgorithm  # noqa: PLC0415

    return RSAAlgorithm(RSAAlgorithm.SHA256)


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
        _names.decode(data.decode())
        # Of the two readers the stricter one: no NaN, no half of a surrogate pair.
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


_names = json.JSONDecoder(object_pairs_hook=_unique)
