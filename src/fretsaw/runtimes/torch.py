"""Models that torch runs: numpy goes in and comes out, embeddings and features stay on the model's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fretsaw.errors import ShapeError
from fretsaw.frames import Preprocessing
from fretsaw.methods.sam_clicks import SamClicks, best_of_three, drawn_points
from fretsaw.types import Answer, Embedding, Features, ImageEmbedding, Prompt, Refiner, RefinerState, Seen


class TorchClickModel:
    """SAM's prompt encoder and mask decoder over any image encoder, with or without a refiner; see `fretsaw.types.ClickModel`.

    The answer to a prompt is the one of the decoder's three masks that has the highest predicted IoU.

    Args:
        network: Encoder, prompt encoder and decoder.
        refiner: Improves every answer, or None.
    """

    def __init__(self, network: SamClicks, refiner: Refiner[Any] | None = None) -> None:
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
        """Return what is computed once of an image; see `fretsaw.types.ClickModel.look`. A given embedding must be one of this model's."""
        frame = self.preprocessing.frame_of(image)
        if embedding is not None and self.refiner is None:
            return Seen(frame, embedding)
        pixels = self.network.pixels_of(image)
        known = self.network.encode(pixels, taps) if embedding is None else _own(embedding)
        return Seen(frame, known, self._features(pixels, known))

    @torch.no_grad()
    def answer(self, seen: Seen, prompt: Prompt, state: RefinerState[np.ndarray] | None = None) -> Answer:
        """Answer a prompt; see `fretsaw.types.ClickModel.answer`."""
        network = self.network
        logits, score = best_of_three(*network.decode(_own(seen.embedding), network.embed(prompt, seen.frame)))
        after: RefinerState[np.ndarray] | None = None
        if self.refiner is not None:
            before = state if state is not None else RefinerState[np.ndarray]()
            error_map, previous = _on(before.error_map, logits.device), _on(prompt.previous_logits, logits.device)
            points = drawn_points(prompt, seen.frame)
            logits, refined = self.refiner.refine(seen.features, *points, logits, previous, RefinerState(before.given, error_map))
            after = RefinerState(refined.given, _frozen(refined.error_map) if refined.error_map is not None else None)
        return Answer(_frozen(logits), float(score.clamp(0, 1)), after)

    def _features(self, pixels: Tensor, embedding: ImageEmbedding) -> Features | None:
        return self.refiner.prepare(pixels, embedding) if self.refiner is not None else None

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        """Return an embedding as arrays: `final`, `high_res.0` and on, `taps.<name>`."""
        own = _own(embedding)
        levels, taps = enumerate(own.high_res), own.taps.items()
        named = {"final": own.final} | {f"high_res.{i}": level for i, level in levels} | {f"taps.{name}": tap for name, tap in taps}
        return {name: tensor.detach().cpu().numpy() for name, tensor in named.items()}

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> ImageEmbedding:
        """Undo `pack`.

        Raises:
            ShapeError: If an array is missing or has another shape than the model's decoder takes.
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
    """Set how many processor threads a network may use when the calling thread runs it."""
    torch.set_num_threads(count)


def _own(embedding: Embedding) -> ImageEmbedding:
    """Return an embedding that this runtime made, with its own type."""
    assert isinstance(embedding, ImageEmbedding), "a session passes back the embedding that the model gave it"
    return embedding


def _on(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    """Return a copy of an array as a tensor: a session's arrays are read-only, and a refiner may keep its arguments."""
    return torch.tensor(array, device=device) if array is not None else None


def _frozen(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a read-only array."""
    array = tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.detach().cpu().numpy()
    array.flags.writeable = False
    return array
