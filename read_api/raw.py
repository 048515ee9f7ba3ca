"""Answers that are given before a route is looked for, in ASGI's own words."""

from typing import TypeAlias

import msgspec
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

from read_api.errors import ApiError, of_api

Headers: TypeAlias = list[tuple[bytes, bytes]]

_encoder = msgspec.json.Encoder()
_PROBLEM = (b"content-type", b"application/problem+json")


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }
    rest: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": body,
        "more_body": False,
    }
    await send(start)
    await send(rest)


async def refuse(send: Send, error: ApiError) -> None:
    """Answer with the problem that the framework would make of the error."""
    await send_answer(send, *spelled(error))


def spelled(error: ApiError) -> tuple[int, Headers, bytes]:
    """Give the status, the headers and the body of a problem."""
    problem = of_api(error)
    headers = [(name.lower().encode(), v.encode()) for name, v in (problem.headers or {}).items()]
    extra = problem.extra if isinstance(problem.extra, dict) else {}
    body = {
        "status": problem.status_code,
        "type": problem.type_,
        "title": problem.title,
        "detail": problem.detail,
        **extra,
    }
    return problem.status_code, [_PROBLEM, *headers], _encoder.encode(body)
