"""The page's modules by themselves, under node: its masks, its keys, the work at hand, what it says of refusals."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")

from fretsaw.server.exports import FORMATS
from tools import need

PAGE = Path(__file__).resolve().parents[1] / "page"
STATIC = Path(__file__).resolve().parents[2] / "src" / "fretsaw" / "server" / "static"
OLDEST = 20
"""Debian 13's node; older ones lack what the tests use."""


@pytest.fixture(scope="module")
def node():
    return need("node", OLDEST)


@pytest.mark.parametrize("name", sorted(path.name for path in PAGE.glob("*.test.mjs")))
def test_units(node, name):
    run = subprocess.run([node, "--test", "--test-reporter=spec", PAGE / name], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert int(re.findall(r"^ℹ pass (\d+)$", run.stdout, re.M)[0]) > 5


def test_the_masks_that_the_page_is_tested_with_are_what_python_makes():
    spec = importlib.util.spec_from_file_location("golden", PAGE / "golden.py")
    assert spec is not None
    assert spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    assert golden.FILE.read_text() == golden.text(), "run python tests/page/golden.py"


def test_the_page_has_words_for_every_export_format(node):
    code = f"import({json.dumps((STATIC / 'exports.js').as_uri())}).then(({{ offered }}) => console.log(JSON.stringify(offered({json.dumps(list(FORMATS))}))))"
    run = subprocess.run([node, "--input-type=module", "-e", code], capture_output=True, text=True, check=True, timeout=60)
    offered = json.loads(run.stdout)
    assert sorted(name for name, _, _ in offered) == sorted(FORMATS)
    assert all(words for _, title, words in offered if title)


def test_every_script_of_the_page_is_checked():
    """By its types: `make check` skips a file without the first line."""
    scripts = sorted(STATIC.glob("*.js"))
    assert len(scripts) > 8
    assert [path.name for path in scripts if not path.read_text().startswith("// @ts-check\n")] == []
