"""What the commands share: settings, a console, and one event loop each."""

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra import logs
from infra.settings import Settings
from infra.writing import Writing, build_writing

T = TypeVar("T")

EXIT_REFUSED = 2

PLAIN_WIDTH = 120
"""Columns where the output is no terminal, and so has no width of its own."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
notes = Console(stderr=True, highlight=False, soft_wrap=True)


def settings() -> Settings:
    found = Settings.from_env()
    logs.configure(found.log_level)
    return found


def with_writing(work: Callable[[Writing], Awaitable[T]]) -> T:
    """Do something with the write side, beside a server that is running or without one."""
    writing = build_writing(settings())

    async def run() -> T:
        try:
            return await work(writing)
        finally:
            await writing.aclose()

    return asyncio.run(run())


def progress() -> Progress:
    """Show a bar on a terminal; elsewhere the callers print plain lines."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        disable=not notes.is_terminal,
        transient=True,
    )


def user_name() -> str:
    """Name who runs this process; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def refuse(message: str) -> typer.Exit:
    """Tell why on stderr; raise what is returned."""
    notes.print(f"automatos: {message}", markup=False)
    return typer.Exit(EXIT_REFUSED)
