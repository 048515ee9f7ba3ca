"""Fail when a test was skipped: `skipped.py junit.xml`.

A skipped test is a promise that nobody checked. Tests of the long size are
deselected, not skipped, and tests that are expected to fail did run.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def skipped(junit: str) -> list[str]:
    return [
        f"{case.get('classname')}::{case.get('name')}: {skip.get('message')}"
        for case in ET.fromstring(junit).iter("testcase")  # noqa: S314  (our own file)
        for skip in case.iter("skipped")
        if skip.get("type") != "pytest.xfail"
    ]


def main() -> int:
    found = skipped(Path(sys.argv[1]).read_text("utf-8"))
    sys.stdout.writelines(f"skipped: {test}\n" for test in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
