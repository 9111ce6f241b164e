"""Time HRSAM's parts against what they replace, and measure their memory: the paper's table 3, figures 1 (b) and 5, and the cycle-scan in one lap.

    python experiments/hrsam/cost.py                                     ladder, growth, laps and swin with their defaults
    python experiments/hrsam/cost.py --click 4096                        one click on an image of that side: seconds and peak memory
    python experiments/hrsam/cost.py ladder --sizes 1024 2048 --rounds 3 --report ladder.json
    python experiments/hrsam/cost.py ladder --cases HRSAM HRSAM++ --sizes 1024 2048 3072 4096
    python experiments/hrsam/cost.py growth --cases HRSAM --growth-sizes 1024 2048
    python experiments/hrsam/cost.py laps --sizes 1024 4096
    python experiments/hrsam/cost.py swin --device cuda
    python experiments/hrsam/cost.py --report hrsam.json --pictures docs/pictures

- ladder: table 3's encoders at each size, how their time grows from the smallest size (figure 1 b), and the memory each takes, in a process of its own;
- growth: HRSAM and HRSAM++ from 1024 to 4096, each size in a process of its own: latency, times the first size's, peak memory;
- laps: the cycle-scan in one lap, by three laps, and a single scan, at the number of tokens of each size;
- swin: attention in shifted windows by Swin's roll and additive mask against Flash Swin's index maps (figure 5), 64 x 64 tokens.

Every round runs each case once, in an order that is shuffled anew; tables show medians, and ratios taken round by round. Weights are random: times do not
depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.layers.attention import rotary_table, rotate
from fretsaw.layers.selective_scan import cycle_scan, selective_scan
from fretsaw.layers.windows import WindowAttention
from fretsaw.memory import click_memory
from fretsaw.methods.hrsam import ANCHOR_SIZE, SIZES, HRSAMEncoder, estimate_encoder_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import interleaved, machine, median_ratio, peak, timed, versions
from experiments.hrsam.definitions import repeated_scan


class NoScan(nn.Module):
    """Stands where a cycle-scan would."""

    def forward(self, x: Tensor, lengths: tuple[int, ...] | None = None) -> Tensor:
        return x


def no_scan(*_: Any) -> nn.Module:
    return NoScan()


LADDER: dict[str, dict[str, Any]] = {
    "global": {"window": None, "attention": WindowAttention, "scan": no_scan},
    "Flash Swin": {"attention": WindowAttention, "scan": no_scan},
    "+ KV padding": {"scan": no_scan},
    "+ cycle-scan": {"attention": WindowAttention},
    "HRSAM": {},
    "HRSAM++": {"anchor_size": ANCHOR_SIZE},
}
"""Table 3, row by row: what differs from HRSAM."""


def build(case: str, name: str) -> HRSAMEncoder:
    torch.manual_seed(0)
    changes = dict(LADDER[case])
    size = replace(SIZES[name], window=changes.pop("window", SIZES[name].window))
    return HRSAMEncoder(size, **changes).eval()


def peak_memory(case: str, name: str, size: int, device: str) -> int:
    """Bytes that encoding one image adds at its peak, in a process of its own; parameters and pixels included."""
    command = [sys.executable, __file__, "peak", "--cases", case, "--encoder", name, "--sizes", str(size), "--device", device]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def itself(part: str, options: argparse.Namespace, case: str, size: int) -> Any:
    """Run one part of this script in a process of its own; what it printed last, JSON."""
    command = [sys.executable, __file__, part, "--cases", case, "--encoder", options.encoder, "--sizes", str(size), "--device", options.device]
    command += ["--rounds", str(options.rounds)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def print_once(options: argparse.Namespace) -> None:
    """The other side of `growth`: one encoder, one size."""
    before = peak(options.device)
    encoder = build(options.cases[0], options.encoder).to(options.device)
    pixels = torch.randn(1, 3, options.sizes[0], options.sizes[0], device=options.device)
    label = f"{options.cases[0]} {options.sizes[0]}: "
    times = interleaved({"it": lambda: encoder(pixels)}, options.rounds, device=options.device, label=label)
    print(json.dumps({"seconds": times["it"], "bytes": peak(options.device) - before}))


def scanned(options: argparse.Namespace) -> Sequence[str]:
    """The cases that are asked for, or the two whole networks where none is."""
    return options.cases if options.cases != list(LADDER) else ("HRSAM", "HRSAM++")


def growth(options: argparse.Namespace) -> dict[str, Any]:
    sizes = options.growth_sizes
    rows = {case: {size: itself("once", options, case, size) for size in sizes} for case in scanned(options)}
    print(f"\nHRSAM-{options.encoder.upper()}, growth, fp32: seconds (times the first size's), peak memory; a process for each")
    print("| | " + " | ".join(str(size) for size in sizes) + " |\n|---|" + "---|" * len(sizes))
    for case, cells in rows.items():
        seconds = {size: statistics.median(cell["seconds"]) for size, cell in cells.items()}
        shown = [f"{seconds[size]:.2f} ({seconds[size] / seconds[sizes[0]]:.2f} x), {cells[size]['bytes'] / 2**20:.0f} MB" for size in sizes]
        print(f"| {case} | " + " | ".join(shown) + " |")
    return rows


def print_click(options: argparse.Namespace) -> None:
    """The other side of `click`: load a model with random weights, open an image of noise, click twice."""
    import numpy as np

    from fretsaw.backbones.sam import build_prompt_parts
    from fretsaw.frames import Preprocessing, longest_side
    from fretsaw.methods.sam_clicks import SamClicks
    from fretsaw.runtimes.torch import TorchClickModel
    from fretsaw.session import Session

    side = options.sizes[0]
    parts = [part.to_empty(device="cpu") for part in build_prompt_parts(None, side)]
    for value in (value for part in parts for value in part.state_dict().values()):
        value.normal_(0, 0.02)
    model = SamClicks(build(options.cases[0], options.encoder), *parts, Preprocessing(longest_side, side)).eval().to(options.device)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    made: list[Session] = []
    opening = timed(lambda: made.append(Session(image, TorchClickModel(model))), options.device)
    clicks = [timed(lambda at=at: made[0].click(at, at), options.device) for at in (side // 2, side // 3)]
    print(json.dumps({"open": opening, "click": clicks, "bytes": peak(options.device)}))


def click(options: argparse.Namespace) -> dict[str, Any]:
    """One click on a large image, as a user makes it: the whole process's memory."""
    found = {}
    for case in scanned(options):
        anchor = LADDER[case].get("anchor_size")
        row = found[case] = itself("clicked", options, case, options.click)
        with torch.device("meta"):
            encoder = HRSAMEncoder(SIZES[options.encoder], anchor_size=anchor)
        estimate = click_memory(encoder, options.click, torch.float32, options.device.split(":")[0])
        print(
            f"{case}-{options.encoder.upper()}, {options.click} x {options.click}, float32: open {row['open']:.1f} s, clicks "
            f"{', '.join(f'{seconds:.2f}' for seconds in row['click'])} s, peak memory {row['bytes'] / 2**30:.2f} GiB (estimated {estimate / 2**30:.2f} GiB)"
        )
    return found


