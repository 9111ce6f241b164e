"""How good trained GrC-SAM models are on a held-out part: classes or foreground, beside the coarse and the fine mask, model by model.

    python experiments/grc_sam/quality.py ../shared/data/ccp --classes ccp8 --model runs/semantic/model.safetensors --model runs/linear/model.safetensors
    python experiments/grc_sam/quality.py ../shared/data/human_seg ../shared/data/ccp --model runs/binary/model.safetensors

Every model sees the same images at its own size. mIoU and PA are over all pixels of all images; Dice and its PA are means over images, of the foreground at the
end, of the coarse mask and of the fine one: the difference of the last two says whether the fine stage helps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import fretsaw
from fretsaw.data.label_folders import open_labels, open_masks, part_of
from fretsaw.data.samples import Sample
from fretsaw.evaluation.stages import stage_tally
from fretsaw.recipes.grc_sam.data import foreground_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--classes", default="", help="file of groups; without, foreground against background")
    parser.add_argument("--model", action="append", required=True, help="name or file; repeat for more")
    parser.add_argument("--part", default="test")
    parser.add_argument("--limit", type=int, help="the first so many images of each folder")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    samples: list[Sample] = []
    names: tuple[str, ...] = ()
    for folder in options.data:
        found = open_masks(folder)
        if options.classes:
            found, names = open_labels(folder, options.classes)
        samples += part_of(found, folder, options.part)[: options.limit]
    shown = names or ("background", "foreground")
    print(f"{len(samples)} images of {options.part}, {', '.join(folder.name for folder in options.data)}\n")
    columns = ("mIoU", "PA", "Dice", "foreground PA", "coarse Dice", "coarse foreground PA", "fine Dice", "fine foreground PA", "rho")
    print("| model | " + " | ".join((*columns, *shown)) + " |\n|" + "---|" * (1 + len(columns) + len(shown)))
    for name in options.model:
        segmenter = fretsaw.load(name, device=options.device)
        labels, clicks = segmenter.parts.semantic, segmenter.parts.clicks
        if labels is None or clicks is None or labels.names != shown:
            sys.exit(f"{name}: expected a model with the classes {', '.join(shown)}")
        tally = stage_tally(
            samples,
            labels.network,
            lambda sample, image, clicks=clicks: clicks.encode(clicks.pixels_of(image)),
            clicks.preprocessing.frame_of,
            len(shown),
            foreground_ids(names),
        )
        figures = tally.figures()
        cells = [f"{figures[column]:.3f}" if column in figures else "" for column in columns] + [f"{value:.3f}" for value in tally.ious()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
