"""The rules of the house (CONTRIBUTING.md) that a machine can check."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
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
        "dicom_child",
        "dicom",
        "picture_kinds",
        "images",
        "segmentation",
        "click_true",
        "history",
        "layers",
        "backbones",
        "clicks",
        "weights",
        "addresses",
        "memory",
    ),
    "methods",
    *("zoom", "runtimes", "catalog", "session_file", "session", "api", "compat", "outputs", "interchange", "coco_file", "doctor"),
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
            assert own in ("addresses", "cli", "doctor", "server"), f"{own} imports the package's own name {name}"
            continue
        if own == "catalog" and not at_import:
            continue  # builders are imported when they are called
        type_only = not at_import and name in ("frames", "segmentation", "methods", "session", "catalog")
        assert DIRECTION.index(name) < DIRECTION.index(own) or type_only, f"{own} imports {name}"


# The files of `catalog/`, in the order in which they may import each other. `__init__` is the last: what needs another model is handed the catalogue.
CATALOGUE_ORDER = (
    *("entries", "standing", "first_cut", "conversions", "auto", "clicked", "grc", "student", "high_resolution", "named", "builders", "table"),
    *("lookup", "text", "refiners", "__init__"),
)


def modules_imported(path: Path, everywhere: bool = False) -> set[str]:
    """Return the modules of fretsaw that a file imports while it is imported itself; `everywhere` adds those inside functions and for type checking."""
    found: set[str] = set()

    def exists(name: str) -> bool:
        place = SOURCE.parent.joinpath(*name.split("."))
        return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            skipped = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            )
            if skipped and not everywhere:
                continue
            if isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "fretsaw":
                submodules = {f"{child.module}.{alias.name}" for alias in child.names if exists(f"{child.module}.{alias.name}")}
                found.update(submodules if len(submodules) == len(child.names) else {child.module, *submodules})
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names if alias.name.split(".")[0] == "fretsaw")
            visit(child)

    visit(TREES[path])
    return found


def module_name(path: Path) -> str:
    parts = ("fretsaw", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_import_each_other_without_a_circle():
    """Of each file, what runs when it is imported; the folder's own `__init__` is not counted for a sibling, since it is on its way already."""
    arrows = {module_name(path): modules_imported(path) - {module_name(path)} for path in FILES}
    print(f"{sum(map(len, arrows.values()))} imports between {len(arrows)} modules")
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", sorted((SOURCE / "catalog").glob("*.py")), ids=lambda path: path.stem)
def test_nothing_in_the_catalogue_imports_it_back(path):
    """Neither when it is imported nor when a function is called."""
    assert path.stem in CATALOGUE_ORDER, f"{path.name} has no place in the order of the catalogue's files"
    used = modules_imported(path, everywhere=True)
    assert "fretsaw.catalog" not in used, f"{path.name} imports the catalogue back"
    siblings = {name.removeprefix("fretsaw.catalog.") for name in used if name.startswith("fretsaw.catalog.")}
    later = {name for name in siblings if CATALOGUE_ORDER.index(name) >= CATALOGUE_ORDER.index(path.stem)}
    assert not later, f"{path.name} imports {later}"


