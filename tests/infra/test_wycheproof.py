"""Wycheproof's vectors of JSON web signatures, keys and key sets, through the signature layer."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.jwks import BadKeys, key_set, verification_key
from infra.jws import InvalidToken, check_signature, take_apart

Json = dict[str, Any]

RS256_VALID = 8
"""In the file of signatures."""


class Vector(msgspec.Struct, frozen=True):
    """Attributes:
    key: A JWK or a JWK set; the public half where there is one.
    """

    name: str
    key: Json
    token: object
    is_valid: bool


def vectors(shared: Path, file: str) -> Iterator[Vector]:
    folder = shared / "wycheproof"
    if not folder.is_dir():
        pytest.skip("no Wycheproof vectors in ../shared/data/wycheproof")
    found = json.loads((folder / f"{file}.json").read_text())
    for group in found["testGroups"]:
        key = group.get("public") or group["private"]
        for test in group["tests"]:
            name = f"{test['tcId']} {test['comment']}"
            token = test.get("jws") or test.get("jwe")
            yield Vector(name, key, token, test["result"] == "valid")


def accepted(vector: Vector) -> bool:
    """Tell whether a key that we would use has signed the token."""
    token = vector.token if isinstance(vector.token, str) else json.dumps(vector.token)
    try:
        if "keys" in vector.key:
            keys = [*key_set(json.dumps(vector.key).encode()).values()]
        else:
            keys = [verification_key(vector.key)]
    except BadKeys:
        return False
    for key in keys:
        try:
            check_signature(take_apart(token), key)
        except InvalidToken:
            continue
        return True
    return False


def algorithm(vector: Vector) -> str:
    """Name what a vector is for; the first key's, in a set."""
    key = vector.key["keys"][0] if "keys" in vector.key else vector.key
    return str(key.get("alg", "none named"))


def test_of_signatures_the_valid_ones_of_rs256_are_accepted_and_no_others(shared: Path) -> None:
    found = list(vectors(shared, "json_web_signature_test"))
    assert len(found) == 401
    taken = [vector for vector in found if accepted(vector)]
    assert [vector.name for vector in taken if not vector.is_valid] == []
    assert Counter(map(algorithm, taken)) == {"RS256": RS256_VALID}
    missed = [v.name for v in found if v.is_valid and algorithm(v) == "RS256" and not accepted(v)]
    assert missed == []


@pytest.mark.parametrize(
    ("file", "number", "valid"),
    [("json_web_key_test", 26, 1), ("json_web_crypto_test", 83, 1)],
)
def test_of_keys_the_valid_ones_of_rs256_are_accepted_and_no_others(
    shared: Path, file: str, number: int, valid: int
) -> None:
    found = list(vectors(shared, file))
    assert len(found) == number
    taken = [vector for vector in found if accepted(vector)]
    assert [vector.name for vector in taken if not vector.is_valid] == []
    assert Counter(map(algorithm, taken)) == {"RS256": valid}


def test_a_key_that_can_be_factored_is_refused_for_that_reason(shared: Path) -> None:
    keys = [
        vector.key["keys"][0]
        for vector in vectors(shared, "json_web_key_test")
        if "Roca" in vector.name
    ]
    assert len(keys) == 1
    with pytest.raises(BadKeys, match="CVE-2017-15361"):
        verification_key(keys[0])
