"""A session on disk: one safetensors file that holds the image's embedding and the history of steps.

Its metadata name the image (hash of its pixels), the model (checksum of its weights) and the preprocessing. `read` refuses a file with other ones, because
the embedding of another image would give plausible but wrong masks.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fretsaw import images
from fretsaw.click_true import Patch
from fretsaw.errors import FretsawError, StaleSessionError, shown
from fretsaw.frames import MASK_PROMPT_LOGIT
from fretsaw.history import Step
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.types import Box, Click, ClickModel, Embedding, Prompt, RefinerState, Stroke
from fretsaw.weights.checkpoints import one_line

FORMAT = "fretsaw-session-1"
STEP_FORMAT = "fretsaw-step-1"

EMBEDDING = "embedding."
"""Begins the names of the embedding's arrays; what follows is the model's own, see `ClickModel.pack`."""

STATE = "refiner."
"""Begins the names of the arrays of a refiner's state."""

ERROR_MAP, GIVEN = f"{STATE}error_map", f"{STATE}given"

BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""Exceptions that reading a damaged or hostile file may raise."""

EDGE = 2
"""Width in pixels of the margin around a part's box that the file keeps, because `edge_opacity` reads two pixels beyond the outline."""


def write(path: Path, image: np.ndarray, model: ClickModel, embedding: Embedding, history: Sequence[Step]) -> Path:
    """Write a session file atomically and return its path.

    Raises:
        OutputError: If the folder cannot be written.
    """
    arrays = {f"{EMBEDDING}{name}": array for name, array in model.pack(embedding).items()}
    steps: list[dict[str, Any]] = []
    before = None
    for i, step in enumerate(history):
        steps.append(_step_to_json(step, before))
        arrays |= {f"step.{i}.{name}": array for name, array in _step_arrays(step, before).items()}
        before = step
    metadata = _identity(image, model) | {"format": FORMAT, "steps": json.dumps(steps)}
    return images.write_bytes(path, _packed(arrays, metadata))


def read(path: Path, image: np.ndarray, model: ClickModel) -> tuple[Embedding, list[Step]]:
    """Read a session file that belongs to this image and this model.

    Raises:
        StaleSessionError: If the file is no session, is broken, or belongs to another image, model or preprocessing.
    """
    with _opened(path, "a session file") as (metadata, arrays):
        _check_identity(path, metadata, _identity(image, model))
        embedding = model.unpack({name.removeprefix(EMBEDDING): _require_array(name, arrays[name], None) for name in arrays if name.startswith(EMBEDDING)})
        history: list[Step] = []
        own = _grouped(arrays)
        expected = Expected((image.shape[0], image.shape[1]), model.preprocessing.logit_side)
        for i, step in enumerate(_list(_json(metadata, "steps"), "steps")):
            history.append(_step_from(step, own.get(i, {}), expected, history[-1] if history else None))
        return embedding, history


def write_step(path: Path, step: Step, before: Step | None = None) -> Path:
    """Write one step to a file of its own, atomically and durably, and return its path; for those who save after every interaction.

    Args:
        path: The file.
        step: The step.
        before: The step before it in the history, whose file is written already. A step that corrects the same mask refers to that file and holds only what
            is new.

    Raises:
        OutputError: If the folder cannot be written.
    """
    content = _packed(_step_arrays(step, before), {"format": STEP_FORMAT, "step": json.dumps(_step_to_json(step, before))})
    return images.write_bytes(path, content, durable=True, mode=0o600)


def read_step(path: Path, size: tuple[int, int] | None = None, side: int | None = None, before: Step | None = None) -> Step:
    """Read a file that `write_step` made.

    Args:
        path: The file.
        size: (H, W) of the image that it belongs to; None accepts the size that the file states.
        side: Of the decoder's logits, S / 4; None accepts any.
        before: The step before it, to which it may refer.

    Raises:
        StaleSessionError: If the file is no step, is broken, or belongs to an image or a model of another size.
    """
    with _opened(path, "a step") as (metadata, arrays):
        if metadata.get("format") != STEP_FORMAT:
            raise StaleSessionError(f"expected a step ({STEP_FORMAT}) at {path}, got {shown(metadata.get('format', 'another kind of file'))}")
        return _step_from(_json(metadata, "step"), arrays, Expected(size, side), before)


