"""S2CLIP's table 4 without trained networks: what the refinement costs, by classes and regions, against Trident's way; and the ablations.

    python experiments/s2clip/table4.py                                # component analysis and refinement, on planted maps
    python experiments/s2clip/table4.py --sam vit-b                    # with SAM ViT-B's real sizes (random weights: its time does not depend on them)
    python experiments/s2clip/table4.py --memory                       # peak memory of a whole call on 2048 x 2048 pixels with 171 names, networks of true size
    fretsaw evaluate semantic DATA --model s2clip --protocol voc21      # the accuracy rows, where weights and data are at hand

Every case is a label map of smooth blobs as text methods give it, at the benchmarks' image sizes and class counts. The rows are run in turns, in an order
shuffled anew each round; medians and ratios are taken round by round, of the processor time that the process took, which other processes disturb least; on a
GPU, of the time that passed. The label map of each optimised row is compared with its reference's before anything is timed.

The original refinement decodes all masks of a class and then asks which are good enough; ours asks first and decodes what is wanted, where the image is. Both
use the same decoder, networks, maps and fusion. How good a mask is does not come from the random decoder but is planted: `--accepted` of the regions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from fretsaw.backbones import sam
from fretsaw.backbones.sam_decoder import MakeMasks
from fretsaw.frames import Frame
from fretsaw.methods.s2clip.maps import TextMaps, coarse_labels, reduce_map
from fretsaw.methods.s2clip.refine import ALL_PROMPTS, Ask, MaskFusion, Refinement, class_prompts, refine, sam_answers
from fretsaw.methods.s2clip.regions import optimised_regions, original_regions
from fretsaw.methods.sam_clicks import SamClicks, build_sam, single
from fretsaw.types import ImageEmbedding, PromptEmbedding

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import interleaved, machine, median_ratio, versions
from experiments.s2clip.memory import measure_memory
from experiments.s2clip.references import DenseMaps, whole_classes

CASES = {
    "VOC21": (21, (375, 500), 0.2),
    "COCO-Object": (81, (480, 640), 0.25),
    "Context59": (59, (375, 500), 0.15),
    "ADE20K": (150, (512, 683), 0.05),
    "COCO-Stuff": (171, (480, 640), 0.05),
    "Cityscapes": (19, (1024, 2048), 0.1),
}
"""Classes, a usual image size and the coarse threshold of benchmarks."""

MINIMUM_AREA = 225

SMALL = {"vision": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1], "window_size": 7}}


def word_logits(classes: int, seed: int, grid: int = 28) -> Tensor:
    """Return logits (K, grid, grid) as smooth as a method's patch logits: about a dozen classes of the list win somewhere."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 6, 6, generator=generator)
    favoured = torch.randperm(classes, generator=generator)[:12]
    coarse[:, favoured] += 2
    smooth = torch.nn.functional.interpolate(coarse, size=(grid, grid), mode="bicubic")[0]
    return 4 * (smooth + 0.25 * torch.randn(classes, grid, grid, generator=generator))


def random_sam(size: str) -> SamClicks:
    table = sam.VIT_BASE if size == "vit-b" else SMALL
    torch.manual_seed(0)
    state = {name: 0.02 * torch.randn(value.shape) for name, value in sam.build_model(table, 1024).state_dict().items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    return build_sam(state, table)


def original_components(maps: DenseMaps, threshold: float) -> int:
    """Trident's component analysis: one map per class, every region looked for in it."""
    labels = coarse_labels(maps, threshold)
    return sum(
        len(original_regions(labels, label, reduce_map(maps.probabilities(label)).cpu().numpy(), threshold, MINIMUM_AREA)) for label in range(maps.classes)
    )


def optimised_components(maps: DenseMaps, threshold: float) -> int:
    labels = coarse_labels(maps, threshold)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=maps.classes)[: maps.classes])
    return sum(
        len(optimised_regions(labels, int(label), reduce_map(maps.probabilities(int(label))).cpu().numpy(), threshold, MINIMUM_AREA)) for label in present
    )


class DecodesAll(SamClicks):
    """SAM as Trident asks it: every prompt's masks are decoded, over the padding too, before their predicted IoU is looked at."""

    def judge(self, embedding: ImageEmbedding, prompt_embedding: PromptEmbedding, frame: Frame) -> tuple[Tensor, MakeMasks]:
        logits, iou = single(*self.decode(embedding, prompt_embedding))
        return iou[:, 0], lambda wanted: logits[wanted]


def planted_iou(ask: Ask, accepted: float) -> Ask:
    """Answers of a random decoder with an IoU that accepts a share of the regions, told by their area, so that acceptance, fusion and failure all have work."""

    def answer(prompts):
        iou, masks = ask(prompts)
        areas = torch.tensor([region.area for prompt in prompts for region in prompt.regions], device=iou.device)
        return (areas * 7919 % 1000 < 1000 * accepted).to(iou.dtype), masks

    return answer


