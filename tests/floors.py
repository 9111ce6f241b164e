"""Runs tests with the lowest version of every direct dependency that pyproject.toml admits: `make floors`, or `python tests/floors.py tests/test_images.py`.

The versions are installed into a virtual environment of their own, .floors. What they bring themselves is the newest version that fits. Slow tests, which train
and evaluate for minutes, are left out: they call nothing of other packages that the quick ones do not call.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".floors"


def floors(project: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return NAME==FLOOR for every direct dependency, those of the extras included."""
    table = tomllib.loads(project.read_text())["project"]
    texts = [*table["dependencies"], *(text for texts in table["optional-dependencies"].values() for text in texts)]
    exact = set()
    for requirement in map(Requirement, texts):
        [floor] = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        exact.add(f"{requirement.name}=={floor}")
    return sorted(exact)


def make_environment(folder: Path) -> Path:
    """Return the interpreter of a virtual environment with the floors, made anew unless these very floors lie there."""
    python, stamp = folder / "bin" / "python", folder / "floors.txt"
    wanted = "\n".join(floors()) + "\n"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    started = time.monotonic()
    print(f"== installing into {folder.name}: {' '.join(wanted.split())}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(wanted)
    extras = ",".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--constraint", constraints, "--editable", f"{ROOT}[{extras}]"], check=True)
    subprocess.run([*pip, "check"], check=True)
    stamp.write_text(wanted)
    print(f"== installed in {time.monotonic() - started:.0f} s", flush=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/floors.py", description=__doc__)
    parser.add_argument("--workers", type=int, default=0, help="processes that run tests; 0 runs them in one")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="folder of the virtual environment")
    options, rest = parser.parse_known_args()
    python = make_environment(options.environment)
    command = [python, "-m", "pytest", "-n", str(options.workers), "--dist", "loadfile", "-m", "not slow", "-p", "no:cacheprovider", *rest]
    threads = {"OMP_NUM_THREADS": "1"} if options.workers else {}
    sys.exit(subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=False).returncode)


if __name__ == "__main__":
    main()
