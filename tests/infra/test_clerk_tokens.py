"""Session tokens: what is believed, what is refused, and what is read from them."""

import hmac
import json
import string
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from infra.clerk_tokens import (
    LEEWAY_S,
    LIFETIME_MAX_S,
    ClerkTokens,
    Organisation,
    Trust,
    VerifiedToken,
    clerk_tokens,
)
from infra.jwks import PinnedKey
from infra.jws import TOKEN_MAX, InvalidToken, check_signature, take_apart
from infra.settings import BadSettings, Settings
from tests.tokens import (
    ISSUER,
    NOW,
    PARTY,
    SigningKey,
    base64url,
    claims,
    encoded,
    make_key,
    signed,
    token,
)

HEADER = {"alg": "RS256", "kid": "ins_1", "typ": "JWT"}


class CountedKeys:
    """Keys by id, and how often one was looked for."""

    def __init__(self, *keys: SigningKey) -> None:
        self.asked = 0
        self._keys = {key.kid: key.private.public_key() for key in keys}

    async def find(self, kid: str) -> Any:
        self.asked += 1
        return self._keys.get(kid)

    async def aclose(self) -> None:
        pass


def verifier(*keys: SigningKey, now: float = NOW, **trust: Any) -> ClerkTokens:
    believed = Trust(**{"issuer": ISSUER, "parties": frozenset({PARTY}), **trust})
    return ClerkTokens(CountedKeys(*(keys or (make_key(),))), believed, now=lambda: now)


async def verified(text: str, **trust: Any) -> VerifiedToken:
    return await verifier(**trust).verify(text)


async def refusal(text: str, **trust: Any) -> str:
    with pytest.raises(InvalidToken) as refused:
        await verified(text, **trust)
    return refused.value.reason


# What is read.


async def test_a_token_of_version_2_is_read() -> None:
    said = claims(
        email="ada@example.dev",
        name="Ada",
        fea="o:reports,u:profile,uo:teams",
        o={"id": "org_1", "slg": "acme", "rol": "admin", "per": "manage,read", "fpm": "3,2"},
        act={"iss": "https://dashboard.clerk.com", "sid": "sess_9", "sub": "user_support"},
    )
    assert await verified(token(said, make_key())) == VerifiedToken(
        issuer=ISSUER,
        subject="user_2abc",
        session_id="sess_2abc",
        email="ada@example.dev",
        name="Ada",
        organisation=Organisation(
            id="org_1",
            slug="acme",
            role="admin",
            permissions=("org:reports:manage", "org:reports:read", "org:teams:read"),
        ),
        expires_at=datetime.fromtimestamp(NOW + 60, UTC),
        actor_of_impersonation="user_support",
    )


async def test_a_token_of_version_1_is_read() -> None:
    said = claims(
        v=None,
        sts=None,
        org_id="org_1",
        org_slug="acme",
        org_role="org:admin",
        org_permissions=["org:reports:read"],
    )
    found = await verified(token(said, make_key()))
    assert found.organisation == Organisation(
        id="org_1", slug="acme", role="admin", permissions=("org:reports:read",)
    )
    assert (found.email, found.name, found.actor_of_impersonation) == (None, None, None)


@pytest.mark.parametrize(
    ("extra", "email"),
    [
        ({"email_address": "a@b.c"}, "a@b.c"),
        ({"primary_email_address": "a@b.c", "email_verified": True}, "a@b.c"),
        ({"email": "a@b.c", "email_verified": False}, None),
        ({"email": "a@b.c", "email_verified": "true"}, None),
        ({"email": "a" * 255}, None),
        ({"email": ["a@b.c"]}, None),
        ({"email": ""}, None),
    ],
)
async def test_an_email_address_counts_unless_it_is_said_to_be_unverified(
    extra: dict[str, Any], email: str | None
) -> None:
    assert (await verified(token(claims(**extra), make_key()))).email == email


@pytest.mark.parametrize("fpm", ["", "x", "-1", "²", "9" * 300, "0,,", "4"])
async def test_permissions_that_cannot_be_unfolded_are_none(fpm: str) -> None:
    own = {"id": "org_1", "per": "manage,read", "fpm": fpm}
    found = await verified(token(claims(o=own, fea="o:reports"), make_key()))
    assert found.organisation == Organisation(id="org_1", slug=None, role=None, permissions=())


# What is refused before a key is looked for.


def of_parts(change: Callable[[list[str]], list[str]]) -> str:
    return ".".join(change(token(claims(), make_key()).split(".")))


def headed(header: bytes) -> str:
    return signed(header, claims(), make_key())


def with_header(**header: object) -> str:
    return token(claims(), make_key(), **header)


TWICE = b'{"alg":"none","alg":"RS256","kid":"ins_1"}'
TWICE_SPELLED = b'{"\\u0061lg":"none","alg":"RS256","kid":"ins_1"}'

