"""What PMG-SAM costs: trained and frozen parameters, FLOPs, peak memory and images a second, beside the paper's table 1.

    python experiments/pmg_sam/cost.py                    (counts only, no weights, seconds)
    python experiments/pmg_sam/cost.py --device cpu       (also runs the networks with random weights, each in a process of its own)
    python experiments/pmg_sam/cost.py --device cuda

A multiplication with an addition counts as two FLOPs; convolutions, matrix products and attention are counted, nothing else. The paper's convention is not
stated, and its FLOPs are lost from the text; it prints 22.9 M trained parameters and 3420 MB. Peak memory counts weights and everything that one image
needs: what the device's allocator held at most, or on a CPU by how much the process grew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fretsaw.backbones import sam2
from fretsaw.backbones.u2net import FULL, SMALL, U2Net
from fretsaw.methods.pmg_sam.build import PAPER, TINY, PmgSettings, build_pmg_sam
from fretsaw.methods.pmg_sam.pairing import PAIRS, DualFeatures

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, peak, versions
from experiments.pmg_sam.parameters import parameters_by_part


class Whole(nn.Module):
    """Both frozen networks and the trained part, pixels to mask, with Hiera's pyramid left out where the network has its own."""

    def __init__(self, settings: PmgSettings, trunk: dict, levels: dict, size: int, side: int) -> None:
        super().__init__()
        self.hiera = sam2.build_model(trunk, size).vision_encoder
        with torch.device("meta"):
            self.saliency, self.network = U2Net(levels), build_pmg_sam(settings)
        self.settings, self.size, self.side = settings, size, side

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        stages = tuple(stage.permute(0, 3, 1, 2) for stage in self.hiera.backbone(pixels).intermediate_hidden_states)
        small = nn.functional.interpolate(pixels, size=(self.side, self.side), mode="bilinear")
        decoded = self.saliency.decode(self.saliency.encode(small))
        fused = self.saliency.maps(decoded)[0]
        grids = {pair.level: stages[pair.stage - 1].shape[-2:] for pair in PAIRS}
        levels = tuple(nn.functional.interpolate(level, size=grids[i], mode="bilinear") for i, level in enumerate(decoded, start=1))
        prior = nn.functional.interpolate(fused, size=stages[0].shape[-2:], mode="bilinear")
        dim = self.settings.dim
        final = pixels.new_zeros(len(pixels), dim, self.size // 16, self.size // 16)
        high_res = tuple(pixels.new_zeros(len(pixels), dim // part, self.size // stride, self.size // stride) for part, stride in ((8, 4), (4, 8)))
        return self.network(DualFeatures(stages, levels, prior, final, high_res)).mask_logits


def count(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="also run there, with random weights")
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    kinds = {
        "paper: Hiera-B+, U²-Net at the same size": (PAPER, sam2.HIERA_BASE_PLUS, FULL, options.size),
        "paper, U²-Net at 320": (PAPER, sam2.HIERA_BASE_PLUS, FULL, 320),
        "pmg-tiny: Hiera-T, U²-Netp at 320": (TINY, sam2.HIERA_TINY, SMALL, 320),
    }
    print(f"{options.size} x {options.size}, {machine(options.device or 'cpu')}, {versions()}")
    print("| model | trained M | Hiera M | U²-Net M | GFLOPs | peak MB | images/s |\n|---|---|---|---|---|---|---|")
    for name, (settings, trunk, levels, side) in kinds.items():
        whole = Whole(settings, trunk, levels, options.size, side).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            whole(torch.zeros(1, 3, options.size, options.size, device="meta"))
        memory, rate = alone(run, settings, trunk, levels, options.size, side, options.device) if options.device else ("", "")
        flops = counter.get_total_flops() / 1e9
        print(f"| {name} | {count(whole.network):.1f} | {count(whole.hiera.backbone):.1f} | {count(whole.saliency):.1f} | {flops:.0f} | {memory} | {rate} |")
    print(f"trained parameters of the paper's network by part: {parameters_by_part(build_pmg_sam(PAPER))}; the paper prints 22.9 M")


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, whose memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(settings: PmgSettings, trunk: dict, levels: dict, size: int, side: int, device: str, rounds: int = 20) -> tuple[str, str]:
    """Return peak memory in MB and images a second with random weights."""
    cuda = device.startswith("cuda")
    before = 0 if cuda else peak()
    whole = Whole(settings, trunk, levels, size, side).eval().requires_grad_(False).to_empty(device=device)
    for parameter in [*whole.parameters(), *whole.buffers()]:
        if parameter.is_floating_point():
            parameter.data.normal_(0, 0.02)
    pixels = torch.randn(1, 3, size, size, device=device)
    with torch.no_grad():
        whole(pixels)
        started = time.perf_counter()
        for _ in range(rounds if cuda else 1):
            result = whole(pixels)
        float(result.flatten()[0])
        seconds = (time.perf_counter() - started) / (rounds if cuda else 1)
    return f"{(peak(device) - before) / 2**20:.0f}", f"{1 / seconds:.2f}"


if __name__ == "__main__":
    main()
