"""A model without a network: it answers with the sentences of the prompt that fit it best.

Ranking is Okapi BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
Framework", 2009), with the usual constants.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from itertools import chain
from math import log
from typing import Final

from commands.processes.model_calls import ModelRequest
from domain.events import JsonObject
from domain.tokens import Cost, TokenCounts, anthropic_tokens
from infra.llm.exchange import Reply

OFFLINE: Final = "offline"
OFFLINE_MODEL: Final = "extractive-bm25"
OFFLINE_COST: Final = Cost(price_source="offline: free")

SENTENCES_MAX: Final = 2_000
SENTENCE_CHARS_MAX: Final = 2_000
ANSWER_SENTENCES_MAX: Final = 5
KEY_TERMS_MAX: Final = 10
_KEY_TERM_LENGTH_MIN: Final = 4
_K1: Final = 1.2
_B: Final = 0.75

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")  # noqa: RUF001
_PIECE: Final = re.compile(r"\w+|[^\w\s]")
_WORD: Final = re.compile(r"\w+")


class OfflineWire:
    async def ask(self, request: ModelRequest, reply: Reply) -> None:
        text, usage = await asyncio.to_thread(_answer, request)
        reply.add_text(text)
        reply.response_id = "offline-" + sha256(_told(request).encode()).hexdigest()[:24]
        reply.model = OFFLINE_MODEL
        reply.finish_reason = "stop"
        reply.usage = usage

    def tokens(self, usage: JsonObject) -> TokenCounts:
        return anthropic_tokens(usage)

    async def close(self) -> None:
        """Nothing is open."""


def _told(request: ModelRequest) -> str:
    return f"{request.system}\x00{request.prompt}\x00{request.max_tokens}"


def _pieces(text: str) -> int:
    return len(_PIECE.findall(text))


def _answer(request: ModelRequest) -> tuple[str, JsonObject]:
    text = _extract(request)
    return text, {
        "input_tokens": _pieces(request.system) + _pieces(request.prompt),
        "output_tokens": _pieces(text),
        "counted_by": "offline word pieces",
    }


def _extract(request: ModelRequest) -> str:
    """Choose sentences that answer the first and the last one, which tell what is wanted."""
    sentences = _sentences(request.prompt)
    if not sentences:
        return ""
    # A sentence that an earlier step has quoted already stands here twice: it counts once.
    between = list(dict.fromkeys(sentences[1:-1] or sentences))
    words = [_words(sentence) for sentence in between]
    wanted = {*_words(f"{sentences[0]} {sentences[-1]} {request.system}"), *_key_terms(words)}
    scores = _bm25(words, wanted)
    ranked = sorted(range(len(between)), key=lambda index: (-scores[index], index))
    return _fitting(between, ranked[:ANSWER_SENTENCES_MAX], request.max_tokens)


def _sentences(prompt: str) -> list[str]:
    """Cut a prompt up; of a very long one only its beginning and its end are read."""
    parts: list[str] = _SENTENCE_END.split(prompt)
    found: list[str] = list(filter(None, map(str.strip, parts)))
    half = SENTENCES_MAX // 2
    read = found if len(found) <= SENTENCES_MAX else found[:half] + found[-half:]
    return [
        part[start : start + SENTENCE_CHARS_MAX]
        for part in read
        for start in range(0, len(part), SENTENCE_CHARS_MAX)
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _key_terms(sentences: Sequence[Sequence[str]]) -> list[str]:
    spread = Counter(chain.from_iterable(map(set, sentences)))
    repeated = [
        (-count, word)
        for word, count in spread.items()
        if count > 1 and len(word) >= _KEY_TERM_LENGTH_MIN
    ]
    return [word for _, word in sorted(repeated)[:KEY_TERMS_MAX]]


def _bm25(sentences: Sequence[Sequence[str]], wanted: set[str]) -> list[float]:
    counts = [Counter(filter(wanted.__contains__, words)) for words in sentences]
    spread = Counter(chain.from_iterable(counts))
    total = len(sentences)
    rarity = {word: log(1 + (total - n + 0.5) / (n + 0.5)) for word, n in spread.items()}
    mean = sum(map(len, sentences)) / total or 1.0
    return [
        sum(
            rarity[word] * n * (_K1 + 1) / (n + _K1 * (1 - _B + _B * len(words) / mean))
            for word, n in sorted(counted.items())
        )
        for words, counted in zip(sentences, counts, strict=True)
    ]


def _fitting(sentences: Sequence[str], ranked: Sequence[int], tokens_max: int) -> str:
    """Take the best that fit, in the order of the prompt; cut the very best if none does."""
    chosen: list[int] = []
    left = tokens_max
    for index in ranked:
        if (size := _pieces(sentences[index])) <= left:
            chosen.append(index)
            left -= size
    if not chosen:
        return _cut(sentences[ranked[0]], tokens_max)
    return " ".join(sentences[index] for index in sorted(chosen))


def _cut(sentence: str, tokens_max: int) -> str:
    end = 0
    for piece, _ in zip(_PIECE.finditer(sentence), range(tokens_max), strict=False):
        end = piece.end()
    return sentence[:end]
