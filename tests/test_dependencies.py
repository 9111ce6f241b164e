"""What pyproject.toml declares is what the code imports, and no floor admits a version with a known hole."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import floors
from fretsaw import doctor

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fretsaw"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(text) for text in texts] for extra, texts in PROJECT["optional-dependencies"].items()}
DEVELOPMENT = EXTRAS["dev"]
RUNTIME = {extra: requirements for extra, requirements in EXTRAS.items() if extra != "dev"}
EVERYTHING = [*CORE, *(requirement for requirements in EXTRAS.values() for requirement in requirements)]

MODULES = {"pyyaml": "yaml", "opencv-python-headless": "cv2", "pillow": "PIL", "scikit-image": "skimage"}
"""The import name of each distribution whose own name, with underscores, is another."""

FLOOR_ONLY = {"h11": "uvicorn", "protobuf": "onnx"}
"""Declared for its floor alone: what another dependency brings, and would accept with a known hole."""

UNDECLARED = {"xformers", "mamba_ssm"}
"""Compiled kernels that are used where somebody has installed them."""

SAFE = {
    "filelock": "4.2.1",
    "h11": "0.16",
    "onnx": "1.22",
    "opencv-python-headless": "4.12",
    "pillow": "13.0",
    "protobuf": "6.33.5",
    "pyarrow": "14.0.1",
    "pyyaml": "5.4",
    "starlette": "1.3.1",
    "torch": "2.10",
    "tqdm": "4.66.3",
    "transformers": "5.10",
}
"""The lowest version without a hole known in November 2026; pyproject.toml names the holes."""


def module_of(requirement: Requirement) -> str:
    name = canonicalize_name(requirement.name)
    return MODULES.get(name, name.replace("-", "_"))


def floor_of(requirement: Requirement) -> Version:
    [floor] = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    return Version(floor)


@cache
def own_modules(folder: Path) -> frozenset[str]:
    """The modules that files beside each other import by their names alone, as tests do; a package's are imported as fretsaw's."""
    return (
        frozenset()
        if folder == SOURCE
        else frozenset({path.stem for path in folder.rglob("*.py")} | {path.name for path in folder.rglob("*") if path.is_dir()})
    )


def imported(folder: Path) -> dict[str, set[Path]]:
    """The third-party modules that the files below a folder import, also inside functions and for type checking, with the files."""
    found: dict[str, set[Path]] = {}
    known = {*sys.stdlib_module_names, *own_modules(folder), "fretsaw", "benchmarks", "experiments", "_typeshed"}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - known:
                found.setdefault(name, set()).add(path)
    return found


IMPORTED = imported(SOURCE)


def extras_named_in(path: Path) -> set[str]:
    """The extras that a file's errors tell the user to install; all of `server` is reached through the command, which names its extra."""
    files = [path, SOURCE / "cli" / "serve.py"] if path.is_relative_to(SOURCE / "server") else [path]
    return {extra for file in files for extra in re.findall(r"fretsaw\[([\w-]+)\]", file.read_text())}


@pytest.mark.parametrize("requirement", [*CORE, *(r for requirements in RUNTIME.values() for r in requirements)], ids=lambda r: r.name)
def test_every_dependency_is_imported(requirement):
    if requirement.name in FLOOR_ONLY:
        needed = {canonicalize_name(Requirement(text).name) for text in metadata.requires(FLOOR_ONLY[requirement.name]) or ()}
        assert requirement.name in needed, f"{FLOOR_ONLY[requirement.name]} no longer brings {requirement.name}: drop it"
        assert requirement.name in SAFE, f"{requirement.name} is declared for its floor alone, so a hole must give the reason"
    else:
        assert module_of(requirement) in IMPORTED, f"nothing in src imports {requirement.name}: drop it"


@pytest.mark.parametrize("module", sorted(IMPORTED))
def test_every_import_is_declared(module):
    """As a dependency, or in the extra that the importing file's error names."""
    if module in UNDECLARED:
        for path in IMPORTED[module]:
            assert f'find_spec("{module}")' in path.read_text(), f"{path} imports {module} without asking whether it is installed"
        return
    if module in {module_of(requirement) for requirement in CORE}:
        return
    holders = {extra for extra, requirements in RUNTIME.items() if module in {module_of(r) for r in requirements}}
    assert holders, f"no dependency and no extra brings {module}"
    for path in IMPORTED[module]:
        assert holders & extras_named_in(path), f"{path.relative_to(SOURCE)} imports {module}, which {holders} bring, and names none of them where it is absent"


