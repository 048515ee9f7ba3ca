"""Between any two side effects stands a failpoint: each effect has one of its own before it.

What counts is what outlasts the process, or is seen outside of it: a commit, a statement that
commits by itself, a record sent, a topic made, a model asked, a file changed, a process forked
or killed. What is written within a transaction is one effect, its commit; so is what a function
writes on a connection that it was given, whose transaction is its caller's. Nothing is expected
of what only reads.

The point stands in the same function: after the effect before it, and in the same loop. The only
effect of a function may instead have it wherever the same file calls, or names, that function.
The rule looks no further than one call, and only at `infra`, where alone there are such effects.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

ROOT = Path(__file__).resolve().parents[2]
POINTS_MIN = 40

STATEMENTS = {"execute", "executemany", "executescript", "exec_driver_sql"}
"""What sends SQL, or, without a statement, a pipeline of Redis."""

READING = ("SELECT", "PRAGMA", "BEGIN", "SAVEPOINT", "ROLLBACK", "RELEASE", "SET ", "LOCK ")
"""How statements begin that leave nothing behind when their connection ends."""

WRITING = ("INSERT ", "UPDATE ", "DELETE ")
TRANSACTIONS = {"begin", "transaction"}
READERS = {"checkpoint", "digest", "standings", "waiting_slices"}
"""What only reads on the connection that it is given; anything else is taken to write."""

PORTS = {
    "send": "a record of Kafka",
    "create_topics": "a topic",
    "create_all": "tables",
    "drop": "a table",
    "write": "a file, or the log",
    "write_text": "a file",
    "write_bytes": "a file",
    "touch": "a file",
    "mkdir": "a folder",
    "truncate": "a file",
    "unlink": "a file",
    "rename": "a file",
    "fork": "a process",
    "kill": "a process",
}
MODELS = {"messages", "completions", "with_streaming_response"}
"""Whose `create` and `stream` ask a model; other ones' `create` makes a table."""

READS = "it only reads"
HANDS_OVER = "it hands over to the log's lane, which has its own"
ALLOWED = {
    "infra/protocol.py Http._refuse": "it writes a last answer to a connection that it closes",
    "infra/rate_limits.py InRedis._ask": "it counts, and a count lost lets one more request pass",
    "infra/event_store/postgres.py PostgresLog._read": READS,
    "infra/event_store/postgres_recorders.py LogThread.write": HANDS_OVER,
    "infra/event_store/postgres_recorders.py _told": "a hint to the package's own subscribers",
    "infra/event_store/postgres_recorders.py _write": HANDS_OVER,
    "infra/event_store/recorders.py _write": HANDS_OVER,
    "infra/failpoints.py _reach": "it is what a failpoint does",
    "infra/postgres/keys.py PostgresKeys._once": "it writes a key, between two points of the vault",
    "infra/postgres/reads.py _asked": READS,
    "infra/postgres/tickets.py DatabaseTickets._execute": "who loses a ticket takes another",
}
"""Functions that need none, each with the reason."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Loop: TypeAlias = ast.For | ast.AsyncFor | ast.While


class Mark(NamedTuple):
    """A failpoint, or an effect that lacks one until it is found to have one.

    Attributes:
        what: Empty for a failpoint.
    """

    line: int
    column: int
    what: str
    loop: ast.AST | None


class Source(NamedTuple):
    functions: Mapping[str, Function]
    texts: Mapping[str, str]


# What stands in the source.


def sources() -> Iterator[Path]:
    yield from sorted((ROOT / "infra").rglob("*.py"))


def points(source: str) -> Iterator[str]:
    """Give the names of failpoints; one that is no literal is called `?`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _called(node) == "failpoint":
            [name] = node.args
            yield str(name.value) if isinstance(name, ast.Constant) else "?"


def bare(source: str) -> list[str]:
    """Tell the functions with an effect that has no failpoint before it, each with its effects."""
    read = _read(source)
    marks = {name: list(_marks(read, function)) for name, function in read.functions.items()}
    found = {name: _lacking(each) for name, each in marks.items()}
    return [
        f"{name}: {', '.join(dict.fromkeys(mark.what for mark in lacking))}"
        for name, lacking in found.items()
        if lacking and not _is_covered_by_callers(name, marks, read)
    ]


def _read(source: str) -> Source:
    tree = ast.parse(source)
    return Source(dict(_functions(tree, "")), _assigned(tree.body, {}))


def _assigned(body: Sequence[ast.stmt], known: Mapping[str, str]) -> dict[str, str]:
    """Spell the texts that names stand for."""
    texts = dict(known)
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            if isinstance(target, ast.Name) and node.value is not None:
                texts[target.id] = _text(node.value, texts)
    return texts


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "")
        if isinstance(child, Function):
            yield prefix + name, child
        inner = isinstance(child, Function | ast.ClassDef)
        yield from _functions(child, f"{prefix}{name}." if inner else prefix)