def print_peak(options: argparse.Namespace) -> None:
    """The other side of `peak_memory`."""
    before = peak(options.device)
    encoder = build(options.cases[0], options.encoder).to(options.device)
    with torch.no_grad():
        encoder(torch.zeros(1, 3, options.sizes[0], options.sizes[0], device=options.device))
    print(peak(options.device) - before)


def ladder(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    encoders = {case: build(case, options.encoder).to(options.device) for case in options.cases}
    for size in options.sizes:
        pixels = torch.randn(1, 3, size, size, device=options.device)
        calls = {case: (lambda encoder=encoder, pixels=pixels: encoder(pixels)) for case, encoder in encoders.items()}
        times = interleaved(calls, options.rounds, device=options.device, label=f"ladder {size}: ")
        for case in options.cases:
            rows.setdefault(case, {})[size] = {"seconds": times[case]}
    encoders.clear()
    for case in options.cases:
        for size in options.sizes if options.memory else ():
            rows[case][size]["bytes"] = peak_memory(case, options.encoder, size, options.device)
    first = options.sizes[0]
    print(f"\nHRSAM-{options.encoder.upper()}, one image, fp32: seconds (times the first size's), peak memory")
    print("| | " + " | ".join(str(size) for size in options.sizes) + " |\n|---|" + "---|" * len(options.sizes))
    for case in options.cases:
        cells = []
        for size in options.sizes:
            median, start = (statistics.median(rows[case][which]["seconds"]) for which in (size, first))
            memory = f", {rows[case][size]['bytes'] / 2**20:.0f} MB" if options.memory else ""
            cells.append(f"{median:.3f} ({median / start:.2f} x){memory}")
        print(f"| {case} | " + " | ".join(cells) + " |")
    if options.memory and not options.device.startswith("cuda"):
        for case, anchor in (("HRSAM", None), ("HRSAM++", ANCHOR_SIZE)):
            for size in options.sizes if case in options.cases else ():
                estimate, found = estimate_encoder_memory(size, SIZES[options.encoder], anchor_size=anchor), rows[case][size]["bytes"]
                print(f"estimate for {case} at {size}: {estimate / 2**20:.0f} MB, {estimate / found:.2f} x what was measured")
    return rows


def laps(options: argparse.Namespace) -> dict[str, Any]:
    config = SIZES[options.encoder]
    rows: dict[str, Any] = {}
    print(f"\nCycle-scan, {config.dim} channels, {config.state_size} states, fp32: seconds (times three laps)")
    print("| tokens | three laps | one lap and summary | a single scan | largest difference |\n|---|---|---|---|---|")
    for size in options.sizes:
        tokens = (size // 16) ** 2
        tensors = scan_inputs(tokens, config.dim, config.state_size, options.device)
        calls = {
            "three": lambda tensors=tensors: repeated_scan(*tensors),
            "one": lambda tensors=tensors: cycle_scan(*tensors),
            "single": lambda tensors=tensors: selective_scan(*tensors[:5]),
        }
        times = interleaved(calls, options.rounds, device=options.device, label=f"laps {tokens}: ")
        difference = (repeated_scan(*tensors) - cycle_scan(*tensors)).abs().max().item()
        medians = {name: statistics.median(values) for name, values in times.items()}
        shown = [f"{medians['three']:.3f}", *(f"{medians[name]:.3f} ({median_ratio(times[name], times['three']):.2f} x)" for name in ("one", "single"))]
        print(f"| {tokens} | " + " | ".join(shown) + f" | {difference:.1e} |")
        rows[str(tokens)] = {**times, "difference": difference}
    return rows


def scan_inputs(tokens: int, channels: int, states: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, delta, A, write, read, gains as an untrained layer has them: steps from 0.001 to 0.1, decays 1 to N."""
    torch.manual_seed(0)
    bias = torch.exp(torch.rand(channels) * 4.605 - 6.908).expm1().log()
    delta = F.softplus(0.3 * torch.randn(1, tokens, channels) + bias)
    decay = -torch.arange(1.0, states + 1).repeat(channels, 1)
    x, write, read = (torch.randn(1, tokens, width) for width in (channels, states, states))
    return x.to(device), delta.to(device), decay.to(device), write.to(device), read.to(device), torch.ones(channels, 3, device=device)


class PlainSwin(WindowAttention):
    """Shifted windows as Swin makes them: roll the map, cut it into full windows, add a mask that parts what the roll brought together."""

    def forward(self, x: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        (h, w), k, s = shapes[0], self.side(shapes), self.shift

        def cut(grid: Tensor) -> Tensor:
            return grid.unflatten(1, (-1, k)).unflatten(3, (-1, k)).transpose(2, 3).reshape(-1, k * k, grid.shape[-1])

        parts = cut(self.regions(h, w).to(x.device))
        mask = torch.zeros(len(parts), 1, k * k, k * k, device=x.device).masked_fill(parts[:, None] != parts.transpose(1, 2)[:, None], -torch.inf)
        q, keys, v = self.split(self.qkv(cut(torch.roll(x.unflatten(1, (h, w)), (-s, -s), (1, 2)))))
        cosines, sines = rotary_table(k, q.shape[3], q.dtype, q.device)
        out = F.scaled_dot_product_attention(rotate(q, cosines, sines), rotate(keys, cosines, sines), v, attn_mask=mask)
        out = self.proj(out.transpose(1, 2).flatten(2)).reshape(1, h // k, w // k, k, k, -1).transpose(2, 3).reshape(1, h, w, -1)
        return torch.roll(out, (s, s), (1, 2)).flatten(1, 2)

    def regions(self, h: int, w: int) -> Tensor:
        """Number the four parts of the rolled map."""
        row, column = (torch.arange(size) >= size - self.shift for size in (h, w))
        return (2.0 * row[:, None] + column)[None, :, :, None]


def swin(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    x = torch.randn(1, 64 * 64, 768, device=options.device)
    print("\nAttention of 64 x 64 tokens, 768 channels, 12 heads, windows shifted by half, fp32: seconds")
    print("| window | plain Swin | Flash Swin | ratio | largest difference |\n|---|---|---|---|---|")
    for window in options.windows:
        torch.manual_seed(0)
        plain, flash = (kind(768, 12, window, window // 2).to(options.device).eval() for kind in (PlainSwin, WindowAttention))
        flash.load_state_dict(plain.state_dict())
        calls = {"plain": lambda plain=plain: plain(x, ((64, 64),)), "flash": lambda flash=flash: flash(x, ((64, 64),))}
        with torch.no_grad():
            difference = (calls["plain"]() - calls["flash"]()).abs().max().item()
        times = interleaved(calls, options.rounds, device=options.device, label=f"swin {window}: ")
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"| {window} | {medians['plain']:.3f} | {medians['flash']:.3f} | {median_ratio(times['flash'], times['plain']):.2f} | {difference:.1e} |")
        rows[str(window)] = {**times, "difference": difference}
    return rows


PARTS = {"ladder": ladder, "growth": growth, "laps": laps, "swin": swin}
INSIDE = {"peak": print_peak, "once": print_once, "clicked": print_click}
"""What runs in a process of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all without one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], help="sides of the image in pixels, the smallest first")
    parser.add_argument("--cases", nargs="+", choices=LADDER, default=list(LADDER), help="rows of the ladder; global attention takes minutes from 2048 on")
    parser.add_argument("--encoder", choices=SIZES, default="b")
    parser.add_argument("--growth-sizes", type=int, nargs="+", default=[1024, 2048, 3072, 4096], help="of growth")
    parser.add_argument("--click", type=int, metavar="SIDE", help="measure a click on an image of this side, and nothing else")
    parser.add_argument("--pictures", type=Path, help="draw the parts into this folder; needs matplotlib")
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 32, 64], help="of swin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the memory out")
    parser.add_argument("--report", type=Path, help="write all times and sizes as JSON")
    options = parser.parse_args()
    if len(options.parts) == 1 and options.parts[0] in INSIDE:
        INSIDE[options.parts[0]](options)
        return
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"expected parts among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    print(f"{machine(options.device)}, {versions()}")
    if options.click:
        click(options)
        return
    found = {part: PARTS[part](options) for part in options.parts or PARTS}
    report = json.loads(json.dumps({"machine": machine(options.device), "versions": versions(), **found}))
    if options.report:
        options.report.write_text(json.dumps(report, indent=1))
    if options.pictures:
        from experiments.hrsam.figures import draw

        print("\n".join(map(str, draw(report, options.pictures))))


if __name__ == "__main__":
    main()