JUNK = {
    "nothing": "",
    "two dots": "..",
    "text": "hello",
    "too long": token(claims(filler="x" * TOKEN_MAX), make_key()),
    "two parts": of_parts(lambda parts: parts[:2]),
    "four parts": of_parts(lambda parts: [*parts, "e30"]),
    "padding": of_parts(lambda parts: [parts[0] + "=", *parts[1:]]),
    "padded signature": of_parts(lambda parts: [*parts[:2], parts[2] + "=="]),
    "a blank": of_parts(lambda parts: [parts[0], parts[1] + " ", parts[2]]),
    "a line's end": token(claims(), make_key()) + "\n",
    "base64, not base64url": of_parts(lambda parts: ["+/+/", *parts[1:]]),
    "not ASCII": of_parts(lambda parts: ["é" + parts[0], *parts[1:]]),
    "a name twice in the header": headed(TWICE),
    "a name twice, once escaped": headed(TWICE_SPELLED),
    "a name twice in the claims": signed(
        encoded(HEADER), b'{"sub":"root",' + encoded(claims())[1:], make_key()
    ),
    "a name twice within a claim": signed(
        encoded(HEADER), encoded(claims())[:-1] + b',"o":{"id":"a","id":"b"}}', make_key()
    ),
    "a header that is a list": headed(b"[]"),
    "a header that is no JSON": headed(b"{"),
    "a header in UTF-16": headed('{"alg":"RS256"}'.encode("utf-16")),
    "a header that is deep": headed(b"[" * 5_000),
    "claims that are deep": signed(encoded(HEADER), b'{"a":' + b"[" * 4_000, make_key()),
    "claims that are a text": signed(encoded(HEADER), b'"hello"', make_key()),
    "half a surrogate pair": signed(
        encoded(HEADER), encoded(claims())[:-1] + b',"a":"\\ud800"}', make_key()
    ),
    "no algorithm": with_header(alg=None),
    "algorithm none": with_header(alg="none"),
    "algorithm NONE": with_header(alg="NONE"),
    "algorithm rs256": with_header(alg="rs256"),
    "algorithm RS384": with_header(alg="RS384"),
    "algorithm PS256": with_header(alg="PS256"),
    "algorithm ES256": with_header(alg="ES256"),
    "algorithm in a list": with_header(alg=["RS256"]),
    "type at+jwt": with_header(typ="at+jwt"),
    "type 1": with_header(typ=1),
    "no key id": with_header(kid=None),
    "a key id that is a path": with_header(kid="../../etc/passwd"),
    "a key id that is a query": with_header(kid="' OR 1=1 --"),
    "a key id that ends a line": with_header(kid="ins_1\n"),
    "a key id that is long": with_header(kid="k" * 129),
    "a key id that is empty": with_header(kid=""),
    "a key id that is a number": with_header(kid=1),
} | {
    name: with_header(**{name: value})
    for name, value in {
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/cert.pem",
        "jwk": make_key("evil").jwk,
        "x5c": ["MII="],
        "crit": ["exp"],
        "b64": False,
        "zip": "DEF",
        "enc": "A256GCM",
        "nonce": "1",
    }.items()
}


@pytest.mark.parametrize("text", JUNK.values(), ids=JUNK.keys())
async def test_a_token_of_another_form_is_refused_before_a_key_is_looked_for(text: str) -> None:
    keys = CountedKeys(make_key())
    tokens = ClerkTokens(keys, Trust(issuer=ISSUER, parties=frozenset({PARTY})), now=lambda: NOW)
    with pytest.raises(InvalidToken):
        await tokens.verify(text)
    assert keys.asked == 0


# What the claims must say.


@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "iss", "sub"])
@pytest.mark.parametrize("value", [None, True, [], {}, ""])
async def test_a_claim_that_decides_must_be_there_in_its_form(name: str, value: object) -> None:
    said = claims()
    del said[name]
    if value is not None:
        said[name] = value
    await refusal(token(said, make_key()))


