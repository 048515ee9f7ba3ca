"""One write side per test."""

from collections.abc import Iterator

import pytest

from tests.commands.writing import Writing


@pytest.fixture
def writing() -> Iterator[Writing]:
    writing = Writing()
    yield writing
    writing.close()
