"""S2CLIP's table 4 without trained networks: what the refinement costs, by classes and regions, against Trident's way; and the ablations.

    python benchmarks/s2clip.py                                # component analysis and refinement, on planted maps
    python benchmarks/s2clip.py --sam vit-b                    # with SAM ViT-B's real sizes (random weights: its time does not depend on them)
    python benchmarks/s2clip.py --memory                       # peak memory of 2048 x 2048 pixels and 171 classes
    fretsaw evaluate semantic DATA --model s2clip --protocol voc21      # the accuracy rows, where weights and data are at hand

Every case is a label map of smooth blobs as text methods give it, at the benchmarks' image sizes and class counts. The rows are run in turns, in an order
shuffled anew each round; medians and ratios are taken round by round. The label map of each optimised row is compared with its reference's before anything
is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
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
from fretsaw.methods.s2clip.maps import DenseMaps, TextMaps, coarse_labels, reduce_map
from fretsaw.methods.s2clip.refine import ALL_PROMPTS, Ask, Refinement, class_prompts, refine, sam_answers
from fretsaw.methods.s2clip.regions import optimised_regions, original_regions, whole_classes
from fretsaw.methods.sam_clicks import SamClicks, build_sam
from fretsaw.types import ImageEmbedding

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
    return sum(len(original_regions(labels, label, reduce_map(maps.probabilities(label)).numpy(), threshold, MINIMUM_AREA)) for label in range(maps.classes))


def optimised_components(maps: DenseMaps, threshold: float) -> int:
    labels = coarse_labels(maps, threshold)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=maps.classes)[: maps.classes])
    return sum(len(optimised_regions(labels, int(label), reduce_map(maps.probabilities(int(label))).numpy(), threshold, MINIMUM_AREA)) for label in present)


def sure(ask: Ask) -> Ask:
    """Answers of a random decoder with an IoU that accepts two of three, so that acceptance, fusion and failure all have work to do."""

    def answer(prompts):
        logits, iou = ask(prompts)
        areas = torch.tensor([region.area for prompt in prompts for region in prompt.regions])
        return logits, torch.where(areas % 3 == 0, torch.zeros_like(iou), torch.ones_like(iou))

    return answer


def one_class_at_a_time(ask: Ask) -> Ask:
    """The paper's loop: a call of the decoder per class."""

    def answer(prompts):
        answers = [ask([prompt]) for prompt in prompts]
        return torch.cat([logits for logits, _ in answers]), torch.cat([iou for _, iou in answers])

    return answer


def rows(case: str, model: SamClicks, embedding: ImageEmbedding, seed: int) -> tuple[dict[str, Callable[[], object]], dict[str, str], str]:
    """What is timed for one case: {row: call}, {row: its reference}, and a description."""
    classes, size, threshold = CASES[case]
    logits = word_logits(classes, seed)
    text_maps = TextMaps(logits, list(range(classes)), size)
    maps = DenseMaps(torch.stack([text_maps.probabilities(label) for label in range(classes)]), text_maps.labels)
    batched = sure(sam_answers(model, embedding))
    looped = one_class_at_a_time(batched)
    plain = Refinement()

    def refined(ask: Ask, refinement: Refinement = plain) -> Tensor:
        return refine(maps, ask, model.preprocessing, refinement, threshold, MINIMUM_AREA)

    together, alone = refined(batched, Refinement(prompts_at_once=32)), refined(looped, Refinement(split=original_regions))
    same = float((together == alone).float().mean())
    regions, again = original_components(maps, threshold), optimised_components(maps, threshold)
    assert regions == again, "the two component analyses differ"
    prompts = class_prompts(maps, model.preprocessing, plain, threshold, MINIMUM_AREA)
    where = f"{case}: {classes} classes, {size[0]} x {size[1]}, {regions} regions of {len(prompts)} classes; labels equal in {same:.4%} of the pixels"
    calls: dict[str, Callable[[], object]] = {
        "labels alone (NO SAM)": lambda: TextMaps(logits, list(range(classes)), size),
        "components, original": lambda: original_components(maps, threshold),
        "components, optimised": lambda: optimised_components(maps, threshold),
        "refinement, original (algorithm 2, class by class)": lambda: refined(looped, Refinement(split=original_regions)),
        "refinement, class by class": lambda: refined(looped),
        "refinement, optimised (algorithms 3 and 4)": lambda: refined(batched),
        "refinement, 32 regions of any class a call": lambda: refined(batched, Refinement(prompts_at_once=32)),
        "optimised, w/o CCA": lambda: refined(batched, Refinement(split=whole_classes)),
        "optimised, w/o box": lambda: refined(sure(sam_answers(model, embedding, ALL_PROMPTS - {"box"}))),
        "optimised, w/o mask": lambda: refined(sure(sam_answers(model, embedding, ALL_PROMPTS - {"mask"}))),
    }
    references = {
        "components, optimised": "components, original",
        "refinement, optimised (algorithms 3 and 4)": "refinement, class by class",
        "refinement, 32 regions of any class a call": "refinement, class by class",
        "refinement, class by class": "refinement, original (algorithm 2, class by class)",
        **{f"optimised, w/o {part}": "refinement, optimised (algorithms 3 and 4)" for part in ("CCA", "box", "mask")},
    }
    return calls, references, where


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        names = list(calls)
        random.Random(i).shuffle(names)
        for name in names:
            started = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - started)
        print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    return times


def memory(model: SamClicks, embedding: ImageEmbedding) -> None:
    """Print how much a 2048 x 2048 image with 171 classes adds to the process's peak."""
    # what is resident now, against the highest there ever was: an upper bound, should making the networks have taken more
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    started = time.perf_counter()
    maps = TextMaps(word_logits(171, 0), list(range(171)), (2048, 2048))
    # large regions alone: their number costs time, not memory
    refine(maps, sure(sam_answers(model, embedding)), model.preprocessing, Refinement(), 0.05, 40000)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = 171 * 2048 * 2048 * 4 / 2**20
    added = (after - before) / 1024
    print(f"2048 x 2048, 171 classes: {added:.0f} MiB above what the networks took, {seconds:.1f} s; all probabilities alone are {whole:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeat for more; default: all")
    parser.add_argument("--sam", choices=("small", "vit-b"), default="small", help="small: a small encoder before a decoder of the published size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="measure memory and stop")
    parser.add_argument("--report", type=Path, help="write the times as JSON")
    options = parser.parse_args()
    model = random_sam(options.sam)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, SAM {options.sam}, {options.rounds} rounds, maps of seed {options.seed}")
    if options.memory:
        with torch.no_grad():
            memory(model, embedding)
        return
    report = {}
    for case in options.case or CASES:
        with torch.no_grad():
            calls, references, where = rows(case, model, embedding, options.seed)
            times = report[case] = measure(calls, options.rounds)
        print(f"\n{where}\n\n| what | median s | ratio | to |\n|---|---|---|---|")
        for name in calls:
            reference = references.get(name, "")
            ratio = f"{statistics.median(a / b for a, b in zip(times[name], times[reference], strict=True)):.2f}" if reference else ""
            print(f"| {name} | {statistics.median(times[name]):.3f} | {ratio} | {reference} |")
    if options.report:
        options.report.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