@pytest.mark.parametrize("spelled", [b"1e999", b"NaN", b"Infinity", b"-1", b'"1"', b"1" * 400])
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
async def test_a_time_is_a_finite_number(name: str, spelled: bytes) -> None:
    said = claims(**{name: 12_345})
    text = encoded(said).replace(b":12345", b":" + spelled)
    await refusal(signed(encoded(HEADER), text, make_key()))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (claims(iat=NOW - 60, exp=NOW - LEEWAY_S), "expired"),
        (claims(nbf=NOW + LEEWAY_S + 1), "not yet valid"),
        (claims(iat=NOW + LEEWAY_S + 1), "not yet valid"),
        (claims(exp=NOW + LIFETIME_MAX_S + 1), "valid for too long"),
        (claims(exp=NOW - 1, iat=NOW), "valid for too long"),
        (claims(iss="https://evil.example"), "from another issuer"),
        (claims(iss=ISSUER + "/"), "from another issuer"),
        (claims(iss=ISSUER.upper()), "from another issuer"),
        (claims(azp="https://evil.example"), "from a party that is not allowed"),
        (claims(azp=""), "from a party that is not allowed"),
        (claims(sts="pending"), "its session is not active"),
        (claims(sts="expired"), "its session is not active"),
        (claims(act={"sub": ""}), "a claim is missing or malformed"),
        (claims(act="user_support"), "a claim is missing or malformed"),
        (claims(sub="a b"), "a claim is missing or malformed"),
        (claims(sub="a\n"), "a claim is missing or malformed"),
        (claims(sub="a" * 256), "a claim is missing or malformed"),
        (claims(aud=1), "a claim is missing or malformed"),
    ],
)
async def test_a_token_that_says_what_it_must_not_is_refused(
    said: dict[str, object], reason: str
) -> None:
    assert await refusal(token(said, make_key())) == reason


@pytest.mark.parametrize(
    "said",
    [
        claims(iat=NOW - 60, exp=NOW - LEEWAY_S + 1),
        claims(iat=NOW - 60, exp=NOW - LEEWAY_S + 0.5),
        claims(nbf=NOW + LEEWAY_S),
        claims(iat=NOW + LEEWAY_S),
        claims(exp=NOW + LIFETIME_MAX_S),
        claims(azp=None),
        claims(sts=None),
        claims(aud="anybody"),
        claims(aud=["anybody", "else"]),
    ],
)
async def test_a_token_within_the_limits_is_accepted(said: dict[str, object]) -> None:
    assert (await verified(token(said, make_key()))).subject == "user_2abc"


@pytest.mark.parametrize("audience", ["automatos", ["others", "automatos"]])
async def test_a_configured_audience_must_be_named(audience: object) -> None:
    await verified(token(claims(aud=audience), make_key()), audience="automatos")
    for other in (None, "others", ["others"], []):
        text = token(claims(aud=other), make_key())
        assert await refusal(text, audience="automatos") == "for another audience"


async def test_a_token_from_a_browser_names_its_party() -> None:
    tokens = verifier()
    await tokens.verify(token(claims(), make_key()), from_browser=True)
    with pytest.raises(InvalidToken, match="party"):
        await tokens.verify(token(claims(azp=None), make_key()), from_browser=True)


async def test_no_party_at_all_is_allowed_if_none_is_named() -> None:
    assert "party" in await refusal(token(claims(), make_key()), parties=frozenset())


# Who signed it.


async def test_a_token_signed_by_another_key_is_refused() -> None:
    forged = token(claims(), make_key("ins_2"), kid="ins_1")
    assert await refusal(forged) == "not signed by the key"


async def test_a_token_whose_key_nobody_knows_is_refused() -> None:
    assert await refusal(token(claims(), make_key("ins_2"))) == "its key is not known"


@pytest.mark.parametrize("secret", ["pem", "pem without its last line's end", "modulus"])
async def test_the_public_key_is_no_secret_to_sign_with(secret: str) -> None:
    """The classic confusion: the verifier's public key, used as the key of an HMAC."""
    key = make_key()
    shared = {
        "pem": key.pem.encode(),
        "pem without its last line's end": key.pem.strip().encode(),
        "modulus": key.jwk["n"].encode(),
    }[secret]
    for algorithm in ("HS256", "RS256"):
        header = base64url(encoded(HEADER | {"alg": algorithm}))
        signing_input = f"{header}.{base64url(encoded(claims()))}"
        signature = base64url(hmac.digest(shared, signing_input.encode(), "sha256"))
        await refusal(f"{signing_input}.{signature}")


async def test_a_token_without_a_signature_is_refused() -> None:
    header = base64url(encoded(HEADER | {"alg": "none"}))
    unsigned = f"{header}.{base64url(encoded(claims()))}."
    await refusal(unsigned)
    await refusal(of_parts(lambda parts: [*parts[:2], ""]))


async def test_the_key_that_a_token_brings_along_is_not_used() -> None:
    evil = make_key("evil")
    for name, value in {"jwk": evil.jwk, "jku": "https://evil.example/jwks.json"}.items():
        await refusal(token(claims(), evil, **{name: value}))
        await refusal(token(claims(), evil, kid="ins_1", **{name: value}))


GENUINE = token(claims(), make_key())
LETTERS = string.ascii_letters + string.digits + "-_.=+/ \n\0é"


