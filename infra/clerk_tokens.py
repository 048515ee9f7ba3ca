"""Session tokens of Clerk, versions 1 and 2: which are believed, and what they say.

What they say of roles is passed on and decides nothing: memberships are ours.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeAlias

import msgspec

from domain.events import JsonObject
from infra.jwks import KID, BadKeys, PinnedKey, RemoteKeys
from infra.jws import ALGORITHM, InvalidToken, check_signature, object_of, rs256, take_apart
from infra.settings import BadSettings, Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

LEEWAY_S: Final = 5
"""How far the clocks may differ; what Clerk's own libraries allow."""

LIFETIME_MAX_S: Final = 3_600
"""Session tokens live for a minute; templates of a project may say longer."""

TEXT_MAX: Final = 254
"""Characters of an email address (RFC 5321 §4.5.3.1), and of a name."""

HEADER_NAMES: Final = frozenset({"alg", "kid", "typ", "cat"})
"""All that Clerk writes. What is not among them could bring a key along, or change how to read."""

EMAIL_CLAIMS: Final = ("email", "email_address", "primary_email_address")
NAME_CLAIMS: Final = ("name", "full_name")
"""Custom claims, which a project adds to its tokens; the original read these names."""

JWKS_PATH: Final = "/.well-known/jwks.json"

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=10**11)]
Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,255}\Z")]


