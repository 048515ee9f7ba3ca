"""Signing keys, session tokens as Clerk makes them, and a server of the keys' public halves."""

import json
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Json = dict[str, Any]

ISSUER = "https://clerk.example.dev"
PARTY = "https://app.example.dev"
NOW = 1_800_000_000
"""Seconds since 1970; what `claims` count from unless told otherwise."""

HANG_MAX_S = 30.0


class SigningKey(NamedTuple):
    kid: str
    private: rsa.RSAPrivateKey

    @property
    def jwk(self) -> Json:
        """The public half."""
        numbers = self.private.public_key().public_numbers()
        return {
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.kid,
            "n": base64url(_bytes(numbers.n)),
            "e": base64url(_bytes(numbers.e)),
        }

    @property
    def pem(self) -> str:
        """The public half."""
        public = self.private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, padding.PKCS1v15(), SHA256())


@cache
def make_key(kid: str = "ins_1", bits: int = 2048, exponent: int = 65_537) -> SigningKey:
    """Make a key, the same one whenever it is asked for again: making one takes long."""
    return SigningKey(kid, rsa.generate_private_key(exponent, bits))


def claims(now: float = NOW, **changed: object) -> Json:
    """Give the claims of a version 2 session token; None leaves one out."""
    said = {
        "v": 2,
        "iss": ISSUER,
        "sub": "user_2abc",
        "sid": "sess_2abc",
        "azp": PARTY,
        "iat": now,
        "nbf": now - 10,
        "exp": now + 60,
        "jti": "7f1c",
        "fva": [0, -1],
        "sts": "active",
        **changed,
    }
    return {name: value for name, value in said.items() if value is not None}


def token(said: Json, key: SigningKey, **header: object) -> str:
    """Sign claims; header parameters are replaced, added, or left out with None."""
    named = {"alg": "RS256", "cat": "cl_B7d4PD222AAA", "kid": key.kid, "typ": "JWT", **header}
    return signed(encoded({name: v for name, v in named.items() if v is not None}), said, key)


def signed(header: bytes, said: Json | bytes, key: SigningKey) -> str:
    """Sign whatever bytes are given as header and payload."""
    payload = said if isinstance(said, bytes) else encoded(said)
    signing_input = f"{base64url(header)}.{base64url(payload)}"
    return f"{signing_input}.{base64url(key.sign(signing_input.encode()))}"


def encoded(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


class JwksServer:
    """Serves a JWK set over real HTTP, on a port of its own.

    Attributes:
        keys: Served now; may be replaced at any time.
        body: Served instead of them.
        status, headers: Of the answer.
        fetches: Requests so far.
        answers: While it is not set, answers wait.
        asked: Called at each request, before it is answered.
    """

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = keys
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self.answers = threading.Event()
        self.answers.set()
        self.asked: Callable[[], None] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/.well-known/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self) -> bytes:
        if self.body is not None:
            return self.body
        return encoded({"keys": [key.jwk for key in self.keys]})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.fetches += 1
                server.asked()
                server.answers.wait(HANG_MAX_S)
                body = server._answer()
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler
