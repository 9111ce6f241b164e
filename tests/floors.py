"""Runs tests on the wheel, with the lowest version of every direct dependency that pyproject.toml admits: `make floors`, or `python tests/floors.py FILE`.

The versions are installed into a virtual environment of their own, .floors, and Fretsaw as a user gets it: as a wheel, not as this checkout. What the versions
bring themselves is the newest that fits. Slow tests, which train and evaluate for minutes, are left out but for those in `ALSO`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".floors"
ALSO = ["tests/recipes/hrsam/test_hrsam_processes.py::test_two_processes_have_the_gradients_of_one[distil]"]
"""Slow tests without which a dependency would not be called at all: Lightning Fabric."""
MOST_WHEEL_BYTES = 95_000_000
"""A package index takes 100 MB."""


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
    """Return the interpreter of a virtual environment with the floors, made anew unless these very floors lie there, and with the wheel of this checkout."""
    python, stamp = folder / "bin" / "python", folder / "floors.txt"
    wanted = "\n".join(floors()) + "\n"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if not stamp.is_file() or stamp.read_text() != wanted:
        started = time.monotonic()
        print(f"== installing into {folder.name}: {' '.join(wanted.split())}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([*pip, "install", *wanted.split()], check=True)
        stamp.write_text(wanted)
        print(f"== installed in {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as built:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", built, ROOT], check=True)
        [wheel] = Path(built).iterdir()
        check_wheel(wheel)
        subprocess.run([*pip, "install", "--no-deps", "--force-reinstall", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)
    return python


def check_wheel(wheel: Path) -> None:
    """Exit unless a wheel is small enough, and holds the package and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    source = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "fretsaw").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    package = {name for name in names if ".dist-info/" not in name}
    if package != source:
        sys.exit(f"{wheel.name}: expected what lies in src, got {sorted(package - source)} too much and {sorted(source - package)} too little")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name}: expected the licence in the wheel, got none")
    if wheel.stat().st_size > MOST_WHEEL_BYTES:
        sys.exit(f"{wheel.name}: expected at most {MOST_WHEEL_BYTES} bytes, got {wheel.stat().st_size}")
    print(f"== {wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/floors.py", description=__doc__)
    parser.add_argument("--workers", type=int, default=0, help="processes that run tests; 0 runs them in one")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="folder of the virtual environment")
    options, rest = parser.parse_known_args()
    python = make_environment(options.environment)
    threads = {"OMP_NUM_THREADS": "1"} if options.workers else {}
    command = [python, "-m", "pytest", "-n", str(options.workers), "--dist", "loadfile", "-p", "no:cacheprovider"]
    runs = [["-m", "not slow", *rest]] if rest else [ALSO, ["-m", "not slow"]]
    statuses = [subprocess.run([*command, *run], cwd=ROOT, env=os.environ | threads, check=False).returncode for run in runs]
    sys.exit(max(statuses))


if __name__ == "__main__":
    main()
