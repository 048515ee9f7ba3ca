"""An issuer's keys: which are used, and how seldom and how patiently they are fetched."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from statistics import quantiles
from time import perf_counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.clerk_tokens import ClerkTokens, Trust
from infra.jwks import (
    BACKOFF_MAX_S,
    BODY_MAX,
    HARD_TTL_S,
    KEYS_MAX,
    MISSING_MAX,
    MISSING_S,
    SOFT_TTL_S,
    UNKNOWN_EVERY_S,
    BadKeys,
    RemoteKeys,
    key_set,
    pinned_key,
    verification_key,
)
from infra.jws import InvalidToken
from tests.tokens import ISSUER, NOW, PARTY, JwksServer, claims, encoded, make_key, token

ONE, TWO = make_key("ins_1"), make_key("ins_2")
AT_ONCE_S = 1.0
"""Far more than a verification takes, far less than the fetch that must not be waited for."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer(ONE) as begun:
        yield begun


@asynccontextmanager
async def remote(server: JwksServer, clock: Clock) -> AsyncIterator[RemoteKeys]:
    keys = RemoteKeys(server.url, clock=clock, loopback=True)
    try:
        yield keys
    finally:
        await keys.aclose()


async def settled(keys: RemoteKeys) -> None:
    """Wait for the fetch that is under way."""
    if keys._refreshing is not None:
        await keys._refreshing


def believing(keys: RemoteKeys) -> ClerkTokens:
    trust = Trust(issuer=ISSUER, parties=frozenset({PARTY}))
    return ClerkTokens(keys, trust, now=lambda: NOW)


# Which keys are used.


@pytest.mark.parametrize(
    "changed",
    [
        {"kty": "oct"},
        {"kty": None},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"key_ops": []},
        {"d": "AQAB"},
        {"e": "AQ"},
        {"e": "Aw"},
        {"e": "AAEAAQ"},
        {"e": "AQAB="},
        {"e": 65_537},
        {"n": ""},
        {"n": "AQAB"},
        {"n": "gA" + "A" * 340},
        {"n": "_" * 6_000},
        {"n": None},
    ],
)
def test_a_key_that_is_not_for_verifying_rs256_or_is_weak_is_not_used(
    changed: dict[str, Any],
) -> None:
    with pytest.raises(BadKeys):
        verification_key(ONE.jwk | changed)


def test_a_short_key_and_a_small_exponent_are_refused_for_that() -> None:
    with pytest.raises(BadKeys, match="too short"):
        verification_key(make_key("weak", 1024).jwk)
    with pytest.raises(BadKeys, match="exponent"):
        verification_key(make_key("three", 2048, 3).jwk)


@pytest.mark.parametrize("missing", ["use", "alg", "kid"])
def test_a_key_need_not_say_what_it_is_for(missing: str) -> None:
    jwk = ONE.jwk
    del jwk[missing]
    assert verification_key(jwk | {"key_ops": ["sign", "verify"]}).key_size == 2048


