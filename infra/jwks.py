"""The keys of an issuer (RFC 7517): checked, fetched and kept so that a known one never waits."""

import asyncio
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import structlog

from domain.events import JsonObject
from infra.ending import end
from infra.jws import ALGORITHM, from_base64url, unique_json

if TYPE_CHECKING:
    import httpx2
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

KID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
PUBLIC_EXPONENT: Final = 65_537
MODULUS_BITS_MIN: Final = 2_048
"""RFC 7518 §3.3."""
MODULUS_BITS_MAX: Final = 8_192
"""A larger one makes every verification slow."""

BODY_MAX: Final = 64 * 1024
KEYS_MAX: Final = 20
CONNECT_S: Final = 2.0
TOTAL_S: Final = 5.0

SOFT_TTL_S: Final = 300.0
"""Keys older than this are still used while new ones are fetched."""
HARD_TTL_S: Final = 3_600.0
"""Keys older than this are used no more, though the issuer be away."""
UNKNOWN_EVERY_S: Final = 30.0
"""Least time between the last attempt, failed or not, and a fetch for an unknown key's sake."""
MISSING_S: Final = 60.0
MISSING_MAX: Final = 1_000
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
_DOUBLINGS_MAX: Final = 6

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
"""Primes for which a modulus of CVE-2017-15361 is a power of 65537; a good one hardly ever is
for all of them."""

log = structlog.get_logger(__name__)


class BadKeys(Exception):
    """What was fetched, or configured, is not what keys look like."""


def rsa_key(modulus: int, exponent: int) -> "RSAPublicKey":
    """Raises:
    BadKeys: The key is too weak, or none.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers  # noqa: PLC0415

    if exponent != PUBLIC_EXPONENT:
        raise BadKeys("the public exponent is not 65537")
    if not MODULUS_BITS_MIN <= modulus.bit_length() <= MODULUS_BITS_MAX:
        raise BadKeys("the modulus is too short or too long")
    if modulus % 2 == 0 or _is_roca(modulus):
        raise BadKeys("the modulus can be factored: it is even, or of CVE-2017-15361")
    try:
        return RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise BadKeys("the modulus is not one of RSA") from None


def _is_roca(modulus: int) -> bool:
    return all(
        modulus % prime in {pow(PUBLIC_EXPONENT, n, prime) for n in range(prime)}
        for prime in ROCA_PRIMES
    )


def pinned_key(pem: str) -> "RSAPublicKey":
    r"""Read a public key in PEM form; its lines may be parted by `\n` spelled out.

    Raises:
        BadKeys: It is none that may verify tokens.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadKeys("it is no public key in PEM form") from None
    if not isinstance(key, RSAPublicKey):
        raise BadKeys("it is no RSA key")
    numbers = key.public_numbers()
    return rsa_key(numbers.n, numbers.e)


def verification_key(jwk: JsonObject) -> "RSAPublicKey":
    """Raises:
    BadKeys: The key is not for verifying RS256, or is too weak for it.
    """
    if jwk.get("kty") != "RSA" or jwk.get("alg", ALGORITHM) != ALGORITHM:
        raise BadKeys("not a key of RS256")
    if jwk.get("use", "sig") != "sig" or not _may_verify(jwk.get("key_ops", ["verify"])):
        raise BadKeys("not a key for signatures")
    if "d" in jwk:
        raise BadKeys("a private key")
    return rsa_key(_number(jwk.get("n")), _number(jwk.get("e")))


def _may_verify(key_ops: object) -> bool:
    return isinstance(key_ops, list) and "verify" in key_ops