def read_steps(paths: Iterable[Path], size: tuple[int, int] | None = None, side: int | None = None) -> list[Step]:
    """Read the files of a history's steps in order, without the empty start; see `read_step`."""
    steps: list[Step] = []
    for path in paths:
        steps.append(read_step(path, size, side, steps[-1] if steps else None))
    return steps


def _packed(arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    from safetensors.numpy import save

    # the bytes of each array are taken as they lie in memory
    return save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, metadata)


@contextmanager
def _opened(path: Path, what: str) -> Generator[tuple[dict[str, str], dict[str, np.ndarray]], None, None]:
    """Give a file's metadata and arrays. Any error inside the block becomes a `StaleSessionError` of one line.

    The functions below check each value; this catches what they do not foresee.
    """
    import safetensors

    open_file: Any = safetensors.safe_open
    try:
        with open_file(path, framework="np") as file:
            yield file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except StaleSessionError:
        raise
    except (safetensors.SafetensorError, FretsawError, *BROKEN) as error:
        said = f"no {error} in it" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise StaleSessionError(f"expected {what} at {path}, got: {one_line(said, 500)}") from error


def _json(metadata: Mapping[str, str], name: str) -> Any:
    if name not in metadata:
        raise ValueError(f"no {name} in its metadata")
    try:
        return json.loads(metadata[name])
    except RecursionError:
        raise ValueError(f"its {name} are nested too deeply") from None