def test_a_key_pinned_in_pem_form_is_one_of_rsa() -> None:
    assert pinned_key(ONE.pem).public_numbers() == ONE.private.public_key().public_numbers()
    curve = generate_private_key(SECP256R1()).public_key()
    with pytest.raises(BadKeys, match="no RSA key"):
        pinned_key(curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    with pytest.raises(BadKeys, match="no public key"):
        pinned_key("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----")


def test_keys_that_are_not_for_us_are_passed_over() -> None:
    strangers = [
        {"kty": "EC", "kid": "curve"},
        TWO.jwk | {"use": "enc"},
        {name: value for name, value in make_key("ins_3").jwk.items() if name != "kid"},
        make_key("ins_4").jwk | {"kid": "../ins_4"},
        "text",
        None,
    ]
    assert set(key_set(encoded({"keys": [*strangers, ONE.jwk]}))) == {"ins_1"}


ONE_TEXT = json.dumps(ONE.jwk)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [null]}',
        b"[" * 100_000,
        encoded({"keys": [ONE.jwk, TWO.jwk | {"kid": "ins_1"}]}),
        encoded({"keys": [ONE.jwk, {"kty": "oct", "kid": "ins_1"}]}),
        encoded({"keys": [ONE.jwk | {"kid": f"ins_{n}"} for n in range(KEYS_MAX + 1)]}),
        f'{{"keys": [{ONE_TEXT}], "keys": [{ONE_TEXT}]}}'.encode(),
        f'{{"keys": [{ONE_TEXT[:-1]}, "n": "AQAB"}}]}}'.encode(),
        f'{{"keys": [{ONE_TEXT}]}} '.encode("utf-16"),
    ],
)
def test_a_set_that_is_malformed_or_ambiguous_gives_no_key(body: bytes) -> None:
    with pytest.raises(BadKeys):
        key_set(body)


@pytest.mark.parametrize(
    "url",
    [
        "http://clerk.example/jwks.json",
        "http://127.0.0.1.clerk.example/jwks.json",
        "http://127.0.0.1@clerk.example/jwks.json",
        "https://user:word@clerk.example/jwks.json",
        "https:///jwks.json",
        "file:///etc/passwd",
        "/jwks.json",
        "",
    ],
)
def test_keys_are_fetched_over_https_only(url: str) -> None:
    for loopback in (False, True):
        with pytest.raises(BadKeys):
            RemoteKeys(url, loopback=loopback)
    with pytest.raises(BadKeys):
        RemoteKeys("http://127.0.0.1/jwks.json")


# When they are fetched.


async def test_many_who_begin_at_once_share_one_fetch(server: JwksServer, clock: Clock) -> None:
    async with remote(server, clock) as keys:
        found = await asyncio.gather(*(keys.find("ins_1") for _ in range(50)))
    assert all(key == ONE.private.public_key() for key in found)
    assert server.fetches == 1


