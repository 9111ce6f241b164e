"""`python -m tests.fuzz --count 50000`: try many generated inputs and print what became of them."""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
from pathlib import Path

from . import child, harness


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="inputs over all targets")
    parser.add_argument("--target", action="append", default=[], help="one target alone; may be given more than once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    parser.add_argument("--missing", action="store_true", help="name the lines that never ran")
    parser.add_argument("--replay", type=Path, help="try a saved input in this process, where a debugger reaches it, and print what happens")
    options = parser.parse_args()
    if options.replay is not None:
        replay(options.replay, options.target)
        return
    report = harness.run(options.count, options.seed, options.target, keep=options.keep, tell=lambda text: print(text, file=sys.stderr, flush=True))
    print(report.table())
    if options.missing:
        for module, (_, _, lines) in report.coverage.items():
            print(f"{module}: {lines}")
    print(f"\n{report.inputs} inputs in {report.seconds:.0f} s, {100 * report.past_header:.0f} % past the header, {len(report.failures)} kinds of failures")
    raise SystemExit(1 if report.failures else 0)


def replay(path: Path, names: list[str]) -> None:
    """Try a saved input; the target is named by `--target` or by the beginning of the file's name."""
    targets = {target.name: target for file in harness.target_files() for target in child.load(file)}
    name = names[0] if names else path.stem.rpartition("-")[0]
    value = pickle.loads(path.read_bytes())
    print(f"{name}: {value!r:.2000}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("past the header:", targets[name].attempt(value, Path(folder)))


if __name__ == "__main__":
    main()
