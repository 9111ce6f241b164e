"""The rules of the house (CONTRIBUTING.md) that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fretsaw

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fretsaw"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

# A module imports only from modules to its left. A folder stands for all its files; a name with a prefix (evaluation.report) is found by its first part.
DIRECTION = (
    *(
        "errors",
        "types",
        "ownership",
        "frames",
        "edges",
        "outlines",
        "masks",
        "images",
        "segmentation",
        "history",
        "layers",
        "backbones",
        "clicks",
        "weights",
        "memory",
    ),
    "methods",
    *("zoom", "runtimes", "catalog", "session_file", "session", "api", "compat", "outputs", "coco_file", "interchange", "doctor"),
    *("data", "training", "evaluation", "recipes", "server", "cli"),
)
# These few imports happen inside functions, when the function is called, and point to the right on purpose.
LAZY_EXCEPTIONS = {("catalog", "session")}

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "stuff"}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_are_named_by_what_they_hold(path):
    assert path.stem not in FORBIDDEN_NAMES


def imports_of(tree: ast.AST) -> list[tuple[str, bool]]:
    """The parts of fretsaw that a module imports, each with whether the import runs with the module (not inside a function or for type checking)."""
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inside = False
            if isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "fretsaw":
                names = [child.module.split(".")[1]] if "." in child.module else [alias.name for alias in child.names]
                found.extend((name, at_import) for name in names)
            if isinstance(child, ast.Import):
                found.extend((alias.name.split(".")[1], at_import) for alias in child.names if alias.name.startswith("fretsaw."))
            visit(child, inside)

    visit(tree, True)
    return found


@pytest.mark.parametrize(
    "path", [path for path in FILES if path not in (SOURCE / "__init__.py", SOURCE / "__main__.py")], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_imports_point_one_way(path):
    own = part_of(path)
    assert own in DIRECTION, f"{own} has no place in the import direction"
    for name, at_import in imports_of(TREES[path]):
        if name == own or (not at_import and (own, name) in LAZY_EXCEPTIONS):
            continue
        if name not in DIRECTION:  # a name of the package itself, such as fretsaw.load
            assert own in ("cli", "doctor", "server"), f"{own} imports the package's own name {name}"
            continue
        if own == "catalog" and not at_import:
            continue  # builders are imported when they are called
        type_only = not at_import and name in ("frames", "methods", "session", "catalog")
        assert DIRECTION.index(name) < DIRECTION.index(own) or type_only, f"{own} imports {name}"


def test_what_a_session_needs_never_imports_torch():
    """`runtimes/torch.py` is the only file above the networks that runs them: whoever writes another runtime finds nothing else to exchange."""
    plain = {"errors", "types", "frames", "edges", "outlines", "masks", "images", "segmentation", "history", "zoom"}
    plain |= {"session_file", "session", "outputs", "server"}
    for path, tree in TREES.items():
        if part_of(path) not in plain:
            continue
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            torch = [module for module in modules if module and module.split(".")[0] == "torch"]
            assert not torch or (part_of(path), torch) == ("types", ["torch"]), f"{path.relative_to(SOURCE)} imports torch"


def test_every_seam_is_used():
    """Each Protocol of types.py is what some function elsewhere says that it takes or gives."""
    protocols = [node.name for node in TREES[SOURCE / "types.py"].body if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)]
    assert protocols
    named: set[str] = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and path.name != "types.py":
                taken = [argument.annotation for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                named.update(word for part in (*taken, node.returns) if part is not None for word in re.findall(r"\w+", ast.unparse(part)))
    assert set(protocols) <= named, f"no signature names {set(protocols) - named}"


def test_methods_do_not_import_each_other():
    """A method is a file or a folder of `methods`; files of one folder may import each other."""
    names = {path.stem for path in (SOURCE / "methods").iterdir() if path.suffix in ("", ".py")}
    for path in (SOURCE / "methods").rglob("*.py"):
        own = path.relative_to(SOURCE / "methods").with_suffix("").parts[0]
        used = set(re.findall(r"from fretsaw\.methods\.(\w+)[\w.]* import|from fretsaw\.methods import (\w+)", path.read_text()))
        used = {a or b for a, b in used} & names - {own, "sam_clicks"}
        assert not used, f"{path.name} imports {used}: give it the object instead"


def test_importing_fretsaw_loads_nothing_heavy():
    code = "import sys, fretsaw; print([m for m in ('torch', 'transformers', 'fastapi', 'cv2', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["auto", "--help"], ["models", "--help"]])
def test_help_does_not_load_torch(arguments):
    code = f"import sys; sys.argv = ['fretsaw', *{arguments!r}]\nfrom fretsaw import cli\ntry:\n    cli.main()\nexcept SystemExit:\n    pass\n"
    code += "print('torch' in sys.modules, file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip() == "False"


def test_public_names_are_sorted_and_documented():
    assert fretsaw.__all__ == sorted(fretsaw.__all__)
    for name in fretsaw.__all__:
        assert getattr(fretsaw, name).__doc__, name


def test_public_functions_have_docstrings():
    missing = [
        f"{path.relative_to(SOURCE)}:{node.name}"
        for path, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node) is None
    ]
    assert not missing


def test_only_the_command_line_prints():
    allowed = ("cli", "server", "__main__")
    for path, tree in TREES.items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
        prints = [call.lineno for call in calls if not any(keyword.arg == "file" for keyword in call.keywords)]  # a caller's stream is the caller's
        assert not prints or part_of(path) in allowed, f"{path.name} prints in lines {prints}"


def deviations() -> dict[str, list[str]]:
    """The `Deviation:` paragraphs of every docstring, by file."""
    found: dict[str, list[str]] = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                for match in re.finditer(r"^[ \t]*Deviation:\s*(.+?)(?=\n\s*\n|\n[ \t]*[A-Z]\w+:|\Z)", text, re.S | re.M):
                    found.setdefault(str(path.relative_to(SOURCE)), []).append(" ".join(match.group(1).split()))
    return found


def test_every_deviation_is_in_the_papers_document():
    """docs/papers.md lists each difference from a paper in the code's own words, and no other."""
    document = (ROOT / "docs" / "papers.md").read_text()
    section = document.split("## Deviations", 1)[1]
    listed = {(file, text) for file, text in re.findall(r"^\| `([^`]+)` \| (.+?) \|$", section, re.M)}
    written = {(file, text.replace("|", "\\|")) for file, texts in deviations().items() for text in texts}
    assert written - listed == set(), "run python docs/deviations.py"
    assert listed - written == set(), "run python docs/deviations.py"
