"""The seams of types.py are signatures: nothing probes a model, and nothing sets attributes on an object that others share."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fretsaw"
TREES = {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

PROBED = {
    # whose attribute it is, and why it may be missing
    "O_BINARY": "os: Windows alone has it",
    "sched_getaffinity": "os: Linux alone has it",
    "pthread_sigmask": "signal: Windows lacks it",
    "malloc_trim": "the C library: only glibc has it",
    "strerror": "OSError: Pillow raises some without it",
    "problem_mark": "PyYAML's errors: only those of its scanner and parser have it",
    "line": "PyYAML's mark, as above",
    "path": "a route of Starlette, absent for unknown addresses; a file of any library",
    "name": "a route of Starlette, as above; a user's file object may have no name",
    "filename": "Pillow: an image that was not read from a file has none",
    "__len__": "a value of pydicom that may be a sequence or a single number",
    "fp": "Pillow: an image that is not read from a file has none",
    "read": "tells a user's file object from other arguments",
    "shape": "describes any wrong argument in a message",
    "dtype": "describes any wrong argument in a message",
    "skip": "a watcher of a training run may only count",
    "say": "a watcher of a training run may only count",
    "o_proj": "transformers names the output projection of SAM and SAM 2 differently",
}
"""Attributes that code may look for with getattr or hasattr, each with its owner and the reason. None is a model's own."""


def probes(tree: ast.AST) -> list[tuple[int, str]]:
    """Return (line, attribute) of every getattr with a default and every hasattr whose attribute is a constant."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant)):
            continue
        if node.func.id in ("getattr", "hasattr"):
            found.append((node.lineno, str(node.args[1].value)))
    return found


def test_nothing_probes_a_model():
    found = {(file, line, name) for file, tree in TREES.items() for line, name in probes(tree)}
    assert {probe for probe in found if probe[2] not in PROBED} == set(), "write a protocol in types.py and a signature that names it"
    assert set(PROBED) - {"malloc_trim"} <= {name for _, _, name in found}, "an exception that nothing needs any more"


SHARED = (
    "types.py",
    "runtimes/",
    "session.py",
    "session_file.py",
    "history.py",
    "segmentation.py",
    "api.py",
    "zoom.py",
    "frames.py",
    "masks.py",
    "catalog/",
    "compat/",
)


def foreign(tree: ast.AST) -> list[tuple[int, str]]:
    """Return (line, target) of every assignment to an attribute of another object than self."""
    found = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and not (isinstance(part.value, ast.Name) and part.value.id == "self"):
                    found.append((part.lineno, ast.unparse(part)))
    return found


def test_above_the_networks_nobody_sets_attributes_of_another_object():
    """An array may be made read-only, and a session makes its sibling."""
    found = [(file, line, target) for file, tree in TREES.items() if file.startswith(SHARED) for line, target in foreign(tree)]
    strange = [
        row
        for row in found
        if not row[2].endswith(".flags.writeable") and (row[0], row[2]) not in {("session.py", "other._lock"), ("session.py", "other._history")}
    ]
    assert strange == []


def defined(tree: ast.Module) -> set[str]:
    """Return the names of a module's functions, classes, values, and methods as Class.method."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{row.name}" for row in node.body if isinstance(row, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {target.id for target in (node.targets if isinstance(node, ast.Assign) else [node.target]) if isinstance(target, ast.Name)}
    return names


def test_every_step_of_the_walk_exists():
    """CONTRIBUTING's walk of a pixel names files and functions; each is there, and the walk touches all layers between the command and the file."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## A walk of a pixel", 1)[1].split("\n## ", 1)[0]
    steps = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)
    assert len(steps) > 25
    missing = [f"{file}: {name}" for file, name in steps if file not in TREES or name not in defined(TREES[file])]
    assert missing == []
    order = [file.split("/")[0].removesuffix(".py") for file, _ in steps]
    first = [order.index(name) for name in ("cli", "api", "catalog", "images", "frames", "backbones", "edges")]
    assert first == sorted(first)
    assert {"cli", "outputs", "api", "catalog", "images", "session", "runtimes", "frames", "methods", "backbones", "edges", "masks", "segmentation"} <= set(
        order
    )