def _number(text: object) -> int:
    """Decode a Base64urlUInt (RFC 7518 §2), which has no leading zero."""
    try:
        data = from_base64url(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if not data or data[0] == 0:
        raise BadKeys("not a number")
    return int.from_bytes(data)


def key_set(body: bytes) -> "dict[str, RSAPublicKey]":
    """Read a JWK set; keys in it that are not for us are passed over.

    Raises:
        BadKeys: It is no set, none of its keys is for us, or two have one id.
    """
    try:
        found = unique_json(body)
    except ValueError:
        raise BadKeys("not strict JSON") from None
    listed: object = cast("JsonObject", found).get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(cast("list[object]", listed)) > KEYS_MAX:
        raise BadKeys("not a set of keys, or too large a one")
    jwks = [cast("JsonObject", each) for each in cast("list[object]", listed) if _is_object(each)]
    ids = [jwk.get("kid") for jwk in jwks]
    if any(ids.count(kid) > 1 for kid in ids if kid is not None):
        raise BadKeys("two keys with one id")
    keys = dict(_usable(jwks))
    if not keys:
        raise BadKeys("none of the keys is for verifying RS256")
    return keys


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _usable(jwks: list[JsonObject]) -> "list[tuple[str, RSAPublicKey]]":
    found: list[tuple[str, RSAPublicKey]] = []
    for jwk in jwks:
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not KID.fullmatch(kid):
            continue
        try:
            found.append((kid, verification_key(jwk)))
        except BadKeys as unfit:
            log.debug("a key of the issuer is passed over", reason=str(unfit))
    return found


class PinnedKey:
    """One key for every token, whatever id it names: nothing is ever fetched."""

    def __init__(self, pem: str) -> None:
        self._key = pinned_key(pem)

    async def find(self, kid: str) -> "RSAPublicKey | None":
        del kid
        return self._key

    async def aclose(self) -> None:
        pass


class RemoteKeys:
    """An issuer's keys by id. Belongs to one event loop.

    Args:
        clock: Seconds, monotonic.
        loopback: Allow plain HTTP to this machine; for tests.
    """

    def __init__(
        self, url: str, *, clock: Callable[[], float] = monotonic, loopback: bool = False
    ) -> None:
        _check_url(url, loopback=loopback)
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._missing: dict[str, float] = {}
        self._fetched_at = float("-inf")
        self._attempted_at = float("-inf")
        self._failures = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._client: httpx2.AsyncClient | None = None

    async def find(self, kid: str) -> "RSAPublicKey | None":
        """Give a key; a known one at once, for an unknown one the issuer may be asked."""
        age_s = self._clock() - self._fetched_at
        known = self._keys.get(kid) if age_s < HARD_TTL_S else None
        if known is not None:
            if age_s >= SOFT_TTL_S:
                self._refresh(after_s=self._backoff_s)
            return known
        if self._missing.get(kid, float("-inf")) > self._clock():
            return None
        # Without any valid key every token is unknown: only failures keep us from asking then.
        least_s = UNKNOWN_EVERY_S if age_s < HARD_TTL_S else 0.0
        return await self._ask(kid, after_s=max(least_s, self._backoff_s))

    async def aclose(self) -> None:
        if self._refreshing is not None:
            await end([self._refreshing])
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, kid: str, *, after_s: float) -> "RSAPublicKey | None":
        """Wait for the fetch that is under way, or due; whoever comes meanwhile shares it."""
        self._refresh(after_s=after_s)
        if self._refreshing is None or self._refreshing.done():
            return None
        # The others wait on, if one who waits goes away.
        await asyncio.shield(self._refreshing)
        if self._failures:
            return None
        found = self._keys.get(kid)
        if found is None:
            self._remember_missing(kid)
        return found

    def _remember_missing(self, kid: str) -> None:
        self._missing.pop(kid, None)
        if len(self._missing) >= MISSING_MAX:
            del self._missing[next(iter(self._missing))]
        self._missing[kid] = self._clock() + MISSING_S

    @property
    def _backoff_s(self) -> float:
        """Pause after failures, counted from the last of them."""
        if not self._failures:
            return 0.0
        doublings = min(self._failures - 1, _DOUBLINGS_MAX)
        return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0**doublings)

    def _refresh(self, *, after_s: float) -> None:
        """Begin a fetch, unless one is under way or the last attempt is too recent."""
        if self._refreshing is not None and not self._refreshing.done():
            return
        if self._clock() - self._attempted_at >= after_s:
            self._attempted_at = self._clock()
            self._refreshing = asyncio.get_running_loop().create_task(self._refreshed())

    async def _refreshed(self) -> None:
        import anyio  # noqa: PLC0415

        if self._client is None:
            # In a thread: importing the library, and reading the root certificates, take long.
            self._client = await asyncio.to_thread(_http_client)
        from httpx2 import HTTPError  # noqa: PLC0415

        try:
            async with asyncio.timeout(TOTAL_S):
                keys = key_set(await _fetch(self._client, self._url))
        except (BadKeys, HTTPError, OSError, TimeoutError, anyio.EndOfStream) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("the issuer's keys cannot be fetched", error=_told(error))
        else:
            if self._failures:
                log.warning("the issuer's keys can be fetched again")
            self._keys, self._failures, self._fetched_at = keys, 0, self._clock()
        self._attempted_at = self._clock()


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, BadKeys) else type(error).__name__


def _check_url(url: str, *, loopback: bool) -> None:
    parts = urlsplit(url)
    here = loopback and parts.scheme == "http" and parts.hostname in LOOPBACK
    if not (here or parts.scheme == "https") or not parts.hostname or "@" in parts.netloc:
        raise BadKeys("keys are fetched over https only, from a URL without a password")


def _http_client() -> "httpx2.AsyncClient":
    import httpx2  # noqa: PLC0415

    return httpx2.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(TOTAL_S, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=1),
        # Not unpacked: a small body could become a large one.
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
    )


async def _fetch(client: Any, url: str) -> bytes:  # noqa: ANN401  httpx2 is imported late
    """Raises:
    BadKeys: The answer is not 200, packed, or too long.
    """
    body = bytearray()
    async with client.stream("GET", url) as response:
        if response.status_code != 200:  # noqa: PLR2004
            raise BadKeys(f"the answer is {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise BadKeys("the answer is packed")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > BODY_MAX:
                raise BadKeys(f"the answer is longer than {BODY_MAX} bytes")
    return bytes(body)
