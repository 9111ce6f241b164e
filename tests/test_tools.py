"""A test that lacks a program skips by name, is counted by name at the end, and fails where the program is named as one that must be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tools

TESTS = Path(__file__).parent

NEEDY = """
import os
import pytest
import tools

os.environ["PATH"], tools.FOLDERS = "", ()

@pytest.fixture(scope="module")
def browser():
    return tools.need("chromium")

@pytest.mark.parametrize("number", range(3))
def test_page(browser, number):
    pass

def test_proxy():
    tools.need("nginx")

@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device(device):
    pytest.skip(f"needs a {device} device")

def test_root():
    pytest.skip("root may read every file")

def test_plain():
    pass
"""


def run_needy(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_needy.py").write_text(NEEDY)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tools", "-p", "xdist", "-p", "no:cacheprovider", *options]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FRETSAW_", "PYTEST_"))}
    return subprocess.run(
        command,
        cwd=folder,
        env=own | {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_skips_are_counted_by_what_is_absent(tmp_path, options):
    run = run_needy(tmp_path, *options)
    assert run.returncode == 0, run.stdout
    [line] = re.findall("^skipped: .*$", run.stdout, re.M)
    assert line.startswith("skipped: 3 need chromium (absent), ")
    assert set(line.removeprefix("skipped: ").split(", ")) == {
        "3 need chromium (absent)",
        "1 needs nginx (absent)",
        "1 needs a cuda device",
        "1 needs a mps device",
        "1 (root may read every file)",
    }


def test_where_a_program_must_be_there_its_absence_is_a_failure(tmp_path):
    run = run_needy(tmp_path, FRETSAW_NO_SKIP="nginx openssl")
    assert run.returncode == 1
    assert "test_proxy" in run.stdout
    assert "FRETSAW_NO_SKIP allows no skip for want of nginx" in run.stdout
    assert re.search(r"1 failed, 1 passed, 6 skipped", run.stdout), run.stdout
    assert "3 need chromium (absent)" in run.stdout


def test_a_variable_names_a_program_elsewhere(tmp_path):
    path = tmp_path / "browser"
    run = run_needy(tmp_path, "-k", "page", FRETSAW_CHROMIUM=str(path))
    assert "3 passed" in run.stdout


def test_nothing_skipped_is_nothing_said():
    assert tools.skips([]) == ""


def test_a_program_that_is_too_old_is_as_good_as_none(tmp_path, monkeypatch):
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v18.19.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("FRETSAW_NODE", str(program))
    monkeypatch.setenv("FRETSAW_NO_SKIP", "")
    assert tools.need("node") == tools.need("node", 18) == str(program)
    with pytest.raises(pytest.skip.Exception, match=r"needs node \(older than 20\)"):
        tools.need("node", 20)
    monkeypatch.setenv("FRETSAW_NO_SKIP", "node")
    with pytest.raises(pytest.fail.Exception, match="older than 20"):
        tools.need("node", 20)


def test_tests_look_for_programs_in_one_place():
    """So that continuous integration can forbid their skips."""
    for path in TESTS.rglob("*.py"):
        if path not in (TESTS / "tools.py", Path(__file__)):
            text = path.read_text()
            assert not re.search(rf"which\(['\"]({'|'.join(tools.PROGRAMS)})", text), f"{path.name}: use tools.need"
            assert not re.search(rf"skip\(\s*f?['\"][^'\"]*\b({'|'.join(tools.PROGRAMS)})\b", text, re.I), f"{path.name}: use tools.need"
