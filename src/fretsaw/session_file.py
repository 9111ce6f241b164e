"""A session on disk: one safetensors file that holds the image's embedding and the history of steps.

The file is bound to what it was computed from. Its metadata name the image (hash of its pixels), the model (checksum of its weights) and the
preprocessing; a file that does not fit is refused, since an embedding of another image looks like any other embedding and gives plausible nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fretsaw import images
from fretsaw.errors import StaleSessionError
from fretsaw.frames import MASK_PROMPT_LOGIT
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.types import Box, Click, ImageEmbedding, Prompt, Stroke

if TYPE_CHECKING:
    from torch import Tensor

    from fretsaw.methods.sam_clicks import SamClicks
    from fretsaw.session import Step

FORMAT = "fretsaw-session-1"
STEP_FORMAT = "fretsaw-step-1"

EDGE = 2
"""Pixels around a part's box that are kept: `edge_opacity` looks at the neighbours of the outline's neighbours."""


def write(path: Path, image: np.ndarray, model: SamClicks, embedding: ImageEmbedding, history: Sequence[Step]) -> Path:
    """Write a session file atomically and return its path.

    Raises:
        OutputError: If the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {"embedding.final": embedding.final}
    tensors |= {f"embedding.high_res.{i}": tensor for i, tensor in enumerate(embedding.high_res)}
    tensors |= {f"embedding.taps.{name}": tensor for name, tensor in embedding.taps.items()}
    steps = []
    for i, step in enumerate(history):
        steps.append(_step_to_json(step))
        tensors |= {f"step.{i}.{name}": tensor for name, tensor in _step_tensors(step).items()}
    metadata = _identity(image, model) | {"format": FORMAT, "steps": json.dumps(steps)}
    # a copy each: a named mask is a second step with the same logits, and safetensors refuses tensors that share memory
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata)
    return images.write_bytes(path, content)


def read(path: Path, image: np.ndarray, model: SamClicks) -> tuple[ImageEmbedding, list[Step]]:
    """Read a session file that belongs to this image and this model.

    Raises:
        StaleSessionError: If the file is no session, is broken, or belongs to another image, model or preprocessing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_identity(path, metadata, _identity(image, model))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (OSError, SafetensorError) as error:
        raise StaleSessionError(f"expected a session file at {path}, got: {error}") from error
    high_res = [tensors[f"embedding.high_res.{i}"] for i in range(sum(name.startswith("embedding.high_res.") for name in tensors))]
    taps = {name.removeprefix("embedding.taps."): tensor for name, tensor in tensors.items() if name.startswith("embedding.taps.")}
    device = model.device
    embedding = ImageEmbedding(tensors["embedding.final"].to(device), tuple(t.to(device) for t in high_res), {name: t.to(device) for name, t in taps.items()})
    history: list[Step] = []
    for i, step in enumerate(json.loads(metadata["steps"])):
        own = {name.removeprefix(f"step.{i}."): tensor for name, tensor in tensors.items() if name.startswith(f"step.{i}.")}
        history.append(_step_from(step, own, device))
    return embedding, history


def write_step(path: Path, step: Step) -> Path:
    """Write one step to a file of its own, atomically and durably, and return its path; for those who save after every interaction.

    Raises:
        OutputError: If the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _step_tensors(step).items()}
    content = save(tensors, {"format": STEP_FORMAT, "step": json.dumps(_step_to_json(step))})
    return images.write_bytes(path, content, durable=True, mode=0o600)


