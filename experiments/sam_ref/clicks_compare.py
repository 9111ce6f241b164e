"""Compare decoders over one image encoder on held-out objects: clicks to 90 and 95 %, set by set, with paired bootstrap intervals of every difference.

    python experiments/sam_ref/clicks_compare.py --data ../shared/data --decoder runs/clicks/decoder.safetensors --share 0.3,0.5,0.8,1 --rank 32 \\
        --journal compare.jsonl

The first row is the model's own decoder, the others go a share of the way from it to the learned one. All rows click the same objects of the val parts,
zooming in where the model does; every photo and every view is encoded once for all rows. What the journal holds is not clicked again, so that an interrupted
run goes on. `--protocol real` clicks as people do, and prints the worst tenth as well.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fretsaw import catalog
from fretsaw.data.samples import Sample
from fretsaw.evaluation.adapters import SessionPredictor
from fretsaw.evaluation.clicks import click_through, sample_rng
from fretsaw.evaluation.protocols import REAL, SAM
from fretsaw.images import write_bytes
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.sam_ref.data import Places, draw
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import ImageEmbedding
from fretsaw.weights import load_state_dict, low_rank
from fretsaw.zoom import ZoomRules

PROTOCOLS = {"sam": SAM, "real": REAL}
SETS = "coco_mval,human_seg,ccp,voc_animals,coco_multi"
TARGETS = (0.90, 0.95)
ROUNDS = 4000
"""Resamples of a bootstrap interval."""


@dataclass(frozen=True)
class Opener:
    """Opens sessions as the model does, zooming in if it does."""

    model: SamClicks
    zoom: ZoomRules | None

    def open(self, image: np.ndarray) -> Session:
        return Session(image, TorchClickModel(self.model), zoom=self.zoom)


@dataclass(frozen=True)
class Files:
    """What a run keeps for the next: the objects that are clicked already, and perhaps embeddings."""

    journal: Path
    embeddings: Path | None


class Remembered:
    """An image encoder that computes every input once: kept in memory until `forget`, and in a folder for other runs if one is given.

    Args:
        encode: The encoder, of pixels (1, 3, S, S).
        folder: Of embeddings by the SHA-256 of their pixels; it must be of one model alone.
    """

    def __init__(self, encode: Callable[[Tensor], ImageEmbedding], folder: Path | None = None) -> None:
        self._encode, self._folder, self._known = encode, folder, {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Return the embedding without taps, which clicks do not read."""
        key = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        if key not in self._known:
            self._known[key] = self._read(key) or self._make(key, pixels)
        return self._known[key]

    def forget(self) -> None:
        self._known = {}

    def _read(self, key: str) -> ImageEmbedding | None:
        if self._folder is None or not (file := self._folder / f"{key}.pt").exists():
            return None
        final, *levels = torch.load(file, weights_only=True)
        return ImageEmbedding(final, tuple(levels))

    def _make(self, key: str, pixels: Tensor) -> ImageEmbedding:
        embedding = self._encode(pixels)
        if self._folder is not None:
            buffer = io.BytesIO()
            torch.save([embedding.final, *embedding.high_res], buffer)
            write_bytes(self._folder / f"{key}.pt", buffer.getvalue())
        return embedding