def _grouped(arrays: Mapping[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
    """Return {number of a step: its arrays by their own names}."""
    steps: dict[int, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        kind, number, own = (*name.split(".", 2), "", "")[:3]
        if kind == "step" and number.isascii() and number.isdigit() and len(number) < 10:
            steps.setdefault(int(number), {})[own] = array
    return steps


def _identity(image: np.ndarray, model: ClickModel) -> dict[str, str]:
    return {"image": images.image_hash(image), "model": model.checksum, "preprocessing": model.preprocessing.key}


def _check_identity(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    if found.get("format") != FORMAT:
        raise StaleSessionError(f"expected a session file ({FORMAT}) at {path}, got {shown(found.get('format', 'another kind of file'))}")
    for name, value in expected.items():
        if found.get(name) != value:
            raise StaleSessionError(f"{path} belongs to another {name}: expected {value[:16]}, got {shown(str(found.get(name))[:16])}; open the image anew")


def _shared_patches(step: Step, before: Step | None) -> int | None:
    """Return how many patches a step shares with the one before, or None if it does not correct the same mask."""
    if before is None or step.full is None or step.full is not before.full or len(step.patches) < len(before.patches):
        return None
    return len(before.patches) if all(a is b for a, b in zip(before.patches, step.patches, strict=False)) else None


def _step_to_json(step: Step, before: Step | None) -> dict[str, Any]:
    shared = _shared_patches(step, before)
    patches = [{"x": patch.x, "y": patch.y} for patch in step.patches[shared or 0 :]]
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
        **({"same_mask": True} if shared is not None else {}),
        **({"patches": patches} if patches else {}),
    }


def _step_arrays(step: Step, before: Step | None) -> dict[str, np.ndarray]:
    shared = _shared_patches(step, before)
    arrays = {f"patch.{number}": patch.logits for number, patch in enumerate(step.patches[shared or 0 :])}
    if step.prompt.previous_logits is not None:
        arrays["logits"] = step.prompt.previous_logits
    if shared is not None:
        pass  # the mask stands in the file of the step before
    elif isinstance(step.full, MaskRuns):
        arrays["mask_size"] = np.array(step.full.size, np.int64)
        if 8 * step.full.nbytes <= step.full.size[0] * step.full.size[1]:
            arrays["runs"] = step.full.lengths
        else:  # speckles: one bit a pixel is less
            arrays["mask"] = np.packbits(step.full.mask())
    elif step.full is not None:
        arrays["full"] = step.full
    for number, part in enumerate(step.instances):
        x0, y0, x1, y1 = _kept_box(part)
        arrays[f"instance.{number}"] = part.logits[y0:y1, x0:x1]
    return arrays | _state_arrays(step.refiner_state)


def _state_arrays(state: RefinerState[np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return a refiner's state as arrays by name; the arrays that are there tell a state from none."""
    if state is None:
        return {}
    arrays = {} if state.error_map is None else {ERROR_MAP: state.error_map}
    # Earlier versions took any array of this name for "given", so that it is written only if it is true, or if nothing else says that there is a state.
    return arrays if arrays and not state.given else arrays | {GIVEN: np.array(state.given, np.float32)}


def _state_from(arrays: Mapping[str, np.ndarray], logits: np.ndarray | None) -> RefinerState[np.ndarray] | None:
    """Undo `_state_arrays`; an error map has the shape of the logits that the refiner made."""
    names = [name for name in arrays if name.startswith(STATE)]
    if unknown := [name for name in names if name not in (ERROR_MAP, GIVEN)]:
        raise ValueError(f"expected {ERROR_MAP} and {GIVEN} of a refiner's state, got {shown(unknown[0])}")
    if not names:
        return None
    given = GIVEN in arrays and bool(_require_array(GIVEN, arrays[GIVEN], ()))
    if ERROR_MAP not in arrays:
        return RefinerState(given)
    return RefinerState(given, _frozen(_require_array(ERROR_MAP, arrays[ERROR_MAP], logits.shape if logits is not None else None)))


def _kept_box(part: Segmentation) -> list[int]:
    """Return the box x0 y0 x1 y1 of a part's logits that the file keeps: its mask with a margin of `EDGE` pixels. The rest is background."""
    x0, y0, x1, y1 = part.box
    height, width = part.logits.shape
    return [max(0, x0 - EDGE), max(0, y0 - EDGE), min(width, x1 + EDGE), min(height, y1 + EDGE)] if part.area else [0, 0, 0, 0]


@dataclass(frozen=True, slots=True)
class Expected:
    """The sizes that a step must have, as far as they are known.

    Attributes:
        size: (H, W) of the image, or None.
        side: Of the decoder's logits, or None; a refiner's may be `FINEST` times as fine.
    """

    size: tuple[int, int] | None
    side: int | None


FINEST = 2
"""Side of a refiner's logits over that of the decoder's, at most."""

MOST_SIDE = 4096
"""Of any model's logits."""

MOST_PARTS = 4096
"""Parts of an automatic cut."""

MOST_PATCHES = 10_000
"""Changes of one mask."""

MOST_PIXELS = 2**31
"""Of an image whose size is not known."""


def _step_from(step: Any, arrays: Mapping[str, np.ndarray], expected: Expected, before: Step | None) -> Step:
    """Return a step. Every value is checked against the image and the model before memory is allocated for it."""
    step = _object(step, "a step")
    same = _same_mask(step, before)
    size = expected.size or _stated_size(step, arrays) or (same.size if same is not None else None)
    logits = _logits(arrays["logits"], expected.side) if "logits" in arrays else None
    prompt = Prompt(
        clicks=tuple(_click(row, size) for row in _list(step["clicks"], "clicks")),
        box=_box(step["box"], size) if step["box"] is not None else None,
        previous_logits=_frozen(logits) if logits is not None else None,
        strokes=tuple(_stroke(row, size) for row in _list(step.get("strokes", []), "strokes")),
    )
    rows = _list(step.get("instances", []), "instances")
    if len(rows) > MOST_PARTS:
        raise ValueError(f"expected at most {MOST_PARTS} parts, got {len(rows)}")
    parts = tuple(_part(row, arrays.get(f"instance.{number}"), size) for number, row in enumerate(rows))
    view: Any = step.get("view")
    patches = _list(step.get("patches", []), "patches")
    if len(patches) > MOST_PATCHES:
        raise ValueError(f"expected at most {MOST_PATCHES} patches, got {len(patches)}")
    own = tuple(_patch(row, arrays.get(f"patch.{number}"), size) for number, row in enumerate(patches))
    return Step(
        prompt,
        _number(step["score"], "score"),
        same.full if same is not None else _full_from(arrays, size),
        parts,
        _state_from(arrays, logits),
        _name(step.get("name", "")),
        _view(view, size) if view is not None else None,
        (*same.patches, *own) if same is not None else own,
    )


@dataclass(frozen=True, slots=True)
class _SameMask:
    """The mask of the step before, which a step corrects further: its size (H, W), the mask, and what was changed of it."""

    size: tuple[int, int]
    full: np.ndarray | MaskRuns
    patches: tuple[Patch, ...]


def _same_mask(step: Mapping[str, Any], before: Step | None) -> _SameMask | None:
    same = step.get("same_mask", False)
    if not isinstance(same, bool):
        raise TypeError(f"expected same_mask as true or false, got {shown(same)}")
    if not same:
        return None
    if before is None or before.full is None:
        raise ValueError("expected the step before it, whose mask it corrects, got none")
    height, width = before.full.size if isinstance(before.full, MaskRuns) else before.full.shape
    return _SameMask((height, width), before.full, before.patches)


def _patch(row: Any, logits: np.ndarray | None, size: tuple[int, int] | None) -> Patch:
    row = _object(row, "a patch")
    x, y = row["x"], row["y"]
    if logits is None or logits.ndim != 2 or logits.dtype != np.float16 or not logits.size or not np.isfinite(logits).all():
        raise ValueError(f"expected a patch's logits as finite 16-bit fractions (h, w), got {'none' if logits is None else shown(logits.shape)}")
    fits = type(x) is int and type(y) is int and min(x, y) >= 0
    if not fits or size is None or y + logits.shape[0] > size[0] or x + logits.shape[1] > size[1]:
        raise ValueError(f"expected a patch inside the image {size}, got {shown(logits.shape)} at {shown((x, y))}")
    return Patch(x, y, _frozen(logits))


def _stated_size(step: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    """Return the image's size (H, W) as the step itself says it, or None where it says nothing."""
    if "mask_size" in arrays:
        size: Any = _require_array("mask_size", arrays["mask_size"], (2,), whole=True).tolist()
    elif "full" in arrays:
        size = list(arrays["full"].shape)
    else:
        parts = _list(step.get("instances", []), "instances")
        size = _object(parts[0], "an instance").get("size") if parts else None
    if size is None:
        return None
    sides = _list(size, "the image's size")
    height, width = sides if len(sides) == 2 else (0, 0)
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width >= MOST_PIXELS:
        raise ValueError(f"expected the size of an image, got {shown(size)}")
    return height, width


def _require_array(name: str, array: np.ndarray | None, shape: tuple[int, ...] | None, whole: bool = False) -> np.ndarray:
    """Return an array of that shape (None: any) with finite 32-bit fractions, or with whole numbers; refuse any other."""
    if array is None:
        raise ValueError(f"no {name} in it")
    if shape is not None and array.shape != shape:
        raise ValueError(f"expected {name} {shape}, got {shown(array.shape)}")
    if array.dtype == np.float32 and not whole:
        fits = bool(np.isfinite(array).all())
    else:
        fits = array.dtype.kind in "iub" and (whole or not array.ndim)  # a counter is a whole number, too
    if not fits:
        raise ValueError(f"expected {'whole' if whole else 'finite'} numbers in {name}, got others ({array.dtype})")
    return array


def _frozen(array: np.ndarray) -> np.ndarray:
    """Make an array read-only and return it."""
    array.flags.writeable = False
    return array


def _logits(logits: np.ndarray, side: int | None) -> np.ndarray:
    logits = _require_array("logits", logits, None)
    rows = logits.shape[-1] if logits.ndim else 0
    sides = range(1, MOST_SIDE + 1) if side is None else [side * factor for factor in range(1, FINEST + 1)]
    if logits.shape != (1, 1, rows, rows) or rows not in sides:
        raise ValueError(f"expected logits of {f'{side} x {side}, or twice that,' if side else 'a square,'} got {shown(logits.shape)}")
    return logits


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected {name} as a list, got {shown(value)}")
    return cast("list[Any]", value)


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected {name} as a JSON object, got {shown(value)}")
    return cast("dict[str, Any]", value)


def _number(value: Any, name: str) -> float:
    # not through math.isfinite alone: a whole number too large for a float raises there
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise ValueError(f"expected {name} as a finite number, got {shown(value)}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in value):
        raise ValueError(f"expected a name as a text, got {shown(value)}")
    return value


def _positive(row: Mapping[str, Any]) -> bool:
    if not isinstance(row["positive"], bool):
        raise TypeError(f"expected positive as true or false, got {shown(row['positive'])}")
    return row["positive"]


def _point(x: Any, y: Any, size: tuple[int, int] | None) -> tuple[float, float]:
    x, y = _number(x, "x"), _number(y, "y")
    if min(x, y) < -0.5 or (size is not None and not (x <= size[1] - 0.5 and y <= size[0] - 0.5)):
        raise ValueError(f"expected a point inside the image{f', {size[1]} x {size[0]},' if size else ''} got ({x}, {y})")
    return x, y


def _click(row: dict[str, Any], size: tuple[int, int] | None) -> Click:
    return Click(*_point(row["x"], row["y"], size), _positive(row))


def _stroke(row: dict[str, Any], size: tuple[int, int] | None) -> Stroke:
    points = tuple(_point(x, y, size) for x, y in _list(row["points"], "points"))
    if not points:
        raise ValueError("expected a stroke of one point at least, got none")
    return Stroke(points, _positive(row))


def _box(row: dict[str, Any], size: tuple[int, int] | None) -> Box:
    box = Box(*(_number(row[name], name) for name in ("x0", "y0", "x1", "y1")))
    meets = box.x1 > 0 and box.y1 > 0 and (size is None or (box.x0 < size[1] and box.y0 < size[0]))
    if not (box.x0 < box.x1 and box.y0 < box.y1 and meets):
        raise ValueError(f"expected a box x0 < x1, y0 < y1 that meets the image, got {shown(row)}")
    return box


def _view(row: dict[str, Any], size: tuple[int, int] | None) -> Box:
    """Return a part of the image in whole pixels."""
    view = _box(row, size)
    edges = (view.x0, view.y0, view.x1, view.y1)
    within = min(edges) >= 0 and (size is None or (view.x1 <= size[1] and view.y1 <= size[0]))
    if not within or any(edge != int(edge) for edge in edges):
        raise ValueError(f"expected a view inside the image in whole pixels, got {shown(row)}")
    return view


def _full_from(arrays: Mapping[str, np.ndarray], size: tuple[int, int] | None) -> np.ndarray | MaskRuns | None:
    kinds = [name for name in ("runs", "mask", "full") if name in arrays]
    if not kinds:
        return None
    assert size is not None  # the step states it, if nobody else does
    if kinds != ["full"] and _require_array("mask_size", arrays.get("mask_size"), (2,), whole=True).tolist() != list(size):
        raise ValueError(f"expected a mask of the image's size {size}, got {arrays['mask_size'].tolist()}")
    if "runs" in arrays:
        lengths = _require_array("runs", arrays["runs"], None, whole=True)
        # each alone before their sum, which would wrap
        if lengths.ndim != 1 or lengths.dtype != np.int32 or (lengths < 0).any() or int(lengths.sum(dtype=np.int64)) != size[0] * size[1]:
            raise ValueError(f"expected lengths of runs that cover {size[0]} x {size[1]} pixels, got others")
        return MaskRuns(size, lengths)
    if "mask" in arrays:
        bits = _require_array("mask", arrays["mask"], (-(-size[0] * size[1] // 8),), whole=True)
        return MaskRuns.of(np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(bool))
    return _require_array("full", arrays["full"], size)


def _part(row: dict[str, Any], kept: np.ndarray | None, size: tuple[int, int] | None) -> Segmentation:
    if size is None or row["size"] != list(size):
        raise ValueError(f"expected parts of the image's size {size}, got {shown(row['size'])}")
    place = _list(row["place"], "place")
    if len(place) != 4 or any(type(edge) is not int for edge in place):
        raise ValueError(f"expected a part's place as four whole numbers, got {shown(place)}")
    x0, y0, x1, y1 = place
    if not (0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]):
        raise ValueError(f"expected a part's place inside the image, got {place}")
    inside = _require_array("a part's logits", kept, (y1 - y0, x1 - x0))
    logits = np.full(size, -MASK_PROMPT_LOGIT, np.float32)
    logits[y0:y1, x0:x1] = inside
    return Segmentation(logits, _number(row["score"], "score"), name=_name(row["name"]))