def _own(function: Function) -> Iterator[tuple[ast.AST, Loop | None, bool]]:
    """Give what a function itself does: each node, its loop, and whether in a transaction."""
    yield from _below(function, None, within=False)


def _below(
    node: ast.AST, loop: Loop | None, *, within: bool
) -> Iterator[tuple[ast.AST, Loop | None, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        yield child, loop, within
        inner = child if isinstance(child, Loop) else loop
        yield from _below(child, inner, within=within or _is_transaction(child))


def _is_transaction(node: ast.AST) -> bool:
    items = node.items if isinstance(node, ast.With | ast.AsyncWith) else []
    calls = [item.context_expr for item in items]
    return any(isinstance(call, ast.Call) and _called(call) in TRANSACTIONS for call in calls)


def _writes(transaction: ast.AST, texts: Mapping[str, str]) -> bool:
    """Tell whether a transaction leaves anything behind."""
    calls = [node for node in ast.walk(transaction) if isinstance(node, ast.Call)]
    return any(
        _on_connection(call) or _effect(call, texts, set(), within=False)
        for call in calls
        if _called(call) not in READERS
    )


def _marks(read: Source, function: Function) -> Iterator[Mark]:
    """Give a function's failpoints and effects, in order."""
    given = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    texts = dict(read.texts) | _assigned(function.body, read.texts)
    found: list[Mark] = []
    for node, loop, within in _own(function):
        if _is_transaction(node) and _writes(node, texts):
            assert isinstance(node, ast.With | ast.AsyncWith)
            end = node.end_lineno or node.lineno
            found.append(Mark(end, node.end_col_offset or 0, "commit", loop))
        if isinstance(node, ast.Call):
            what = _effect(_handed_over(node), texts, given, within=within)
            if _called(node) == "failpoint":
                found.append(Mark(node.lineno, node.col_offset, "", loop))
            elif what:
                found.append(Mark(node.lineno, node.col_offset, what, loop))
    yield from sorted(found, key=lambda mark: mark[:2])


def _lacking(marks: Sequence[Mark]) -> list[Mark]:
    """Give the effects before which no failpoint stands, after the effect before them."""
    first = Mark(0, 0, "the beginning", None)
    pointed = {mark.loop for mark in marks if not mark.what}
    return [
        mark
        for before, mark in pairwise([first, *marks])
        if mark.what and (before.what or (mark.loop is not None and mark.loop not in pointed))
    ]


def _is_covered_by_callers(name: str, marks: Mapping[str, Sequence[Mark]], read: Source) -> bool:
    effects = [mark for mark in marks[name] if mark.what]
    if len(effects) > 1:
        return False
    called = name.rpartition(".")[2]
    calls = {
        other: [
            Mark(node.lineno, node.col_offset, called, loop)
            for node, loop, _ in _own(function)
            if isinstance(node, ast.Name | ast.Attribute) and _named(node) == called
        ]
        for other, function in read.functions.items()
        if other != name
    }
    calls = {other: found for other, found in calls.items() if found}
    return bool(calls) and not any(
        mark in found
        for other, found in calls.items()
        for mark in _lacking(sorted([*marks[other], *found], key=lambda mark: mark[:2]))
    )


# What a call does.


def _effect(call: ast.Call, texts: Mapping[str, str], given: set[str], *, within: bool) -> str:
    """Say what a call changes in the world; nothing if it does not."""
    name, receiver = _called(call), _receiver(call)
    if name in STATEMENTS:
        text = _text(call.args[0], texts).strip().upper() if call.args else ""
        theirs = (within or receiver in given) and not text.startswith("COMMIT")
        return "" if theirs or _only_reads(text) else "statement"
    if name in {"create", "stream"} and receiver in MODELS:
        return "a request to a model"
    if name in PORTS:
        in_transaction = name in {"create_all", "drop"} and (within or _on_connection(call))
        told = receiver in {"stdout", "stderr"}
        return "" if in_transaction or told else PORTS[name]
    if name == "replace" and len(call.args) == 1 and not call.keywords:
        return "a file"
    if name == "open":
        return "a file" if _mode(call) & set("wax+") else ""
    return ""


def _on_connection(call: ast.Call) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "connection" for each in call.args)


def _only_reads(text: str) -> bool:
    if text.startswith("WITH"):
        return not any(word in text for word in WRITING)
    return text.startswith(READING)


def _text(node: ast.expr, texts: Mapping[str, str]) -> str:
    """Spell a statement, as far as the source tells it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return texts.get(name, "")
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, texts) for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value, texts) or "?"
        case ast.BinOp(left=left, right=right):
            return _text(left, texts) + _text(right, texts)
        case ast.Call(func=ast.Name(id="select")):
            return "SELECT"
        case ast.Call(func=ast.Attribute(value=value)):
            return _text(value, texts)
        case _:
            return ""


def _mode(call: ast.Call) -> set[str]:
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    return {letter for text in texts if isinstance(text, str) and len(text) < 4 for letter in text}


def _handed_over(call: ast.Call) -> ast.Call:
    """Give the call that another thread is to make, if this one hands it over."""
    if _called(call) not in {"to_thread", "partial"}:
        return call
    return ast.Call(func=call.args[0], args=call.args[1:], keywords=call.keywords)


def _called(call: ast.Call) -> str:
    return _named(call.func)


def _named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _receiver(call: ast.Call) -> str:
    return _named(call.func.value) if isinstance(call.func, ast.Attribute) else ""


# The tests.


def uncovered(source: str) -> list[str]:
    return [line.partition(":")[0] for line in bare(source)]


def test_every_side_effect_has_a_failpoint_before_it() -> None:
    found = {
        f"{file.relative_to(ROOT)} {each.partition(':')[0]}": each
        for file in sources()
        for each in bare(file.read_text("utf-8"))
    }
    assert {place: what for place, what in found.items() if place not in ALLOWED} == {}


def test_no_function_is_allowed_what_it_does_not_need() -> None:
    found = {
        f"{file.relative_to(ROOT)} {each}"
        for file in sources()
        for each in uncovered(file.read_text("utf-8"))
    }
    assert set(ALLOWED) - found == set()


def test_failpoints_are_many_and_each_has_a_name_of_its_own() -> None:
    names = [name for file in sources() for name in points(file.read_text("utf-8"))]
    assert len(names) == len(set(names)) >= POINTS_MIN
    assert [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []


@pytest.mark.parametrize(
    "effect",
    [
        'self._writer.execute("COMMIT")',
        'connection.execute("COMMIT")',
        'database.execute("INSERT INTO keys VALUES (?)", values)',
        "database.execute(ADD, values)",
        "database.executemany(statement, values)",
        'cursor.execute("WITH told AS (DELETE FROM keys) SELECT")',
        "pipeline.execute()",
        "producer.send(topic, value)",
        "admin.create_topics(wanted)",
        "client.chat.completions.create(model=model)",
        "client.messages.with_streaming_response.create(model=model)",
        "client.messages.stream(model=model)",
        "path.write_text(text)",
        "path.replace(other)",
        "path.unlink()",
        'path.open("wb")',
        'open(path, "a")',
        "asyncio.to_thread(path.open, 'wb')",
        "os.kill(pid, 9)",
        "os.fork()",
        "tables.create_all(engine)",
    ],
)
def test_a_side_effect_without_a_failpoint_is_found(effect: str) -> None:
    bare_one = f'ADD = "INSERT INTO keys"\ndef change(connection):\n    {effect}\n'
    assert uncovered(bare_one) == ["change"]
    assert uncovered(bare_one.replace("    ", '    failpoint("a.b")\n    ')) == []


@pytest.mark.parametrize(
    "reading",
    [
        'database.execute("SELECT 1")',
        "database.execute(FIND, values)",
        'database.execute(f"SELECT {columns} FROM keys")',
        "database.execute(select(table).where(place))",
        'database.execute("BEGIN IMMEDIATE")',
        'connection.execute("INSERT INTO keys VALUES (?)")',
        "tables.create_all(connection)",
        'path.open("rb")',
        'text.replace("a", "b")',
        "sys.stdout.write(text)",
        "log.stream(name)",
    ],
)
def test_what_only_reads_or_is_its_callers_needs_none(reading: str) -> None:
    source = f'FIND = "SELECT key FROM keys"\ndef look(connection):\n    {reading}\n'
    assert uncovered(source) == []


POINT, WRITE = 'failpoint("a.b")', "path.unlink()"


@pytest.mark.parametrize(
    ("lines", "covered"),
    [
        ([POINT, WRITE, POINT, WRITE], True),
        ([POINT, WRITE, WRITE], False),
        ([WRITE, POINT], False),
        ([POINT, "for path in paths:", f"    {WRITE}"], False),
        (["for path in paths:", f"    {POINT}", f"    {WRITE}"], True),
        (["with engine.begin() as connection:", f"    {POINT}", "    put(connection)"], True),
        (["with engine.begin() as connection:", "    put(connection)", POINT], False),
        (["with engine.begin() as connection:", "    standings(connection)"], True),
        (["with engine.begin() as connection:", "    connection.execute(changes)"], False),
        (["def inner():", f"    {WRITE}", POINT, "inner()"], True),
        (["def inner():", f"    {WRITE}", "inner()"], False),
        (["def inner():", f"    {WRITE}", POINT, WRITE, "inner()"], False),
    ],
)
def test_each_side_effect_needs_a_failpoint_of_its_own(lines: list[str], *, covered: bool) -> None:
    source = "def change():\n" + "".join(f"    {line}\n" for line in lines)
    assert (uncovered(source) == []) is covered
