"""Every command in the documents names a program that exists and options that it has."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from fretsaw import cli
from fretsaw.cli.train import RECIPES, configure

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "experiments", "docs") for path in (ROOT / folder).rglob("*.py"))
DOCUMENTS = [*sorted(path for folder in (".", "docs", "experiments", "examples") for path in (ROOT / folder).glob("*.md")), *SCRIPTS]
DOCUMENTS += sorted((ROOT / "src" / "fretsaw" / "recipes").glob("*/__init__.py"))

OURS = {"fretsaw", "benchmarks", "experiments"}
OPTIONAL = {"py_sod_metrics", "onnxruntime", "triton", "xformers"}
"""What a program imports from an environment of its own, or leaves out where it is absent."""


def text_of(document: Path) -> str:
    """Return a document, or the docstring of a program, with continued lines joined."""
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    if document.name == "CHANGELOG.md":
        text = ""  # it tells of names that are gone
    return re.sub(r"\\+\n\s*", " ", text)


def script_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (path, options) of every `python FOLDER/FILE.py ...` in a text."""
    for path, rest in re.findall(r"\bpython ((?:benchmarks|experiments|docs|tests)/[\w/]+\.py)([^`#\n]*)", text):
        yield path, re.findall(r"(?<!\S)(--?[a-z][\w-]*)", rest)


def fretsaw_commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind `fretsaw` of every command inside backticks, of a fenced block, or at the beginning of an indented line."""
    for rest in re.findall(r"(?:`|^ *|^command +|\(|  )(?:python -m )?fretsaw ([a-z][^`#\n]*)", text, re.M):
        command = re.sub(r"\s{2,}\S.*$|\s\(.*$", "", rest)  # what stands behind a wide gap or in brackets is a remark
        try:
            yield shlex.split(command)
        except ValueError:
            yield command.split()


def options_of(script: Path) -> set[str]:
    """Return the options that a program, or a program beside it that it imports from, declares by `add_argument`."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    beside = [script.with_name(f"{node.module}.py") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    nodes = [node for one in (tree, *(ast.parse(path.read_text(encoding="utf-8")) for path in beside if path.is_file())) for node in ast.walk(one)]
    calls = (node for node in nodes if isinstance(node, ast.Call))
    added = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    names = {part.value for call in added for part in call.args if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {name for name in names if name.startswith("-")} | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_exist_and_have_the_options(document):
    for path, options in script_commands(text_of(document)):
        assert (ROOT / path).is_file(), f"{document.name} names {path}, which does not exist"
        unknown = set(options) - options_of(ROOT / path)
        assert not unknown, f"{document.name} calls {path} with {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_fretsaw_has_the_commands_options_and_settings(document):
    for words in fretsaw_commands(text_of(document)):
        command, rest = typer.main.get_command(cli.app), list(words)
        while rest and not rest[0].startswith("-") and (commands := getattr(command, "commands", {})):
            assert rest[0] in commands, f"{document.name}: fretsaw has no command {' '.join(words)}"
            command = commands[rest.pop(0)]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")} | {"--help"}
        used = {word.partition("=")[0] for word in rest if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
        assert used <= known, f"{document.name}: fretsaw {' '.join(words)} has no {used - known}"
        if words[0] == "train" and len(words) > 1 and words[1] in RECIPES:
            settings = [rest[i + 1] for i, word in enumerate(rest[:-1]) if word == "--set" and "=" in rest[i + 1]]
            plain = [setting for setting in settings if not re.search(r"=(\.\.\.|[A-Z]+)?$", setting)]
            configure(import_module(f"fretsaw.recipes.{words[1]}.run").Config, plain, placeholders=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_import_what_exists(script):
    """Also inside functions: of our own modules, file and name; of others, that they are installed, or an extra that a program asks for by itself."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = {alias.name: () for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = {node.module: tuple(alias.name for alias in node.names)}
        else:
            continue
        for module, names in modules.items():
            top = module.split(".")[0]
            if top not in OURS:
                known = top in sys.stdlib_module_names or top in OPTIONAL or find_spec(top) is not None or script.with_name(f"{top}.py").is_file()
                assert known, f"{script.name} imports {module}"
                continue
            place = ROOT.joinpath("src" if top == "fretsaw" else "", *module.split("."))
            files = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
            if not files:
                assert place.is_dir(), f"{script.name} imports {module}"
            defined = top_level_names(files[0]) if files else set()
            missing = {name for name in names if name not in defined and not (place / f"{name}.py").is_file() and not (place / name).is_dir()}
            assert not missing, f"{script.name} imports {missing} from {module}"


def top_level_names(module: Path) -> set[str]:
    """Return what a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        else:
            names.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            names.update(part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef | ast.ClassDef))
    if module.parent.name == "fretsaw":  # `fretsaw/__init__.py` finds its names when they are asked for
        names.update(getattr(import_module("fretsaw"), "__all__", ()))
    return names


def test_the_commands_are_found():
    """The two tests above see the commands of the documents at all."""
    scripts = [command for document in DOCUMENTS for command in script_commands(text_of(document))]
    fretsaws = [words for document in DOCUMENTS for words in fretsaw_commands(text_of(document))]
    assert len(scripts) > 60
    assert len(fretsaws) > 60
    assert {path for path, _ in scripts} >= {"benchmarks/speed.py", "experiments/pmg_sam/auto_compare.py", "experiments/gpu_pack.py"}
    print(len(scripts), "calls of programs,", len(fretsaws), "of fretsaw")
