"""Fail when a file names a package registry or a path of the machine it was written on.

`addresses.py [FILE…]`; without files, every file that git tracks. Both would
tie the project to one place: whoever installs it chooses the registry.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Written so that this file passes its own check.
REGISTRIES = (
    r"pypi\.org",
    r"pythonhosted\.org",
    r"npmj[s]\.",
    r"yarnpkg\.com",
    r"repo1?\.maven\.(apache\.)?org",
    r"maven\.google\.com",
    r"proxy\.golang\.org",
    r"(static|index)\.crates\.io",
)
MACHINE_PATHS = (r"(?<![\w.~}-])/(?:work|root)/",)
SETTINGS = re.compile(r"(?i)^(PIP|UV|NPM_CONFIG|YARN|POETRY)_|^(HTTPS?|ALL)_PROXY$")
HOST = re.compile(r"://(?:[^/@\s'\"]*@)?([\w.-]+)")
LOCAL = {"localhost", "127.0.0.1", "0.0.0.0"}  # noqa: S104  (a name to leave alone, not to bind)


def mirrors(environment: Mapping[str, str], pip_config: str) -> set[str]:
    """Name the hosts that this machine installs from."""
    settings = [value for name, value in environment.items() if SETTINGS.search(name)]
    return {host for text in (*settings, pip_config) for host in HOST.findall(text)} - LOCAL


def findings(text: str, hosts: set[str]) -> Iterator[str]:
    """Give each offending line as `number: line`."""
    names = [*REGISTRIES, *MACHINE_PATHS, *(re.escape(host) for host in sorted(hosts))]
    offence = re.compile("|".join(names), re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), start=1):
        if offence.search(line):
            yield f"{number}: {line.strip()[:160]}"


def _output(*command: str) -> str:
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return answer.stdout if answer.returncode == 0 else ""


def _tracked() -> list[Path]:
    names = _output("git", "ls-files", "-z").split("\0")
    return [ROOT / name for name in names if name]


def main() -> int:
    files = [Path(name) for name in sys.argv[1:]] or _tracked()
    if not files:
        sys.stderr.write("no files to look at: git does not know this directory\n")
        return 1
    hosts = mirrors(os.environ, _output(sys.executable, "-m", "pip", "config", "list"))
    found = 0
    for file in files:
        if not file.is_file() or file.is_symlink():
            continue
        for finding in findings(file.read_text("utf-8", errors="replace"), hosts):
            sys.stdout.write(f"{os.path.relpath(file, ROOT)}:{finding}\n")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
