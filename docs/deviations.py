"""Rewrite the list of deviations at the end of docs/papers.md from the docstrings: python docs/deviations.py"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_architecture import deviations  # noqa: E402

path = ROOT / "docs" / "papers.md"
head = path.read_text().split("## Deviations", 1)[0]
rows = [f"| `{file}` | {text.replace('|', chr(92) + '|')} |" for file, texts in sorted(deviations().items()) for text in texts]
path.write_text(
    head + "## Deviations\n\nEvery place where the code differs from its source, in the words of the code (made by `python docs/deviations.py`).\n\n"
    "| file | what differs, and why |\n|---|---|\n" + "\n".join(rows) + "\n"
)
