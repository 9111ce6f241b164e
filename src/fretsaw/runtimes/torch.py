"""Models that torch runs: numpy goes in and comes out, embeddings and features stay on the model's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fretsaw.errors import ShapeError
from fretsaw.frames import Preprocessing
from fretsaw.methods.sam_clicks import SamClicks, best_of_three, drawn_points
from fretsaw.types import Answer, Embedding, ImageEmbedding, Prompt, Refiner, RefinerState, Seen


class TorchClickModel:
    """SAM's prompt encoder and mask decoder over any image encoder, and a refiner if there is one; see `fretsaw.types.ClickModel`.

    Every prompt is answered with the best of three masks by predicted IoU.

    Args:
        network: Encoder, prompt encoder and decoder.
        refiner: Improves every answer, or None.
    """

    def __init__(self, network: SamClicks, refiner: Refiner | None = None) -> None:
        self.network, self.refiner = network, refiner

    @property
    def preprocessing(self) -> Preprocessing:
        return self.network.preprocessing

    @property
    def checksum(self) -> str:
        return self.network.checksum

    @property
    def logit_side(self) -> int:
        return self.preprocessing.logit_side * (self.refiner.map_scale if self.refiner is not None else 1)

    @property
    def refines(self) -> bool:
        return self.refiner is not None

    @torch.no_grad()
    def look(self, image: np.ndarray, embedding: Embedding | None = None, taps: Sequence[str] = ()) -> Seen:
        """Return what is computed once of an image; a given embedding must be one of this model's."""
        frame = self.preprocessing.frame_of(image)
        if embedding is not None and self.refiner is None:
            return Seen(frame, embedding)
        pixels = self.network.pixels_of(image)
        known = self.network.encode(pixels, taps) if embedding is None else _own(embedding)
        return Seen(frame, known, self.refiner.prepare(pixels, known) if self.refiner is not None else None)

    @torch.no_grad()
    def answer(self, seen: Seen, prompt: Prompt, state: RefinerState | None = None) -> Answer:
        """Answer a prompt; see `fretsaw.types.ClickModel.answer`."""
        network, refiner = self.network, self.refiner
        logits, score = best_of_three(*network.decode(_own(seen.embedding), network.embed(prompt, seen.frame)))
        after: Mapping[str, Tensor] | None = None
        if refiner is not None:
            # Copies: what a session keeps is read-only, and a refiner might keep what it is given.
            before = {name: torch.tensor(array, device=logits.device) for name, array in state.items()} if state is not None else None
            previous = torch.tensor(prompt.previous_logits, device=logits.device) if prompt.previous_logits is not None else None
            logits, after = refiner.refine(seen.features, *drawn_points(prompt, seen.frame), logits, previous, before)
        kept = {name: _frozen(tensor) for name, tensor in after.items()} if after is not None else None
        return Answer(_frozen(logits), float(score.clamp(0, 1)), kept)

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        """Return an embedding as arrays: `final`, `high_res.0` and on, `taps.<name>`."""
        own = _own(embedding)
        levels, taps = enumerate(own.high_res), own.taps.items()
        named = {"final": own.final} | {f"high_res.{i}": level for i, level in levels} | {f"taps.{name}": tap for name, tap in taps}
        return {name: tensor.detach().cpu().numpy() for name, tensor in named.items()}

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> ImageEmbedding:
        """Undo `pack`.

        Raises:
            ShapeError: If an array is missing, or has not the shape that the model's decoder takes.
        """
        grid, channels = -(-self.preprocessing.size // 16), self.network.embedding_channels
        shapes = {"final": (1, channels[0], grid, grid)}
        for number, count in enumerate(channels[1:]):
            side = grid * 2 ** (len(channels) - 1 - number)
            shapes[f"high_res.{number}"] = (1, count, side, side)
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape:
                raise ShapeError(f"expected embedding.{name} {shape}, got {arrays[name].shape if name in arrays else 'none'}")
        device = self.network.device
        final, *high_res = (torch.tensor(arrays[name], device=device) for name in shapes)
        taps = {name.removeprefix("taps."): torch.tensor(array, device=device) for name, array in arrays.items() if name.startswith("taps.")}
        return ImageEmbedding(final, tuple(high_res), taps)


def limit_threads(count: int) -> None:
    """Let networks that the calling thread runs use so many threads at once."""
    torch.set_num_threads(count)


def _own(embedding: Embedding) -> ImageEmbedding:
    """Return an embedding of this runtime as what it is."""
    assert isinstance(embedding, ImageEmbedding), "a session passes back what the model gave it"
    return embedding


def _frozen(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a read-only array."""
    array = tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.detach().cpu().numpy()
    array.flags.writeable = False
    return array
