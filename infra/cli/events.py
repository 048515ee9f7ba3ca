"""`automatos events`: the log, for people and for machines."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from domain.catalog import AnyEvent
from domain.events import Blob, Event, Recorded
from infra.cli.shared import out, refuse, with_writing
from infra.failpoints import failpoint
from infra.writing import Writing
from read_api.events import event_body

PAGE_MAX = 1_000
DETAIL_MAX = 100
"""Characters of an event's data shown on a line."""

app = typer.Typer(help="The log of events.", no_args_is_help=True)


@app.callback()
def events() -> None:
    """The log of events."""


@app.command()
def tail(
    count: Annotated[int, typer.Option("-n", min=0, max=PAGE_MAX, help="How many.")] = 20,
    *,
    follow: Annotated[bool, typer.Option("-f", help="Go on as events are recorded.")] = False,
) -> None:
    """Show the newest events, one a line."""

    async def work(writing: Writing) -> None:
        head = await writing.store.head()
        after = max(0, head - count)
        while True:
            page = await writing.store.read_all(after=after, limit=PAGE_MAX)
            for recorded in page:
                out.print(line(recorded), markup=False)
            if page:
                after = page[-1].global_position
            elif follow:
                await writing.store.changed()
            else:
                return

    with_writing(work)


@app.command()
def show(
    position: Annotated[int, typer.Argument(min=1, help="The event's position.")],
    *,
    texts: Annotated[bool, typer.Option("--texts", help="Open the texts it refers to.")] = False,
) -> None:
    """Show one event whole, as JSON; with its prompt, input or output if asked."""

    async def work(writing: Writing) -> tuple[Recorded[AnyEvent], dict[str, str]]:
        found = await writing.store.read_all(after=position - 1, limit=1)
        if not found or found[0].global_position != position:
            raise refuse(f"There is no event at position {position}.")
        return found[0], await _texts(writing, found[0]) if texts else {}

    recorded, opened = with_writing(work)
    encoded = msgspec.json.format(msgspec.json.encode(event_body(recorded)), indent=2)
    out.print(encoded.decode(), markup=False)
    for name, text in opened.items():
        out.print(f"\n== {name}\n{text}", markup=False)


async def _texts(writing: Writing, recorded: Recorded[AnyEvent]) -> dict[str, str]:
    fields = ((name, getattr(recorded.event, name)) for name in recorded.event.__struct_fields__)
    return {
        name: await writing.store.text(recorded.metadata.workspace_id, value)
        for name, value in fields
        if isinstance(value, Blob)
    }


@app.command()
def export(
    to: Annotated[Path | None, typer.Option("--out", help="A file; else standard output.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only events after this position.")] = 0,
) -> None:
    """Write events as JSON, one a line, in order of position."""

    async def work(writing: Writing) -> int:
        failpoint("export.before_file")
        target = sys.stdout.buffer if to is None else await asyncio.to_thread(to.open, "wb")
        position, count = after, 0
        while page := await writing.store.read_all(after=position, limit=PAGE_MAX):
            lines = [msgspec.json.encode(event_body(recorded)) for recorded in page]
            failpoint("export.before_page")
            target.write(b"\n".join(lines) + b"\n")
            position, count = page[-1].global_position, count + len(page)
        failpoint("export.before_flush")
        target.flush()
        if to is not None:
            target.close()
        return count

    count = with_writing(work)
    if to is not None:
        out.print(f"{count} events written to {to}", markup=False)


def line(recorded: Recorded[AnyEvent]) -> str:
    """Spell an event on one line: position, time, type, stream, and the start of its data."""
    data = _brief(recorded.event)
    time = recorded.metadata.occurred_at.strftime("%H:%M:%S.%f")[:-3]
    kind, _, thing = recorded.stream_id.partition("-")
    name = f"{kind} {thing.partition('+')[2]}"
    tag = recorded.event.tag()
    return f"{recorded.global_position:>7}  {time}  {tag:<24} {name:<28} {data}"


def _brief(event: Event) -> str:
    """Spell an event's fields without what its line tells already."""
    fields = msgspec.to_builtins(event)
    told = ("type", "run_id", "agent_id", "workflow_id")
    pairs = (f"{name}={_plain(value)}" for name, value in fields.items() if name not in told)
    text = " ".join(pairs)
    return text if len(text) <= DETAIL_MAX else text[: DETAIL_MAX - 1] + "…"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
