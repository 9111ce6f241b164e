"""Programs of the system that some tests drive: a browser, a proxy, a JavaScript engine. A test that needs one says `need("nginx")`.

Where the program is absent, the test skips and names it; the last line of `make test` counts such skips. Continuous integration installs these programs, and
names them in FRETSAW_NO_SKIP (separated by spaces): there a test that lacks one fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable

import pytest

PROGRAMS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "nginx": ("nginx",),
    "node": ("node", "nodejs"),
    "openssl": ("openssl",),
}
"""Each program by the name of Debian's package that brings it (nodejs brings node), with the commands it may be called by."""

PACKAGES = {"node": "nodejs"}
FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Where Debian puts servers; the PATH of an ordinary user lacks these folders."""


def find(program: str) -> str | None:
    """Return the path of a program of `PROGRAMS`, or None; FRETSAW_CHROMIUM (FRETSAW_NGINX, ...) names one elsewhere."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *FOLDERS))
    return os.environ.get(f"FRETSAW_{program.upper()}") or next((found for name in PROGRAMS[program] if (found := shutil.which(name, path=path))), None)


def need(program: str, least: int = 0) -> str:
    """Return the path of a program; where it is absent or too old, skip the test, or fail it if FRETSAW_NO_SKIP names the program.

    Args:
        program: One of `PROGRAMS`.
        least: The lowest major version that will do, as `PROGRAM --version` prints it.
    """
    path = find(program)
    lacks = "absent"
    if path is not None:
        found = re.search(r"\d+", subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout) if least else None
        if not least or (found and int(found[0]) >= least):
            return path
        lacks = f"older than {least}"
    reason = f"needs {program} ({lacks}): apt-get install {PACKAGES.get(program, program)}, or FRETSAW_{program.upper()}=PATH"
    if program in os.environ.get("FRETSAW_NO_SKIP", "").split():
        pytest.fail(f"{reason}; FRETSAW_NO_SKIP allows no skip for want of {program}", pytrace=False)
    pytest.skip(reason)


def skips(reasons: Iterable[str]) -> str:
    """Return one line that counts skipped tests by what they need: "skipped: 31 need chromium (absent), 1 needs a cuda device"; "" for none."""
    counts = Counter(re.split(r"[:;]|, which", reason.removeprefix("Skipped: ").strip())[0] for reason in reasons)
    parts = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        needed = reason.removeprefix("needs ")
        parts.append(f"{count} ({reason})" if needed == reason else f"{count} {'needs' if count == 1 else 'need'} {needed}")
    return f"skipped: {', '.join(parts)}" if parts else ""


@pytest.hookimpl(trylast=True)  # after the slowest tests, which are many lines
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what the skipped tests would have needed. With xdist, the reports come from the workers and are counted here once."""
    line = skips(report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    if line:
        terminalreporter.write_line(line)