class Organisation(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    role: Without Clerk's prefix `org:`.
    permissions: Spelled `org:<feature>:<permission>`.
    """

    id: str
    slug: str | None
    role: str | None
    permissions: tuple[str, ...]


class VerifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    issuer, subject: Together they name a user for ever.
    email: None if the token has none, or says that it is not verified.
    expires_at: As the token says, without any leeway.
    actor_of_impersonation: Whoever at Clerk acts as this user.
    """

    issuer: str
    subject: str
    session_id: str | None
    email: str | None
    name: str | None
    organisation: Organisation | None
    expires_at: datetime
    actor_of_impersonation: str | None


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    audience: Not asked for when empty.
    parties: Origins whose tokens are accepted; a token may also name none.
    """

    issuer: str
    audience: str = ""
    parties: frozenset[str] = frozenset()


class Keys(Protocol):
    async def find(self, kid: str) -> "RSAPublicKey | None": ...
    async def aclose(self) -> None: ...


class _Actor(msgspec.Struct):
    sub: Id


class _Organisation(msgspec.Struct):
    id: Id
    slg: str | None = None
    rol: str | None = None
    per: str = ""
    fpm: str = ""


class _Claims(msgspec.Struct, kw_only=True):
    """Claims that decide something, or have one form only."""

    exp: Seconds
    iat: Seconds
    nbf: Seconds
    iss: str
    sub: Id
    sid: Id | None = None
    azp: str | None = None
    aud: str | list[str] | None = None
    sts: str = "active"
    act: _Actor | None = None
    o: _Organisation | None = None
    fea: str = ""
    org_id: Id | None = None
    org_slug: str | None = None
    org_role: str | None = None
    org_permissions: list[str] | None = None


class ClerkTokens:
    """Verifies tokens.

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, keys: Keys, trust: Trust, *, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._trust = trust
        self._now = now

    async def verify(self, token: str, *, from_browser: bool = False) -> VerifiedToken:
        """Tell whom a token is of. What needs no key is checked before any is looked for.

        Args:
            from_browser: The request has an origin, so its token must name one, too.

        Raises:
            InvalidToken: It is not to be believed, or not now.
        """
        jws = take_apart(token)
        kid = _kid(jws.header)
        said = object_of(jws.payload)
        claims = _claims(said)
        _check_time(claims, self._now())
        _check_origin(claims, self._trust, from_browser=from_browser)
        key = await self._keys.find(kid)
        if key is None:
            raise InvalidToken("its key is not known")
        check_signature(jws, key)
        return _verified(claims, said)

    async def aclose(self) -> None:
        await self._keys.aclose()


def clerk_tokens(settings: Settings) -> ClerkTokens | None:
    """Make what verifies the tokens of the configured issuer; None if none is configured.

    Raises:
        BadSettings: A part is missing or malformed.
    """
    issuer, parties = settings.clerk_issuer, settings.clerk_authorized_parties
    url = settings.clerk_jwks_url or (issuer and issuer.rstrip("/") + JWKS_PATH)
    if not (url or settings.clerk_jwt_key):
        return None
    if not issuer:
        raise BadSettings("CLERK_ISSUER is needed: tokens of every other issuer are refused.")
    allowed = frozenset(filter(None, (party.strip() for party in parties.split(","))))
    if not allowed:
        raise BadSettings(
            "CLERK_AUTHORIZED_PARTIES is needed: the origins, separated by commas, whose"
            " session tokens are accepted."
        )
    rs256()
    trust = Trust(issuer=issuer, audience=settings.clerk_audience, parties=allowed)
    return ClerkTokens(_keys(settings.clerk_jwt_key, url), trust)


def _keys(pem: str, url: str) -> Keys:
    variable = "CLERK_JWT_KEY" if pem else "CLERK_JWKS_URL"
    try:
        return PinnedKey(pem) if pem else RemoteKeys(url)
    except BadKeys as unfit:
        raise BadSettings(f"{variable} cannot be used: {unfit}.") from None


# What a token says, and whether it is believed.


def _kid(header: JsonObject) -> str:
    if not HEADER_NAMES.issuperset(header):
        raise InvalidToken("its header has a name that is not allowed")
    if header.get("alg") != ALGORITHM:
        raise InvalidToken("its algorithm is not RS256")
    if header.get("typ", "JWT") != "JWT":
        raise InvalidToken("its type is not JWT")
    kid = header.get("kid")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise InvalidToken("its key id is missing or malformed")
    return kid


def _claims(said: JsonObject) -> _Claims:
    try:
        return msgspec.convert(said, _Claims)
    except msgspec.ValidationError:
        raise InvalidToken("a claim is missing or malformed") from None


def _check_time(claims: _Claims, now: float) -> None:
    if claims.exp <= now - LEEWAY_S:
        raise InvalidToken("expired")
    if claims.nbf > now + LEEWAY_S or claims.iat > now + LEEWAY_S:
        raise InvalidToken("not yet valid")
    if not 0 < claims.exp - claims.iat <= LIFETIME_MAX_S:
        raise InvalidToken("valid for too long")


def _check_origin(claims: _Claims, trust: Trust, *, from_browser: bool) -> None:
    if claims.iss != trust.issuer:
        raise InvalidToken("from another issuer")
    audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    if trust.audience and trust.audience not in audience:
        raise InvalidToken("for another audience")
    if (claims.azp is not None or from_browser) and claims.azp not in trust.parties:
        raise InvalidToken("from a party that is not allowed")
    if claims.sts != "active":
        raise InvalidToken("its session is not active")


def _verified(claims: _Claims, said: JsonObject) -> VerifiedToken:
    return VerifiedToken(
        issuer=claims.iss,
        subject=claims.sub,
        session_id=claims.sid,
        email=_text(said, EMAIL_CLAIMS) if said.get("email_verified", True) is True else None,
        name=_text(said, NAME_CLAIMS),
        organisation=_organisation(claims),
        expires_at=datetime.fromtimestamp(claims.exp, UTC),
        actor_of_impersonation=None if claims.act is None else claims.act.sub,
    )


def _text(said: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """Give the first that is a text of sane length."""
    for name in names:
        value = said.get(name)
        if isinstance(value, str) and 0 < len(value) <= TEXT_MAX:
            return value
    return None


def _organisation(claims: _Claims) -> Organisation | None:
    own = claims.o
    if own is not None:
        permissions = tuple(_permissions(own, claims.fea))
        return Organisation(id=own.id, slug=own.slg, role=own.rol, permissions=permissions)
    if claims.org_id is None:
        return None
    return Organisation(
        id=claims.org_id,
        slug=claims.org_slug,
        role=claims.org_role and claims.org_role.removeprefix("org:"),
        permissions=tuple(claims.org_permissions or ()),
    )


def _permissions(own: _Organisation, features: str) -> Iterator[str]:
    """Unfold version 2's spelling: for each feature of the organisation a number, whose bits
    say which of the permissions go with it, the lowest bit the first.
    """
    scoped = [each.strip().partition(":") for each in features.split(",")]
    names = [name for scope, _, name in scoped if "o" in scope and name]
    permissions = [each.strip() for each in own.per.split(",")]
    for feature, mask in zip(names, own.fpm.split(","), strict=False):
        bits = _bits(mask)
        for place, permission in enumerate(permissions):
            if bits >> place & 1 and permission:
                yield f"org:{feature}:{permission}"


def _bits(mask: str) -> int:
    text = mask.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < TEXT_MAX else 0