def test_every_extra_that_a_message_names_exists():
    named = {extra for path in SOURCE.rglob("*.py") for extra in re.findall(r"fretsaw\[([\w-]+)\]", path.read_text())}
    assert named == set(RUNTIME), "an extra without a message is never found by a user; a message without an extra sends him to nothing"


def test_converters_name_the_extra_that_brings_what_they_need():
    from fretsaw.catalog import CATALOGUE

    routes = [route for entry in CATALOGUE.values() for route in entry.weights.routes if route.requires]
    assert routes
    for route in routes:
        assert set(route.requires) <= {module_of(requirement) for requirement in EXTRAS[route.extra]}


def test_the_doctor_looks_for_what_the_extras_bring():
    brought = {extra: {module_of(r) for r in requirements if r.name not in FLOOR_ONLY} for extra, requirements in RUNTIME.items()}
    assert {extra: set(modules) for extra, modules in doctor.EXTRAS.items()} == brought


def test_tests_declare_what_they_import():
    """Their tools are imported by them, or called by make or by continuous integration."""
    # What another Python runs is declared in a file of its own.
    used = {name: files for name, files in imported(ROOT / "tests").items() if files != {ROOT / "tests" / "peers" / "tools.py"}}
    listed = [line for name in ("requirements", "ultralytics") for line in (ROOT / "tests" / "peers" / f"{name}.txt").read_text().splitlines()]
    others = {module_of(Requirement(line)) for line in listed if line and not line.startswith("#")}
    assert set(imported(ROOT / "tests" / "peers")) - set(used) <= others
    declared = {module_of(requirement) for requirement in EVERYTHING}
    assert set(used) <= declared, f"tests import {set(used) - declared}, which nothing declares"
    commands = (ROOT / "Makefile").read_text() + (ROOT / ".ci" / "run").read_text()
    options = {"pytest-xdist": "--dist"}
    idle = [r.name for r in DEVELOPMENT if module_of(r) not in used and options.get(r.name, r.name) not in commands]
    assert not idle, f"nothing uses {idle}"


@pytest.mark.parametrize("requirement", EVERYTHING, ids=lambda r: r.name)
def test_every_dependency_has_a_floor_without_known_holes(requirement):
    floor = floor_of(requirement)  # fails where there is none, or two
    assert floor >= Version(SAFE.get(requirement.name, "0"))
    for other in EVERYTHING:
        assert other.name != requirement.name or floor_of(other) == floor, f"{other.name} has two floors"


def test_what_is_installed_here_is_within_the_declared_range():
    """Catches an environment made before pyproject.toml changed."""
    installed = {requirement: metadata.version(requirement.name) for requirement in EVERYTHING}
    assert not {str(r): version for r, version in installed.items() if not r.specifier.contains(version, prereleases=True)}


def test_make_floors_installs_every_floor_once():
    installed = [(requirement.name, next(iter(requirement.specifier))) for requirement in map(Requirement, floors.floors())]
    assert all(specifier.operator == "==" for _, specifier in installed)
    assert sorted((name, Version(specifier.version)) for name, specifier in installed) == sorted({(r.name, floor_of(r)) for r in EVERYTHING})


@pytest.mark.parametrize("change", [{"tests/test_masks.py": b""}, {"fretsaw/api.py": None}, {"fretsaw/server/static/index.html": None}], ids=str)
def test_a_wheel_with_too_much_or_too_little_is_refused(tmp_path, change):
    files = {str(path.relative_to(SOURCE.parent)): b"" for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    files |= {"fretsaw-0.1.0.dist-info/licenses/LICENSE": b""}
    write_files(tmp_path / "whole.whl", files)
    floors.check_wheel(tmp_path / "whole.whl")
    write_files(tmp_path / "changed.whl", {name: content for name, content in (files | change).items() if content is not None})
    with pytest.raises(SystemExit, match=re.escape(next(iter(change)))):
        floors.check_wheel(tmp_path / "changed.whl")


def write_files(archive: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