def test_the_table_of_models_defines_no_class_and_reads_no_file():
    tree = TREES[SOURCE / "catalog" / "table.py"]
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not {"open", "build_file", "load_state_dict", "materialise"} & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_no_two_public_classes_share_a_name():
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_no_private_function_is_unused():
    """A function, method or class whose name begins with _ is named somewhere beside its definition; the steps of a pickle are called by their names."""
    import pickletools

    steps = {f"_{opcode.name.lower()}" for opcode in pickletools.opcodes}
    used: Counter[str] = Counter()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
            elif isinstance(node, ast.alias):
                used[node.name] += 1
    unused = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name.startswith("_")
        and not node.name.startswith("__")
        and not used[node.name]
        and not (path == SOURCE / "weights" / "checkpoints.py" and node.name in steps)
    ]
    assert not unused


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed: pip install 'fretsaw[dev]'")
def test_a_users_program_type_checks_and_a_wrong_one_does_not(tmp_path):
    program = ROOT / "tests" / "typing_user.py"
    (tmp_path / program.name).write_text(program.read_text())
    settings = {"include": [program.name], "pythonVersion": "3.11", "typeCheckingMode": "strict", "extraPaths": [str(SOURCE.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    if not ended.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {(ended.stderr or ended.stdout)[-300:]}")
    found = [(row["range"]["start"]["line"] + 1, row["message"]) for row in json.loads(ended.stdout)["generalDiagnostics"] if row["severity"] == "error"]
    wrong = {number for number, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# wrong")}
    assert [(number, message) for number, message in found if number not in wrong] == []
    assert {number for number, _ in found} == wrong, "a wrong call passes"


def test_the_package_says_that_it_is_typed():
    """PEP 561: without the mark, a user's type checker takes everything for Any."""
    assert (SOURCE / "py.typed").is_file()
    assert 'packages = ["src/fretsaw"]' in (ROOT / "pyproject.toml").read_text(), "the wheel holds the folder with all its files"


def test_what_a_session_needs_never_imports_torch():
    """`runtimes/torch.py` is the only file above the networks that runs them: whoever writes another runtime finds nothing else to exchange."""
    plain = {"errors", "types", "frames", "edges", "outlines", "masks", "images", "segmentation", "click_true", "history", "zoom"}
    plain |= {"session_file", "session", "outputs", "server"}
    for path, tree in TREES.items():
        if part_of(path) not in plain:
            continue
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            torch = [module for module in modules if module and module.split(".")[0] == "torch"]
            assert not torch or (part_of(path), torch) == ("types", ["torch"]), f"{path.relative_to(SOURCE)} imports torch"


def test_every_seam_is_used():
    """Some signature elsewhere names each Protocol of types.py: a function's, or a dataclass's, whose fields are its constructor's arguments."""
    classes = [node for node in TREES[SOURCE / "types.py"].body if isinstance(node, ast.ClassDef)]
    protocols = [node.name for node in classes if any(re.match(r"Protocol\b", ast.unparse(base)) for base in node.bases)]
    assert len(protocols) >= 9
    named: set[str] = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and path.name != "types.py":
                taken = [argument.annotation for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                named.update(word for part in (*taken, node.returns) if part is not None for word in re.findall(r"\w+", ast.unparse(part)))
            elif isinstance(node, ast.ClassDef) and path.name != "types.py" and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
                fields = [row.annotation for row in node.body if isinstance(row, ast.AnnAssign)]
                named.update(word for part in fields for word in re.findall(r"\w+", ast.unparse(part)))
    assert set(protocols) <= named, f"no signature names {set(protocols) - named}"


def test_methods_do_not_import_each_other():
    """A method is a file or a folder of `methods`; files of one folder may import each other."""
    names = {path.stem for path in (SOURCE / "methods").iterdir() if path.suffix in ("", ".py")}
    for path in (SOURCE / "methods").rglob("*.py"):
        own = path.relative_to(SOURCE / "methods").with_suffix("").parts[0]
        used = set(re.findall(r"from fretsaw\.methods\.(\w+)[\w.]* import|from fretsaw\.methods import (\w+)", path.read_text()))
        used = {a or b for a, b in used} & names - {own, "sam_clicks"}
        assert not used, f"{path.name} imports {used}: give it the object instead"


def test_recipes_do_not_import_each_other():
    """A recipe is a folder of `recipes`. Its `__init__.py` describes it and imports nothing; `run.py` offers what `fretsaw train` calls."""
    folders = sorted(path for path in (SOURCE / "recipes").iterdir() if (path / "__init__.py").is_file())
    assert folders
    for folder in folders:
        assert not imports_of(TREES[folder / "__init__.py"]), f"recipes/{folder.name}/__init__.py imports something"
        offered = {node.name for node in TREES[folder / "run.py"].body if isinstance(node, ast.FunctionDef)}
        offered |= {ast.unparse(node.targets[0]) for node in TREES[folder / "run.py"].body if isinstance(node, ast.Assign)}
        assert {"Config", "length", "run"} <= offered, f"recipes/{folder.name}/run.py offers {offered}"
        for path in folder.glob("*.py"):
            used = {name.split(".")[2] for name in modules_imported(path, everywhere=True) if name.startswith("fretsaw.recipes.")}
            assert used <= {folder.name}, f"recipes/{folder.name}/{path.name} imports the recipes {used - {folder.name}}: move what both need to training/"


# Where a string from outside is read: options, settings, requests, formats, data sets, protocols, and names in weight files.
EDGES = {"cli", "server", "interchange", "compat", "recipes", "evaluation", "data", "catalog", "weights", "backbones"}
EDGES |= {"doctor", "outputs", "coco_file", "session_file", "segmentation", "images", "picture_kinds", "dicom", "dicom_child", "api", "addresses"}
EDGE_FILES = {"build.py", "stored.py", "settings.py"}  # of a method's folder: they read the variant in a weight file, and the words of a benchmark's settings
FACTS = {"type", "kind", "device", "suffix", "mode", "__name__", "platform"}  # of a device, a file, an error, a system: no names of ours


def test_behind_the_edge_no_string_selects_code():
    """No comparison of a name or an attribute with a literal string, and no table from strings to functions, where functions and objects are passed."""
    defined = {node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = []
    for path, tree in TREES.items():
        if part_of(path) in EDGES or path.name in EDGE_FILES:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name | ast.Attribute):
                texts = [one for one in node.comparators if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value]
                named = node.left.attr if isinstance(node.left, ast.Attribute) else node.left.id
                if texts and named not in FACTS and isinstance(node.ops[0], ast.Eq | ast.NotEq):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.Dict) and node.keys:
                by_text = all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in node.keys)
                if by_text and all(isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in defined) for value in node.values):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


# Each says whether something is done, or states a fact. A new one that chooses between two ways of doing something is two functions instead.
BOOLEANS = {
    "training/processes.py agree wanted": "what one process wants",
    "evaluation/instances.py auto instances": "whether instances are split as well",
    "evaluation/runner.py run_samples keep_journal": "whether the journal stays when the run is complete",
    "evaluation/adapters.py load_segmenter click_true": "whether answers are held to the clicks, as `fretsaw.load` takes it",
    "evaluation/predictors.py _open zoomed": "whether the crop is part of an image",
}


def test_booleans_do_not_choose_between_algorithms():
    found = set()
    for path, tree in TREES.items():
        if part_of(path) in ("layers", "clicks", "training", "evaluation", "recipes"):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    taken = [one for one in (*node.args.args, *node.args.kwonlyargs) if one.annotation is not None and ast.unparse(one.annotation) == "bool"]
                    found |= {f"{path.relative_to(SOURCE)} {node.name} {one.arg}" for one in taken}
    assert found - set(BOOLEANS) == set(), "say in BOOLEANS why it is no choice between two algorithms, or pass a function"


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