def decoders(model: SamClicks, file: Path | None, shares: Sequence[float], rank: int) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield (row's name, the decoder's parameters): the model's own, then each share of the way to a file's."""
    own = {name: tensor.clone() for name, tensor in model.mask_decoder.state_dict().items()}
    yield "own", own
    if file is None:
        return
    for share in shares:
        learned = low_rank.part_way(load_state_dict(file), own, share)
        stored = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in (low_rank.compress(learned, own, rank) if rank else learned).items()}
        whole = low_rank.restore({name: tensor.float() for name, tensor in stored.items()}, own)
        yield f"{share:g}" + (f", rank {rank}" if rank else ""), whole


def click(
    model: SamClicks, rows: Mapping[str, Mapping[str, Tensor]], objects: Mapping[str, Sequence[Sample]], zoom: ZoomRules | None, protocol: str, files: Files
) -> list[dict[str, Any]]:
    """Click every object with every decoder; returns {set, name, row, protocol, ious} each, those of earlier runs included."""
    known = [json.loads(line) for line in files.journal.read_text().splitlines()] if files.journal.exists() else []
    done = {(entry["set"], entry["name"], entry["row"], entry["protocol"]) for entry in known}
    encode = Remembered(model.encode, files.embeddings)
    model.encode = encode  # pyright: ignore[reportAttributeAccessIssue] (in place of the method)
    predictor = SessionPredictor(Opener(model, zoom))
    with files.journal.open("a") as file:
        for name, samples in objects.items():
            for sample in samples:
                missing = [row for row in rows if (name, sample.name, row, protocol) not in done]
                if not missing:
                    continue
                image, truth = sample.read()
                encode.forget()
                for row in missing:
                    model.mask_decoder.load_state_dict(rows[row])
                    trace = click_through(predictor, image, truth, PROTOCOLS[protocol], sample_rng(0, sample.name))
                    known.append({"set": name, "name": sample.name, "row": row, "protocol": protocol, "ious": list(trace.ious)})
                    file.write(json.dumps(known[-1]) + "\n")
                    file.flush()
    return known


def noc(ious: Sequence[float], target: float) -> int:
    """Clicks to the first IoU of at least `target`; 20 where it is never reached."""
    return next((k + 1 for k, value in enumerate(ious) if value >= target), 20)


def interval(less: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """95 % of the mean over sets of the mean paired difference, objects drawn anew within every set."""
    rng = np.random.default_rng(0)
    means = np.mean([values[rng.integers(len(values), size=(ROUNDS, len(values)))].mean(1) for values in less.values()], 0)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def table(entries: Sequence[Mapping[str, Any]], rows: Sequence[str], protocol: str) -> Iterator[str]:
    """Yield the lines of a table: each row's clicks by set and their mean over sets; below, differences from the first row with intervals."""
    counts: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for entry in entries:
        if entry["protocol"] == protocol and entry["row"] in rows:
            counts.setdefault(entry["set"], {}).setdefault(entry["row"], {})[entry["name"]] = np.array([noc(entry["ious"], q) for q in TARGETS])
    names = {which: sorted(set.intersection(*(set(by_row.get(row, {})) for row in rows))) for which, by_row in counts.items()}
    names = {which: shared for which, shared in names.items() if shared}
    values = {row: {which: np.array([counts[which][row][name] for name in shared]) for which, shared in names.items()} for row in rows}
    yield f"clicks to 90 % / 95 %, protocol {protocol}: " + ", ".join(f"{which} {len(shared)}" for which, shared in names.items())
    yield "| row | " + " | ".join(names) + " | mean |" + (" worst tenth |" if protocol == "real" else "")
    for row, by_set in values.items():
        cells = [" / ".join(f"{value:.2f}" for value in by_set[which].mean(0)) for which in names]
        mean = np.mean([by_set[which].mean(0) for which in names], 0)
        worst = [np.sort(np.concatenate([by_set[which][:, i] for which in names]))[::-1] for i in range(len(TARGETS))]
        tenth = " / ".join(f"{column[: max(1, len(column) // 10)].mean():.2f}" for column in worst)
        yield f"| {row} | " + " | ".join(cells) + f" | {mean[0]:.2f} / {mean[1]:.2f} |" + (f" {tenth} |" if protocol == "real" else "")
    for row in list(rows)[1:]:
        for i, target in enumerate(TARGETS):
            less = {which: values[row][which][:, i] - values[rows[0]][which][:, i] for which in names}
            parts = [f"{which} {change.mean():+.2f} [{', '.join(f'{end:+.2f}' for end in interval({which: change}))}]" for which, change in less.items()]
            low, high = interval(less)
            yield f"{row} - {rows[0]}, NoC{round(100 * target)}: {np.mean([c.mean() for c in less.values()]):+.3f} [{low:+.3f}, {high:+.3f}]; " + "; ".join(
                parts
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets and their splits")
    parser.add_argument("--sets", default=SETS, help="whose val parts are clicked; also places as `fretsaw train sam_ref --set val=` takes them")
    parser.add_argument("--objects", type=int, default=25, help="at most so many of each")
    parser.add_argument("--model", default=catalog.DEFAULT)
    parser.add_argument("--size", type=int, help="side of the model's input")
    parser.add_argument("--decoder", type=Path, help="what `fretsaw train sam_ref --set stage=decoder` wrote")
    parser.add_argument("--share", default="1", help="how far to go to it; several separated by commas")
    parser.add_argument("--rank", type=int, default=32, help="of the change, 0 for whole matrices")
    parser.add_argument("--label", default="", help="put before the rows' names, so that one journal can hold several decoders")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="sam")
    parser.add_argument("--no-zoom", action="store_true")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, help="folder that keeps this model's embeddings for other runs, 7 MB each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = catalog.build(options.model, size=options.size)
    model = parts.clicks
    assert model is not None, "a model that takes clicks"
    places = Places(options.data)
    objects = {name: draw(places.objects(name, "val"), options.objects) for name in options.sets.split(",")}
    shares = [float(share) for share in options.share.split(",")]
    rows = {(f"{options.label} {name}" if name != "own" else name).strip(): state for name, state in decoders(model, options.decoder, shares, options.rank)}
    zoom = ZoomRules() if parts.zooms and not options.no_zoom else None
    entries = click(model, rows, objects, zoom, options.protocol, Files(options.journal, options.embeddings))
    for line in table(entries, list(rows), options.protocol):
        print(line)


if __name__ == "__main__":
    main()
