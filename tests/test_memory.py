"""Memory known before work starts: the estimate against measured peaks, the refusal, and what doctor says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fretsaw
from fretsaw import memory
from fretsaw.doctor import examine, has_bfloat16
from fretsaw.errors import MemoryLimitError
from fretsaw.methods.hrsam import build_hrsam, describe_encoder
from tiny import tiny_hrsam

TOLERANCE = 0.2
"""How far an estimate may lie from the measured peak, as a share of it."""

PEAK = """
import sys, torch
import numpy as np
from fretsaw.backbones.sam import build_prompt_parts
from fretsaw.frames import Preprocessing, longest_side
from fretsaw.methods.hrsam import build_hrsam
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
side = int(sys.argv[2])
parts = [part.to_empty(device="cpu") for part in build_prompt_parts(None, side)]
for part in parts:
    for value in part.state_dict().values():
        value.normal_(0, 0.02)
model = SamClicks(build_hrsam(sys.argv[1], int(sys.argv[3]) or None), *parts, Preprocessing(longest_side, side)).eval()
session = Session(np.zeros((side, side, 3), np.uint8), TorchClickModel(model))
session.click(side // 2, side // 2)
print(int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(("letter", "side", "anchor"), [("s", 768, 512), ("t", 2048, 0)])
def test_a_click_takes_what_was_estimated(letter, side, anchor):
    peak = int(subprocess.run([sys.executable, "-c", PEAK, letter, str(side), str(anchor)], capture_output=True, text=True, check=True).stdout)
    with torch.device("meta"):
        encoder = build_hrsam(letter, anchor or None)
    estimate = memory.click_memory(encoder, side, torch.float32)
    assert estimate == pytest.approx(peak, rel=TOLERANCE)


def test_a_4096_click_of_the_papers_size_is_within_8_gigabytes():
    for anchor_size in (None, 512):
        with torch.device("meta"):
            encoder = build_hrsam("b", anchor_size)
        assert memory.click_memory(encoder, 4096, torch.float32) < 8 * 2**30
        assert memory.largest_side(lambda side, encoder=encoder: memory.click_memory(encoder, side, torch.float32), 8 * 2**30) >= 4096


def test_the_largest_side_is_the_last_that_fits():
    assert memory.largest_side(lambda side: side * side, 1000 * 1000) == 960
    assert memory.largest_side(lambda side: side * side, 960 * 960) == 960
    assert memory.largest_side(lambda side: side * side, 10) == 0
    assert memory.largest_side(lambda side: 0, 10) == memory.LARGEST_SIDE


def test_what_does_not_fit_is_refused_with_the_size_that_does(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    model = tiny_hrsam(128)
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, path, {"hrsam": describe_encoder(model.image_encoder)})
    limit = memory.click_memory(model.image_encoder, 2048, torch.float32)
    monkeypatch.setattr(memory, "capacity", lambda device: limit)
    assert fretsaw.load(path, size=2048, device="cpu").parts.clicks.preprocessing.size == 2048
    with pytest.raises(MemoryLimitError, match=r"of cpu, got 2064, which needs about .* GiB; the largest size that fits is 2048$"):
        fretsaw.load(path, size=2064, device="cpu")
    monkeypatch.setattr(memory, "capacity", lambda device: memory.PROCESS)
    with pytest.raises(MemoryLimitError, match="not even the smallest size fits"):
        fretsaw.load(path, size=64, device="cpu")
    monkeypatch.setattr(memory, "capacity", lambda device: None)
    fretsaw.load(path, size=8192, device="cpu")  # nobody knows the limit: nothing is refused


def test_the_machines_memory_obeys_the_limit_of_the_process(tmp_path, monkeypatch):
    whole = memory.capacity()
    assert whole is not None
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("123456789\n")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max",))
    assert memory.capacity() == 123456789
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.capacity() >= whole


def test_doctor_prints_memory_by_size():
    facts = examine()
    row = facts["memory of a click"]["hrsam-b"]
    assert "GiB at 4096; cpu holds up to" in row
    assert set(facts["memory of a click"]) == {f"hrsam{more}-{letter}" for more in ("", "++") for letter in "tsbl"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("flags\t\t: fpu avx2 avx512f\n", False), ("flags\t\t: fpu avx512_bf16\n", True), ("Features\t: fp asimd bf16\n", True), ("model name: x\n", None)],
)
def test_bfloat16_is_read_from_the_cpus_flags(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bfloat16(tmp_path / "cpuinfo") is expected
    assert has_bfloat16(tmp_path / "missing") is None


def test_doctor_warns_where_bfloat16_is_slow(monkeypatch):
    from fretsaw import doctor

    monkeypatch.setattr(doctor, "_memory_of_clicks", dict)
    for there, warned in ((False, True), (True, False), (None, False)):
        monkeypatch.setattr(doctor, "has_bfloat16", lambda there=there: there)
        assert ("cpu, bfloat16" in examine()["devices"]) is warned
