"""`automatos`, and `python -m infra`."""

import os
import sqlite3
import sys
from typing import NoReturn

import sqlalchemy.exc

from commands.transact import CommandError
from infra.cli.app import app
from infra.cli.shared import EXIT_REFUSED
from infra.event_store.codec import CannotDecode
from infra.lock import FolderIsInUse
from infra.settings import BadSettings

EXIT_INTERRUPTED = 130

_MENDABLE = (
    BadSettings,
    FolderIsInUse,
    CannotDecode,
    CommandError,
    PermissionError,
    NotADirectoryError,
    sqlite3.OperationalError,
    sqlalchemy.exc.OperationalError,
)


def main() -> None:
    """Run the command line; what people can mend themselves is told in one line."""
    try:
        app()
    except _MENDABLE as error:
        _refuse(error)
    except (sqlite3.DatabaseError, sqlalchemy.exc.DatabaseError) as error:
        # Of this very class is what SQLite says of a damaged file; the others are our mistakes.
        if type(getattr(error, "orig", error)) is not sqlite3.DatabaseError:
            raise
        _refuse(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: Exception) -> NoReturn:
    sys.stderr.write(f"automatos: {getattr(error, 'orig', error)}\n")
    sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
