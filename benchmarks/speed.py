"""Time the encoder, the decoder, the automatic cut and the grid mode on this machine, interleaved with their references.

    python benchmarks/speed.py --rounds 7 --report speed.json
    python benchmarks/speed.py --photo photo.jpg --grid

Every round runs each row once, in an order that is shuffled anew, and the table shows medians and the ratio of each row to its reference, taken round by
round. SAM ViT-B runs with random weights: its time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import interleaved, machine, median_ratio, versions

import fretsaw
from fretsaw import catalog, images
from fretsaw.backbones import sam
from fretsaw.methods.sam_clicks import SamClicks, build_sam
from fretsaw.types import Click, Prompt

ROOT = Path(__file__).resolve().parents[1]


def random_sam_vit_b() -> SamClicks:
    torch.manual_seed(0)
    weights = {name: torch.randn(value.shape) * 0.02 for name, value in sam.build_model(sam.VIT_BASE, 1024).state_dict().items()}
    return build_sam(weights, sam.VIT_BASE)


def onnx_encoder(pixels: torch.Tensor) -> Callable[[], object] | None:
    """Return a call of the published encoder file in onnxruntime, or None where the file or onnxruntime is absent."""
    try:
        import onnxruntime
    except ImportError:
        return None
    from fretsaw.weights import Cache

    found = sorted(Cache().root.rglob("sam2_hiera_tiny_encoder.with_runtime_opt.ort"))
    if not found:
        return None
    session = onnxruntime.InferenceSession(str(found[0]), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": pixels.numpy()})


def rows(photo: Path, grid: bool, half_precision: bool) -> dict[str, tuple[Callable[[], object], str]]:
    """What is timed: name -> (call, name of the reference row)."""
    image = images.read_image(photo)
    segmenter = fretsaw.load("sam2-hiera-tiny", device="cpu")
    model = segmenter.parts.clicks
    default = fretsaw.load("fretsaw-tiny", device="cpu")
    vit = random_sam_vit_b()
    pixels = model.pixels_of(image)
    small = default.parts.clicks
    small_pixels = small.pixels_of(image)
    frame = model.preprocessing.frame_of(image)
    embedding = model.encode(pixels)
    prompt = Prompt((Click(image.shape[1] / 2, image.shape[0] / 2),))
    found: dict[str, tuple[Callable[[], object], str]] = {
        "SAM ViT-B encoder, fp32": (lambda: vit.encode(pixels), ""),
        "SAM 2 Hiera-T encoder, fp32": (lambda: model.encode(pixels), "SAM ViT-B encoder, fp32"),
        "fretsaw-tiny encoder, fp32": (lambda: small.encode(small_pixels), "SAM ViT-B encoder, fp32"),
        "the same": (lambda: small.encode(small_pixels), "SAM 2 Hiera-T encoder, fp32"),
        "SAM 2 decoder, one click": (lambda: model.decode(embedding, model.embed(prompt, frame)), ""),
        "auto, whole call": (lambda: segmenter.auto(image), ""),
        "auto of fretsaw-tiny, whole call": (lambda: default.auto(image), "auto, whole call"),
    }
    if half_precision:
        vit_half = random_sam_vit_b().to_precision(torch.bfloat16)
        half = catalog.build("sam2-hiera-tiny").clicks.to_precision(torch.bfloat16)
        found["SAM ViT-B encoder, bf16"] = (lambda: vit_half.encode(pixels), "SAM ViT-B encoder, fp32")
        found["SAM 2 Hiera-T encoder, bf16"] = (lambda: half.encode(pixels), "SAM ViT-B encoder, bf16")
    reference = onnx_encoder(pixels)
    if reference is not None:
        found["SAM 2 Hiera-T encoder, onnxruntime"] = (reference, "SAM 2 Hiera-T encoder, fp32")
    if grid:
        from fretsaw.compat import SamAutomaticMaskGenerator, sam_model_registry

        generator = SamAutomaticMaskGenerator(sam_model_registry["sam2-hiera-tiny"]())
        found["grid mode, 32 x 32 points"] = (lambda: generator.generate(image), "")
        found["auto, whole call"] = (found["auto, whole call"][0], "grid mode, 32 x 32 points")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "astronaut.png")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--grid", action="store_true", help="also time the grid mode, which takes minutes a round")
    parser.add_argument("--bf16", action="store_true", help="also time bfloat16, which is slow on a CPU without instructions for it")
    parser.add_argument("--report", type=Path, help="write the times as JSON")
    options = parser.parse_args()
    calls = rows(options.photo, options.grid, options.bf16)
    times = interleaved({name: call for name, (call, _) in calls.items()}, options.rounds)
    print(f"{machine()}, {versions()}")
    print("| what | median s | ratio | to |\n|---|---|---|---|")
    for name, (_, reference) in calls.items():
        ratio = median_ratio(times[name], times[reference]) if reference else None
        print(f"| {name} | {statistics.median(times[name]):.3f} | {'' if ratio is None else f'{ratio:.3f}'} | {reference} |")
    if options.report:
        options.report.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
