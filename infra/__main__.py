"""`automatos`, and `python -m infra`."""

import os
import sys

from infra.cli.app import app
from infra.cli.shared import EXIT_REFUSED
from infra.event_store.codec import CannotDecode
from infra.lock import FolderIsInUse
from infra.settings import BadSettings

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; what people can mend themselves is told in one line."""
    try:
        app()
    except (BadSettings, FolderIsInUse, CannotDecode) as error:
        sys.stderr.write(f"automatos: {error}\n")
        sys.exit(EXIT_REFUSED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
