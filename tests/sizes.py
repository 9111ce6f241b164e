"""Print the longest files and functions of the package: where a reader may want a split. Nothing is limited; `make check` runs `python tests/sizes.py`."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "fretsaw"
SHOWN = 8


def functions(path: Path) -> list[tuple[int, str]]:
    """Return the length in lines and the name of every function in a file."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [((node.end_lineno or node.lineno) - node.lineno + 1, f"{path.relative_to(SOURCE)}: {node.name}") for node in nodes]


def main() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    lengths = [(len(path.read_text().splitlines()), str(path.relative_to(SOURCE))) for path in files]
    print(f"{len(files)} files, {sum(length for length, _ in lengths)} lines")
    for title, rows in (("longest files", lengths), ("longest functions", [row for path in files for row in functions(path)])):
        print(f"{title}:")
        for length, name in sorted(rows, reverse=True)[:SHOWN]:
            print(f"  {length:4}  {name}")


if __name__ == "__main__":
    main()
