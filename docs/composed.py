"""An application to write pages from: composed as ever, over a folder that is thrown away."""

import tempfile
from pathlib import Path

from litestar import Litestar

from infra.composition import build_app, build_installation
from infra.settings import Settings


def composed() -> Litestar:
    with tempfile.TemporaryDirectory() as folder:
        installation = build_installation(Settings(data_dir=Path(folder)))
        return build_app(installation, closing=lambda: False)
