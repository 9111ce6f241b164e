"""GrC-SAM against SAM's grid mode over the same encoder, on one photo in one interleaved run: time, operations, parameters (table 3 of the paper).

    python experiments/grc_sam/table3.py --model sam2-hiera-tiny --rounds 3
    python experiments/grc_sam/table3.py --model sam-vit-b --width 256 --layers C --rounds 3       (the paper's own encoder)
    python experiments/grc_sam/table3.py --file runs/semantic/model.safetensors                    (a trained model)

Operations are counted by torch on one run of each part, with attention as plain matrix products: one multiplication with its addition counts as two (GFLOPs),
beside it as one (GMACs), since the paper does not say which it means. The grid mode asks the decoder for every point of a 32 x 32 grid; its operations are
those of the encoder and of all points. Without a file the network is not trained; its time depends on the share of windows that are active, so --rho
sets it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fretsaw import catalog, images
from fretsaw.frames import Preprocessing, squash
from fretsaw.methods.grc_sam.build import Description, build_network, layers_of
from fretsaw.methods.grc_sam.model import GrcSam, with_taps
from fretsaw.methods.grc_sam.scores import CONFIGURATIONS
from fretsaw.methods.grid import GridMasks
from fretsaw.weights import load_state_dict, load_strictly, read_metadata

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import interleaved, machine, median_ratio, versions
from experiments.grid_mode import sam_crops

ROOT = Path(__file__).resolve().parents[2]
POINTS = 32 * 32


def operations(call: Callable[[], object]) -> float:
    """Return the operations of a call, two a multiplication with its addition."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def count(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def fixed_share(network: GrcSam, rho: float) -> None:
    """Let about a share rho of the fine tokens be active whatever the coarse mask says: an untrained mask says nothing."""
    stage = network.generator.fine
    enter = stage.enter

    def entered(features, coarse_mask):
        tokens, guide, grid = enter(features, coarse_mask)
        rows = torch.arange(guide.shape[1], device=guide.device).view(grid)[:, :1].expand(grid).flatten() / guide.shape[1]
        return tokens, (rows < rho).float().expand_as(guide) * guide.clamp(min=0.6), grid

    stage.enter = entered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sam2-hiera-tiny")
    parser.add_argument("--file", type=Path, help="a trained model; its metadata names the model underneath")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", default="", help="A to D, numbers, or the encoder's own choice")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rho", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "astronaut.png")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-grid", action="store_true", help="leave the grid mode's time out; it takes minutes a round on a CPU")
    options = parser.parse_args()
    if options.file:
        about = Description.from_metadata(read_metadata(options.file))
    else:
        chosen = layers_of(options.layers)
        numbers = CONFIGURATIONS[chosen] if isinstance(chosen, str) else tuple(chosen)
        about = Description(options.model, options.size, ("background", "object"), numbers, width=options.width)
    base = catalog.build(about.base, size=options.size).clicks
    assert base is not None
    base = base.to(options.device)
    torch.manual_seed(0)
    network = build_network(base, about).eval().to(options.device)
    assert isinstance(network, GrcSam)
    if options.file:
        load_strictly(network, {name: tensor.float() for name, tensor in load_state_dict(options.file).items()})
    else:
        fixed_share(network, options.rho)
    image = images.read_image(options.photo)
    model = with_taps(base, network.numbers, "benchmark", options.size)
    pixels = model.pixels_of(image).to(options.device)
    plain = base.with_encoder(base.image_encoder, Preprocessing(squash, options.size, base.preprocessing.mean, base.preprocessing.std), "plain")
    with torch.no_grad():
        embedding = model.encode(pixels)
        result = network(embedding)
    point = plain.embed_prompt(torch.tensor([[[options.size / 2, options.size / 2], [0, 0]]]), torch.tensor([[1, -1]]))
    prompt = network.latent_prompt(result.fine_logits)
    bias = network.head.bias
    assert bias is not None
    encoder = operations(lambda: plain.encode(pixels))
    taps = operations(lambda: model.encode(pixels)) - encoder
    whole = operations(lambda: network(embedding))
    decoder = operations(lambda: network.decoder.upscaled_scores(embedding, prompt, network.head.weight.flatten(1), bias))
    decoder += operations(lambda: network.latent_prompt(result.fine_logits))
    one_point = operations(lambda: plain.decode(embedding, point))
    grid = GridMasks()
    calls: dict[str, Callable[[], object]] = {"GrC-SAM": lambda: network(model.encode(model.pixels_of(image).to(options.device)))}
    calls["encoder alone"] = lambda: plain.encode(pixels)
    if not options.no_grid:
        calls["grid mode"] = lambda: grid.generate(image, sam_crops(plain))
    times = interleaved(calls, options.rounds, warm=0, device=options.device)
    print(f"{machine(options.device)}, {versions()}; {about.base} at")
    print(f"{options.size}, layers {network.numbers}, width {about.width}, active share {float(result.active.float().mean()):.2f}, {options.rounds} rounds\n")
    print("| part | GFLOPs | GMACs | parameters, M |\n|---|---|---|---|")
    generator = network.generator
    rows = {
        "image encoder": (encoder, count(base.image_encoder)),
        "taps": (taps, 0.0),
        "mask generator": (whole - decoder, count(generator)),
        "mask encoder, decoder, head": (decoder, count(network.decoder) + count(network.head) + count(base.prompt_encoder)),
        "GrC-SAM in all": (encoder + taps + whole, count(base.image_encoder) + count(network) + count(base.prompt_encoder)),
        "grid mode: one point": (one_point, count(base.mask_decoder) + count(base.prompt_encoder)),
        "grid mode in all": (encoder + POINTS * one_point, count(base)),
    }
    for name, (flops, parameters) in rows.items():
        print(f"| {name} | {flops / 1e9:.1f} | {flops / 2e9:.1f} | {parameters:.2f} |")
    print("\n| what | median s | to the grid mode |\n|---|---|---|")
    for name, values in times.items():
        ratio = median_ratio(values, times["grid mode"]) if "grid mode" in times else float("nan")
        print(f"| {name} | {statistics.median(values):.3f} | {ratio:.3f} |")
    print("\nThe paper (A100, SAM ViT-B): 741.5 against 1315.3 G, 159.83 against 1198.87 ms, 95.7 against 93.7 M.")


if __name__ == "__main__":
    main()