async def test_a_known_key_is_fetched_again_in_the_background_only(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        await keys.find("ins_1")
        clock.advance(SOFT_TTL_S - 1)
        await keys.find("ins_1")
        assert server.fetches == 1
        clock.advance(1)
        for _ in range(20):
            assert await keys.find("ins_1") is not None
        await settled(keys)
        assert server.fetches == 2
        clock.advance(SOFT_TTL_S - 1)
        await keys.find("ins_1")
        assert server.fetches == 2


async def test_with_the_issuer_hanging_a_token_with_a_known_key_is_verified_without_waiting(
    server: JwksServer, clock: Clock, record_property: Callable[[str, object], None]
) -> None:
    async with remote(server, clock) as keys:
        tokens = believing(keys)
        await tokens.verify(token(claims(), ONE))
        begun = threading.Event()
        server.asked = begun.set
        server.answers.clear()
        clock.advance(SOFT_TTL_S)
        async with asyncio.timeout(AT_ONCE_S):
            for _ in range(100):
                await tokens.verify(token(claims(), ONE))
        assert keys._refreshing is not None
        assert not keys._refreshing.done()
        assert await asyncio.to_thread(begun.wait, 10)
        async with asyncio.timeout(AT_ONCE_S):
            await tokens.verify(token(claims(), ONE))
        took_ms = [await verified_ms(tokens) for _ in range(200)]
        assert not keys._refreshing.done()
        assert server.fetches == 2
    # What is promised is 5 ms; a busy machine is no finding, a wait for the issuer is.
    assert max(took_ms) < AT_ONCE_S * 1_000
    cuts = quantiles(took_ms, n=100)
    told = f"{cuts[49]:.2f} ms, 99 % within {cuts[98]:.2f} ms"
    record_property("figure", f"token with a known key, the issuer hanging: {told}")


async def verified_ms(tokens: ClerkTokens) -> float:
    text = token(claims(), ONE)
    begun = perf_counter()
    await tokens.verify(text)
    return (perf_counter() - begun) * 1_000


async def test_old_keys_are_used_while_the_issuer_is_away_but_not_for_ever(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        await keys.find("ins_1")
        server.status = 503
        passed = 0.0
        while passed + BACKOFF_MAX_S < HARD_TTL_S:
            clock.advance(BACKOFF_MAX_S)
            passed += BACKOFF_MAX_S
            assert await keys.find("ins_1") is not None
            await settled(keys)
        assert server.fetches > 10
        clock.advance(HARD_TTL_S - passed)
        assert await keys.find("ins_1") is None
        server.status = 200
        clock.advance(BACKOFF_MAX_S)
        assert await keys.find("ins_1") is not None


async def test_after_failures_the_pauses_grow_to_a_minute(server: JwksServer, clock: Clock) -> None:
    server.status = 500
    async with remote(server, clock) as keys:
        attempts = []
        for second in range(200):
            before = server.fetches
            await keys.find("ins_1")
            if server.fetches > before:
                attempts.append(second)
            clock.advance(1)
    assert attempts == [0, 1, 3, 7, 15, 31, 63, 123, 183]


# Keys that nobody knows.


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_in_thirty_seconds(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        tokens = believing(keys)
        await tokens.verify(token(claims(), ONE))
        for second in range(61):
            for n in range(5):
                with pytest.raises(InvalidToken, match="not known"):
                    await tokens.verify(token(claims(), TWO, kid=f"flood_{second}_{n}"))
            clock.advance(1)
        assert server.fetches == 3
        await tokens.verify(token(claims(), ONE))


@pytest.mark.parametrize("status", [200, 500])
async def test_the_thirty_seconds_count_from_the_last_attempt_whatever_came_of_it(
    server: JwksServer, clock: Clock, status: int
) -> None:
    async with remote(server, clock) as keys:
        await keys.find("ins_1")
        server.status = status
        clock.advance(UNKNOWN_EVERY_S)
        assert await keys.find("ins_8") is None
        assert server.fetches == 2
        clock.advance(UNKNOWN_EVERY_S - 1)
        assert await keys.find("ins_9") is None
        assert server.fetches == 2
        clock.advance(1)
        assert await keys.find("ins_9") is None
        assert server.fetches == 3


async def test_many_with_one_unknown_key_share_one_fetch(server: JwksServer, clock: Clock) -> None:
    async with remote(server, clock) as keys:
        await keys.find("ins_1")
        clock.advance(UNKNOWN_EVERY_S)
        server.keys = (ONE, TWO)
        found = await asyncio.gather(*(keys.find("ins_2") for _ in range(50)))
    assert all(key == TWO.private.public_key() for key in found)
    assert server.fetches == 2


async def test_who_waits_goes_away_and_the_others_still_get_their_key(
    server: JwksServer, clock: Clock
) -> None:
    begun = threading.Event()
    server.asked = begun.set
    server.answers.clear()
    async with remote(server, clock) as keys:
        first, second = (asyncio.ensure_future(keys.find("ins_1")) for _ in range(2))
        assert await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        await asyncio.wait([first])
        server.answers.set()
        assert await second == ONE.private.public_key()
    assert first.cancelled()
    assert server.fetches == 1


async def test_a_key_that_was_missing_is_not_asked_for_again_for_a_minute(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        assert await keys.find("ins_2") is None
        clock.advance(MISSING_S - 1)
        assert await keys.find("ins_2") is None
        assert server.fetches == 1
        clock.advance(1)
        server.keys = (ONE, TWO)
        assert await keys.find("ins_2") is not None
        assert server.fetches == 2


async def test_missing_keys_are_remembered_up_to_a_bound(server: JwksServer, clock: Clock) -> None:
    server.answers.clear()
    async with remote(server, clock) as keys:
        asking = [asyncio.ensure_future(keys.find(f"k{n}")) for n in range(MISSING_MAX + 10)]
        server.answers.set()
        assert set(await asyncio.gather(*asking)) == {None}
        assert len(keys._missing) == MISSING_MAX
    assert server.fetches == 1


async def test_a_new_key_is_taken_over_and_an_old_one_is_dropped(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        tokens = believing(keys)
        await tokens.verify(token(claims(), ONE))
        server.keys = (TWO,)
        clock.advance(UNKNOWN_EVERY_S)
        await tokens.verify(token(claims(), TWO))
        with pytest.raises(InvalidToken, match="not known"):
            await tokens.verify(token(claims(), ONE))
    assert server.fetches == 2


async def test_a_key_that_was_replaced_under_its_id_no_longer_verifies(
    server: JwksServer, clock: Clock
) -> None:
    async with remote(server, clock) as keys:
        tokens = believing(keys)
        await tokens.verify(token(claims(), ONE))
        server.body = encoded({"keys": [TWO.jwk | {"kid": "ins_1"}]})
        clock.advance(SOFT_TTL_S)
        await keys.find("ins_1")
        await settled(keys)
        with pytest.raises(InvalidToken, match="not signed"):
            await tokens.verify(token(claims(), ONE))


# What the issuer may not do to us.


def oversized(server: JwksServer) -> None:
    server.body = encoded({"keys": [ONE.jwk], "filler": "x" * BODY_MAX})


def redirecting(server: JwksServer) -> None:
    server.status, server.headers = 302, {"Location": server.url + "?again"}


def packed(server: JwksServer) -> None:
    server.headers = {"Content-Encoding": "gzip"}


def failing(server: JwksServer) -> None:
    server.status = 500


def empty(server: JwksServer) -> None:
    server.keys = ()


def many(server: JwksServer) -> None:
    server.body = encoded({"keys": [ONE.jwk | {"kid": f"i{n}"} for n in range(KEYS_MAX + 1)]})


@pytest.mark.parametrize("spoil", [oversized, redirecting, packed, failing, empty, many])
async def test_a_bad_answer_gives_no_keys_and_takes_none_away(
    server: JwksServer, clock: Clock, spoil: Callable[[JwksServer], None]
) -> None:
    async with remote(server, clock) as keys:
        await keys.find("ins_1")
        spoil(server)
        clock.advance(UNKNOWN_EVERY_S)
        assert await keys.find("i0") is None
        assert await keys.find("ins_1") is not None
        assert keys._failures == 1
    assert server.fetches == 2


async def test_a_body_just_within_the_bound_is_taken(server: JwksServer, clock: Clock) -> None:
    empty_size = len(encoded({"keys": [ONE.jwk], "filler": ""}))
    server.body = encoded({"keys": [ONE.jwk], "filler": "x" * (BODY_MAX - empty_size)})
    assert len(server.body) == BODY_MAX
    async with remote(server, clock) as keys:
        assert await keys.find("ins_1") is not None


async def test_no_proxy_of_the_environment_is_used(
    server: JwksServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with remote(server, clock) as keys:
        assert await keys.find("ins_1") is not None


async def test_nobody_at_the_address_is_a_failure_like_any_other(clock: Clock) -> None:
    with JwksServer(ONE) as gone:
        url = gone.url
    keys = RemoteKeys(url, clock=clock, loopback=True)
    assert await keys.find("ins_1") is None
    assert keys._failures == 1
    await keys.aclose()


async def test_closing_ends_a_fetch_that_hangs(server: JwksServer, clock: Clock) -> None:
    begun = threading.Event()
    server.asked = begun.set
    server.answers.clear()
    keys = RemoteKeys(server.url, clock=clock, loopback=True)
    asking = asyncio.ensure_future(keys.find("ins_1"))
    assert await asyncio.to_thread(begun.wait, 10)
    await keys.aclose()
    await asyncio.wait([asking])
    assert asking.cancelled()