def rows(case: str, model: SamClicks, embedding: ImageEmbedding, seed: int, accepted: float) -> tuple[dict[str, Callable[[], object]], dict[str, str], str]:
    """What is timed for one case: {row: call}, {row: its reference}, and a description."""
    classes, size, threshold = CASES[case]
    device = model.device
    logits = word_logits(classes, seed).to(device)
    text_maps = TextMaps(logits, list(range(classes)), size)
    maps = DenseMaps(torch.stack([text_maps.probabilities(label) for label in range(classes)]), text_maps.labels)
    frame = model.preprocessing.frame(*size, model.preprocessing.size)
    everything = DecodesAll(model.image_encoder, model.prompt_encoder, model.mask_decoder, model.preprocessing).eval()
    ours = planted_iou(sam_answers(model, embedding, frame), accepted)
    original = planted_iou(sam_answers(everything, embedding, frame), accepted)
    plain, trident, mixed = Refinement(), Refinement(split=original_regions), Refinement(prompts_at_once=32)

    def refined(ask: Ask, refinement: Refinement = plain) -> Tensor:
        return refine(maps, ask, model.preprocessing, refinement, threshold, MINIMUM_AREA)

    def refined_by_trident() -> Tensor:
        fusion = MaskFusion(maps, frame)
        for prompt in class_prompts(maps, model.preprocessing, trident, threshold, MINIMUM_AREA):
            iou, masks = original([prompt])
            wanted = torch.nonzero(iou > trident.iou_threshold).flatten()
            for low_res_logits in masks(wanted):
                fusion.add(prompt.label, low_res_logits)
        return fusion.finish()

    reference = refined_by_trident()
    for name, labels in {"optimised": refined(ours), "mixed": refined(ours, mixed)}.items():
        assert torch.equal(labels, reference), f"the label map of {name} differs from the original's"
    regions, again = original_components(maps, threshold), optimised_components(maps, threshold)
    assert regions == again, "the two component analyses differ"
    prompts = class_prompts(maps, model.preprocessing, plain, threshold, MINIMUM_AREA)
    found = [region for prompt in prompts for region in prompt.regions]
    kept = sum(region.area * 7919 % 1000 < 1000 * accepted for region in found)
    changed = float((reference != maps.labels).float().mean())
    where = f"{case}: {classes} classes, {size[0]} x {size[1]}, {regions} regions of {len(prompts)} classes, {kept} masks accepted; "
    where += f"the label maps of both ways are equal, and differ from the coarse one in {changed:.1%} of the pixels"
    calls: dict[str, Callable[[], object]] = {
        "labels alone (NO SAM)": lambda: TextMaps(logits, list(range(classes)), size),
        "components, original (algorithm 2)": lambda: original_components(maps, threshold),
        "components, optimised (algorithm 3)": lambda: optimised_components(maps, threshold),
        "refinement, original (class by class, all masks decoded)": refined_by_trident,
        "refinement, optimised (algorithms 3 and 4)": lambda: refined(ours),
        "refinement, 32 regions of any class a call": lambda: refined(ours, mixed),
        "optimised, w/o CCA": lambda: refined(ours, Refinement(split=whole_classes)),
        "optimised, w/o box": lambda: refined(planted_iou(sam_answers(model, embedding, frame, ALL_PROMPTS - {"box"}), accepted)),
        "optimised, w/o mask": lambda: refined(planted_iou(sam_answers(model, embedding, frame, ALL_PROMPTS - {"mask"}), accepted)),
    }
    first, ours_name = "refinement, original (class by class, all masks decoded)", "refinement, optimised (algorithms 3 and 4)"
    references = {
        "components, optimised (algorithm 3)": "components, original (algorithm 2)",
        ours_name: first,
        "refinement, 32 regions of any class a call": first,
        **{f"optimised, w/o {part}": ours_name for part in ("CCA", "box", "mask")},
    }
    return calls, references, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeat for more; default: all")
    parser.add_argument("--sam", choices=("small", "vit-b"), default="small", help="small: a small encoder before a decoder of the published size")
    parser.add_argument("--accepted", type=float, default=0.8, help="share of the regions whose mask is planted as good enough")
    parser.add_argument("--only", help="time the rows alone whose name holds this text, and what they are compared with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--memory", action="store_true", help="measure memory and stop")
    parser.add_argument("--side", type=int, default=2048, help="for --memory: rows and columns of the image")
    parser.add_argument("--classes", type=int, default=171, help="for --memory: names")
    parser.add_argument("--report", type=Path, help="write the times as JSON")
    options = parser.parse_args()
    print(f"{machine(options.device)}, {versions()}, transformers {transformers.__version__}", flush=True)
    if options.memory:
        measure_memory(options.side, options.classes, options.device, word_logits(options.classes, options.seed))
        return
    print(f"SAM {options.sam}, {options.rounds} rounds, maps of seed {options.seed}, {options.accepted:.0%} of the masks accepted")
    model = random_sam(options.sam).to(options.device)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)))
    report = {}
    for case in options.case or CASES:
        with torch.no_grad():
            calls, references, where = rows(case, model, embedding, options.seed, options.accepted)
            if options.only:
                wanted = {name for name in calls if options.only in name}
                calls = {name: call for name, call in calls.items() if name in wanted or name in {references.get(other) for other in wanted}}
            clock = time.process_time if options.device == "cpu" else time.perf_counter
            times = report[case] = interleaved(calls, options.rounds, warm=0, device=options.device, clock=clock)
        print(f"\n{where}\n\n| what | median s | ratio | to |\n|---|---|---|---|")
        for name in calls:
            reference = references.get(name, "")
            ratio = f"{median_ratio(times[name], times[reference]):.2f}" if reference else ""
            print(f"| {name} | {statistics.median(times[name]):.3f} | {ratio} | {reference} |", flush=True)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
