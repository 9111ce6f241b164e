"""What the kill tests share: commands as child processes, what they leave, and when to kill them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fretsaw.images import write_image, write_mask
from packages import write_tarball

PROGRAM = Path(__file__).with_name("quick_fretsaw.py")
COUNT = 24
"""Images, samples or files of a run."""

UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")


def start(*arguments: object, **variables: object) -> subprocess.Popen:
    """Start a command in a process group of its own, as a terminal does; one thread, no GPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **{name: str(value) for name, value in variables.items()}}
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def finish(child: subprocess.Popen) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error."""
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


def kill(child: subprocess.Popen) -> bool:
    """Kill -9; return whether the process was still at work."""
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode == -signal.SIGKILL


def visible(folder: Path) -> dict[str, bytes]:
    """The files below a folder by their path; what a kill may leave, and nothing else, is hidden."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not UNFINISHED.fullmatch(path.name)}


@dataclass(frozen=True)
class Command:
    """A command that is killed and run again.

    Attributes:
        prepare: Writes its inputs into a folder, once for all its runs.
        arguments: (inputs, place of the results) -> arguments.
        result: What the run left at a place, so that equal runs give equal values.
        finished: Number of items that are done at a place; the kill in the middle waits for half of `total`.
        total: Number of items.
        variables: (inputs, place) -> environment.
    """

    prepare: Callable[[Path], None]
    arguments: Callable[[Path, Path], list[object]]
    result: Callable[[Path], Any]
    finished: Callable[[Path], int]
    total: int = COUNT
    variables: Callable[[Path, Path], dict[str, object]] = lambda inputs, place: {}

    def start(self, inputs: Path, place: Path) -> subprocess.Popen:
        """Start it."""
        return start(*self.arguments(inputs, place), **self.variables(inputs, place))

    def run(self, inputs: Path, place: Path) -> str:
        """Run it to its end and return what it said on standard error."""
        status, out, err = finish(self.start(inputs, place))
        assert status == 0, out + err
        return err


def photos(folder: Path) -> None:
    for number in range(COUNT):
        image = np.full((24, 30, 3), 20, np.uint8)
        image[4:16, 5 : 7 + number] = 220
        write_image(folder / "images" / f"{number:02}.png", image)
        write_mask(folder / "masks" / f"{number:02}.png", image[..., 0] > 100)


def annotations(folder: Path) -> None:
    square = [[2, 2, 9, 2, 9, 8, 2, 8]]
    content = {
        "images": [{"id": number + 1, "file_name": f"{number:02}.jpg", "height": 20, "width": 30} for number in range(COUNT)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": number + 1, "image_id": number + 1, "category_id": 1, "segmentation": square, "bbox": [2, 2, 7, 6], "area": 42, "iscrowd": 0}
            for number in range(COUNT)
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "all.json").write_text(json.dumps(content))


def published(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_tarball(folder / "published.tgz")
    client = folder / "clients" / "npm"
    client.parent.mkdir()
    client.write_text(
        f"#!{sys.executable}\nimport os, shutil, sys, time\ntime.sleep(0.3)\n"
        "shutil.copy(os.environ['QUICK_PACKAGE'], os.path.join(sys.argv[sys.argv.index('--pack-destination') + 1], 'tiny-model-1.0.0.tgz'))\n"
    )
    client.chmod(0o755)


def pull_variables(inputs: Path, place: Path) -> dict[str, object]:
    return {
        "QUICK_PACKAGE": inputs / "published.tgz",
        "FRETSAW_HOME": place,
        "FRETSAW_OFFLINE": "",
        "HF_HUB_OFFLINE": "",
        "PATH": f"{inputs / 'clients'}{os.pathsep}{os.environ['PATH']}",
    }


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def trained(place: Path) -> Any:
    log = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    state = torch.load(place / "checkpoint.pt", weights_only=True)
    names = {path.name for path in place.iterdir() if not UNFINISHED.fullmatch(path.name)}
    weights = {name: value.tolist() for name, value in state["model"].items()}
    return names, state["steps"], weights, [{name: value for name, value in line.items() if name != "seconds"} for line in log]


def pulled(place: Path) -> Any:
    """The raw files and the conversion, and that nothing unfinished lies about."""
    found = {name: content for name, content in visible(place).items() if name.startswith("raw/") or "part" in name}
    model = (place / "models" / "tiny.safetensors").read_bytes()
    length = int.from_bytes(model[:8], "little")
    return found, json.loads(model[8 : 8 + length]), model[8 + length :]  # the order within the header is drawn anew by each process


def journalled(place: Path) -> int:
    return lines(place.with_name(f"{place.name}.json.journal")) - 1


COMMANDS = {
    "auto": Command(photos, lambda inputs, place: ["auto", inputs / "images", "-o", place], visible, lambda place: len(list(place.glob("*.png")))),
    "auto, one file": Command(
        photos,
        lambda inputs, place: ["auto", inputs / "images", "-o", place.with_suffix(".json"), "--format", "coco"],
        lambda place: json.loads(place.with_suffix(".json").read_text()),
        lambda place: 0,
        total=0,  # the file is written every few seconds; the kill comes at once
    ),
    "evaluate": Command(
        photos,
        lambda inputs, place: ["evaluate", "auto", inputs, "--model", "quick", "--report", place.with_suffix(".json"), "--workers", "1", "--device", "cpu"],
        lambda place: (place.with_suffix(".json").read_bytes(), sorted(path.name for path in place.parent.glob(f"*{place.name}*"))),
        journalled,
    ),
    "train": Command(
        lambda folder: None, lambda inputs, place: ["train", "quick", "--set", f"out={place}"], trained, lambda place: lines(place / "log.jsonl"), total=36
    ),
    "convert": Command(
        annotations,
        lambda inputs, place: ["convert", inputs / "all.json", "-o", place, "--to", "labelme"],
        visible,
        lambda place: len(list(place.rglob("*.json"))),
    ),
    "pull": Command(
        published,
        lambda inputs, place: ["models", "pull", "tiny"],
        pulled,
        lambda place: len(list(place.rglob("*.tgz"))),
        total=1,
        variables=pull_variables,
    ),
}


def wait_for_half(command: Command, place: Path, child: subprocess.Popen) -> None:
    """Return when half of the items are done."""
    deadline = time.monotonic() + 100
    while child.poll() is None and time.monotonic() < deadline and command.finished(place) < max(1, command.total // 2):
        time.sleep(0.005)


def wait_for_owner(folder: Path, child: subprocess.Popen) -> None:
    """Return when a command has taken the place that it writes, somewhere below a folder."""
    while child.poll() is None and not any(card.stat().st_size for card in folder.rglob("*.owner")):
        time.sleep(0.005)