def read_step(path: Path, device: Any) -> Step:
    """Read a file that `write_step` made.

    Raises:
        StaleSessionError: If it is none, or broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != STEP_FORMAT:
                raise StaleSessionError(f"expected a step ({STEP_FORMAT}) at {path}, got {metadata.get('format', 'another kind of file')}")
            return _step_from(json.loads(metadata["step"]), {name: file.get_tensor(name) for name in file.keys()}, device)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StaleSessionError(f"expected a step at {path}, got: {error}") from error


def _identity(image: np.ndarray, model: SamClicks) -> dict[str, str]:
    return {"image": images.image_hash(image), "model": model.checksum, "preprocessing": model.preprocessing.key}


def _check_identity(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    if found.get("format") != FORMAT:
        raise StaleSessionError(f"expected a session file ({FORMAT}) at {path}, got {found.get('format', 'another kind of file')}")
    for name, value in expected.items():
        if found.get(name) != value:
            raise StaleSessionError(f"{path} belongs to another {name}: expected {value[:16]}, got {str(found.get(name))[:16]}; open the image anew")


def _step_to_json(step: Step) -> dict[str, Any]:
    box = asdict(step.prompt.box) if step.prompt.box is not None else None
    parts = [{"place": _kept_box(part), "size": list(part.logits.shape), "score": part.score, "name": part.name} for part in step.instances]
    return {
        "clicks": [{"x": click.x, "y": click.y, "positive": click.positive} for click in step.prompt.clicks],  # many times faster than `asdict`
        "strokes": [asdict(stroke) for stroke in step.prompt.strokes],
        "box": box,
        "score": step.score,
        "name": step.name,
        "instances": parts,
        "view": asdict(step.view) if step.view is not None else None,
    }


def _step_tensors(step: Step) -> dict[str, Tensor]:
    import torch

    tensors: dict[str, Tensor] = {}
    if step.prompt.previous_logits is not None:
        tensors["logits"] = step.prompt.previous_logits
    if isinstance(step.full, MaskRuns):
        tensors["mask_size"] = torch.tensor(step.full.size)
        if 8 * step.full.nbytes <= step.full.size[0] * step.full.size[1]:
            tensors["runs"] = torch.from_numpy(step.full.lengths)
        else:  # speckles: one bit a pixel is less
            tensors["mask"] = torch.from_numpy(np.packbits(step.full.mask()))
    elif step.full is not None:
        tensors["full"] = torch.from_numpy(np.array(step.full))
    for number, part in enumerate(step.instances):
        x0, y0, x1, y1 = _kept_box(part)
        tensors[f"instance.{number}"] = torch.from_numpy(part.logits[y0:y1, x0:x1].copy())
    return tensors | {f"refiner.{name}": tensor for name, tensor in (step.refiner_state or {}).items()}


def _kept_box(part: Segmentation) -> list[int]:
    """Return what is kept of a part's logits, x0 y0 x1 y1: its mask and the pixels that its edges' softness is judged by. Elsewhere is background."""
    x0, y0, x1, y1 = part.box
    height, width = part.logits.shape
    return [max(0, x0 - EDGE), max(0, y0 - EDGE), min(width, x1 + EDGE), min(height, y1 + EDGE)] if part.area else [0, 0, 0, 0]


def _step_from(step: dict[str, Any], tensors: dict[str, Tensor], device: Any) -> Step:
    from fretsaw.session import Step

    logits = tensors.get("logits")
    prompt = Prompt(
        clicks=tuple(Click(**click) for click in step["clicks"]),
        box=Box(**step["box"]) if step["box"] is not None else None,
        previous_logits=logits.to(device) if logits is not None else None,
        strokes=tuple(Stroke(tuple((x, y) for x, y in row["points"]), row["positive"]) for row in step.get("strokes", ())),
    )
    state = {name.removeprefix("refiner."): tensor.to(device) for name, tensor in tensors.items() if name.startswith("refiner.")}
    parts = tuple(_part(row, tensors[f"instance.{number}"].numpy()) for number, row in enumerate(step.get("instances", ())))
    view = Box(**step["view"]) if step.get("view") is not None else None
    return Step(prompt, step["score"], _full_from(tensors), parts, state or None, step.get("name", ""), view)


def _full_from(tensors: dict[str, Tensor]) -> np.ndarray | MaskRuns | None:
    if "runs" in tensors:
        height, width = tensors["mask_size"].tolist()
        return MaskRuns((height, width), tensors["runs"].numpy())
    if "mask" in tensors:
        height, width = tensors["mask_size"].tolist()
        return MaskRuns.of(np.unpackbits(tensors["mask"].numpy(), count=height * width).reshape(height, width).astype(bool))
    return tensors["full"].numpy() if "full" in tensors else None


def _part(row: dict[str, Any], kept: np.ndarray) -> Segmentation:
    logits = np.full(row["size"], -MASK_PROMPT_LOGIT, np.float32)
    x0, y0, x1, y1 = row["place"]
    logits[y0:y1, x0:x1] = kept
    return Segmentation(logits, row["score"], name=row["name"])