@given(
    place=st.integers(0, len(GENUINE) - 1),
    letter=st.sampled_from(LETTERS),
    way=st.sampled_from(["replace", "insert", "delete", "cut"]),
)
@example(place=len(GENUINE) - 1, letter="A", way="replace")
@example(place=len(GENUINE) - 1, letter="=", way="insert")
async def test_a_changed_token_is_refused(place: int, letter: str, way: str) -> None:
    before, after = GENUINE[:place], GENUINE[place:]
    text = {
        "replace": before + letter + after[1:],
        "insert": before + letter + after,
        "delete": before + after[1:],
        "cut": before,
    }[way]
    assume(text != GENUINE)
    reason = await refusal(text)
    assert not [part for part in text.split(".") if len(part) > 12 and part in reason]


@given(st.text(max_size=200) | st.binary(max_size=200).map(base64url))
async def test_no_text_is_more_than_refused(text: str) -> None:
    await refusal(text)
    await refusal(f"{text}.{text}.{text}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(name=st.sampled_from([*claims(), "o", "act", "aud", "fea", "email", "org_id"]), value=JSON)
async def test_signed_claims_of_any_shape_are_read_or_refused(name: str, value: object) -> None:
    said = json.dumps(claims() | {name: value}).encode()
    try:
        found = await verified(signed(encoded(HEADER), said, make_key()))
    except InvalidToken:
        return
    assert found.issuer == ISSUER
    assert found.subject == (value if name == "sub" else "user_2abc")


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "cat", "jku"]), JSON))
async def test_a_signed_header_of_any_shape_is_accepted_only_with_our_algorithm(
    header: dict[str, object],
) -> None:
    text = signed(json.dumps(HEADER | header).encode(), claims(), make_key())
    try:
        await verified(text)
    except InvalidToken:
        return
    merged = HEADER | header
    assert (merged["alg"], merged["kid"]) == ("RS256", "ins_1")
    assert "jku" not in header


# Configured.

PEM = make_key().pem
CLERK = {"CLERK_ISSUER": ISSUER, "CLERK_AUTHORIZED_PARTIES": PARTY}


def test_nobody_is_believed_unless_an_issuer_is_configured() -> None:
    assert clerk_tokens(Settings.from_env({})) is None
    assert clerk_tokens(Settings.from_env({"CLERK_AUTHORIZED_PARTIES": PARTY})) is None


@pytest.mark.parametrize("pem", [PEM, PEM.replace("\n", "\\n"), PEM.strip()])
async def test_a_pinned_key_verifies_without_a_network(pem: str) -> None:
    made = clerk_tokens(Settings.from_env(CLERK | {"CLERK_JWT_KEY": pem}))
    assert made is not None
    now = datetime.now(UTC).timestamp()
    assert (await made.verify(token(claims(now), make_key()))).subject == "user_2abc"
    with pytest.raises(InvalidToken, match="not signed"):
        await made.verify(token(claims(now), make_key("ins_2")))
    await made.aclose()


async def test_a_pinned_key_stands_for_every_id() -> None:
    key = PinnedKey(PEM)
    assert await key.find("ins_1") is await key.find("another")


async def test_the_issuer_alone_tells_where_its_keys_are() -> None:
    for env in (CLERK, CLERK | {"CLERK_JWKS_URL": "https://keys.example/jwks"}):
        made = clerk_tokens(Settings.from_env(env))
        assert made is not None
        await made.aclose()


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"CLERK_ISSUER": ISSUER}, "CLERK_AUTHORIZED_PARTIES is needed"),
        ({"CLERK_JWKS_URL": "https://keys.example"}, "CLERK_ISSUER is needed"),
        ({"CLERK_JWT_KEY": PEM}, "CLERK_ISSUER is needed"),
        (CLERK | {"CLERK_JWT_KEY": "sk_live_secret"}, "CLERK_JWT_KEY cannot be used"),
        (CLERK | {"CLERK_JWT_KEY": PEM.replace("M", "N")}, "CLERK_JWT_KEY cannot be used"),
        (CLERK | {"CLERK_JWT_KEY": make_key("weak", 1024).pem}, "the modulus is too short"),
        (CLERK | {"CLERK_JWT_KEY": make_key("three", 2048, 3).pem}, "exponent is not 65537"),
    ],
)
def test_what_cannot_work_is_refused_with_the_variable_s_name(
    env: dict[str, str], named: str
) -> None:
    with pytest.raises(BadSettings, match=named) as refused:
        clerk_tokens(Settings.from_env(env))
    assert "sk_live_secret" not in str(refused.value)


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"crit": []}, {"b64": True}])
def test_the_signature_layer_alone_refuses_what_it_cannot_know(header: dict[str, object]) -> None:
    public = make_key().private.public_key()
    check_signature(take_apart(GENUINE), public)
    with pytest.raises(InvalidToken, match="algorithm"):
        check_signature(take_apart(signed(encoded(HEADER | header), claims(), make_key())), public)
