"""The door to the library: `load` a model, `open` an image, cut.

segmenter = fretsaw.load()
result = segmenter.auto("photo.jpg")
session = segmenter.open("photo.jpg")
result = session.click(120, 80)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fretsaw import addresses, catalog, images, session_file
from fretsaw.catalog import refiners
from fretsaw.click_true import ClickRules
from fretsaw.errors import DeviceError, ModelError
from fretsaw.segmentation import LabelMap, Segmentation
from fretsaw.session import Session
from fretsaw.types import Refiner
from fretsaw.zoom import ZoomRules

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fretsaw.methods.s2clip.settings import TextSettings

    Name = str | Sequence[str]
    ImageLike = str | Path | bytes | np.ndarray | Image.Image

DTYPES = ("float32", "bfloat16", "float16")


def _pixels(image: ImageLike) -> np.ndarray:
    """Return an image as RGB; one that lies at a public address is fetched by the rules of SECURITY.md."""
    if isinstance(image, str) and addresses.is_address(image):
        return images.read_image(addresses.Address(image).read())
    return images.read_image(image)


class Segmenter:
    """A loaded model; cuts any number of images, also from several threads.

    `load` makes it. The `mode` of the model's catalogue entry says which of the methods it offers; the others raise `ModelError`.

    Attributes:
        name: The model's name in the catalogue, or the path it was loaded from.
        parts: The networks and methods behind it, for callers that need more than this interface.
        refiner: Improves every answer to a click, or None.
        zoom: When a session looks only at a part of the image because the object is small; None for never.
        rules: How sessions hold answers to the clicks; None leaves them as the decoder gives them.
    """

    def __init__(
        self, name: str, parts: catalog.Parts, refiner: Refiner[Any] | None = None, zoom: ZoomRules | None = None, rules: ClickRules | None = None
    ) -> None:
        self.name = name
        self.parts = parts
        self.refiner = refiner
        self.zoom = zoom
        self.rules = rules

    def __repr__(self) -> str:
        return f"Segmenter({self.name!r})"

    def open(self, image: ImageLike, saved: str | Path | None = None) -> Session:
        """Read and encode an image; returns the session that takes clicks.

        Args:
            image: Path, address (`https://...` or `data:...`), bytes of an image file, PIL image, or (H, W, 3) uint8 RGB.
            saved: A file of `Session.save`. The session reads the embedding and the history from it.

        Raises:
            ImageError: If the image cannot be read.
            StaleSessionError: If `saved` belongs to another image or model.
            ModelError: If the model takes no clicks.
        """
        if self.parts.clicks is None:
            raise ModelError(f"expected a model with an image embedding for a session, got {self.name}; fretsaw.list_models() names their modes")
        from fretsaw.runtimes.torch import TorchClickModel

        pixels, model = _pixels(image), TorchClickModel(self.parts.clicks, self.refiner)
        embedding, history = session_file.read(Path(saved), pixels, model) if saved is not None else (None, ())
        return Session(pixels, model, self.parts.automatic, embedding, history, self.parts.text, self.zoom, self.parts.taps, self.rules)

    def auto(self, image: ImageLike, instances: bool = False) -> Segmentation:
        """Cut an image without any prompt.

        Args:
            image: Path, address (`https://...` or `data:...`), bytes of an image file, PIL image, or (H, W, 3) uint8 RGB.
            instances: Look for the separate objects and keep them in `Segmentation.instances`; otherwise it is empty.

        Raises:
            ImageError: If the image cannot be read.
            ModelError: If the model has no automatic mode.
        """
        if self.parts.automatic is None:
            raise ModelError(f"expected a model with an automatic mode, got {self.name}; fretsaw.list_models() names their modes")
        result = self.open(image).auto(instances)
        return result if instances else Segmentation(result.logits, result.score, image=result.image)

    def semantic(self, image: ImageLike) -> LabelMap:
        """Give every pixel one of the classes that the model was trained on.

        Raises:
            ImageError: If the image cannot be read.
            ModelError: If the model has no semantic mode.
        """
        if self.parts.semantic is None:
            raise ModelError(f"expected a model with a semantic mode, got {self.name}; fretsaw.list_models() names their modes")
        return self.parts.semantic(_pixels(image))

    @overload
    def text(self, image: ImageLike, names: Sequence[Name], background: Sequence[str] | None = None, settings: TextSettings | None = None) -> LabelMap: ...

    @overload
    def text(
        self, image: list[ImageLike], names: Sequence[Name], background: Sequence[str] | None = None, settings: TextSettings | None = None
    ) -> list[LabelMap]: ...

    def text(
        self, image: ImageLike | list[ImageLike], names: Sequence[Name], background: Sequence[str] | None = None, settings: TextSettings | None = None
    ) -> LabelMap | list[LabelMap]:
        """Give every pixel one of the names, or none.

        Args:
            image: Path, address (`https://...` or `data:...`), bytes of an image file, PIL image, or (H, W, 3) uint8 RGB; or a list of them.
            names: One item a class: "sofa", or "sofa; couch" or ["sofa", "couch"] where several words mean it. The first word is its name in the result.
            background: Words for what is none of them; None means common surroundings (`fretsaw.methods.s2clip.words.BACKGROUND_WORDS`). An empty list
                means that every pixel has one of the names.
            settings: Sizes and thresholds, see `fretsaw.methods.s2clip.settings.TextSettings`, where each default is explained; None means those.

        Returns:
            One label map, -1 where no name fits, with the probabilities before the refinement; a list of them for a list of images.

        Raises:
            ImageError: If an image cannot be read.
            ModelError: If the model has no text mode.
            ConfigError: If names or settings cannot be used.
        """
        if self.parts.text is None:
            raise ModelError(f"expected a model with a text mode, got {self.name}; fretsaw.list_models() names their modes")
        if isinstance(image, list):
            return [self.parts.text(_pixels(one), names, background, settings) for one in image]
        return self.parts.text(_pixels(image), names, background, settings)

    def limit_threads(self, count: int) -> None:
        """Set how many processor threads the model may use when the calling thread runs it."""
        from fretsaw.runtimes import torch as runtime

        runtime.limit_threads(count)


def load(
    name: str | Path | None = None,
    *,
    size: int | None = None,
    refiner: str | Path | None = None,
    zoom: bool | None = None,
    click_true: bool = True,
    networks: Mapping[str, str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: Any = None,
) -> Segmenter:
    """Load a model, and fetch its weights if they are missing (unless FRETSAW_OFFLINE is set).

    Args:
        name: A name from `list_models`, or None for the default model.
        size: Side of the model's input in pixels; None for the model's own.
        refiner: "sam-ref", or a weight file of SAM-REF that was trained for this model, or None. It mends masks of one's own and automatic cuts around the
            clicks alone; without zooming in it also refines what four clicks and more have made.
        zoom: Whether sessions zoom in on small objects from the third click on: more exact, for one more encoding; see `fretsaw.zoom`. None is the model's own
            choice: those whose decoder Fretsaw trained do, and all with a refiner; published models answer as published.
        click_true: Whether sessions hold every answer to the clicks, see `fretsaw.click_true`: each click lies on its own side of the outline, and a mask of
            one's own changes around the clicks alone. False gives the decoder's answers as they are.
        networks: For a model that is made of several, such as s2clip: {role: name or path} of those to exchange. The roles are "clip", "dino" and "sam";
            {"sam": "sam2-hiera-tiny"} lets SAM 2 refine, {"sam": "runs/tiny/student.safetensors"} a student of the recipe hrsam_lite,
            {"dino": "dinov2-vit-s14"} takes patch affinities from DINOv2.
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the best there is.
        dtype: Precision of the image encoder and the refiner: "float32", "bfloat16", "float16"; None means float32. Decoders always compute in float32.
        progress: Called while weights are fetched, see `fretsaw.weights`; None shows a progress bar on a terminal.

    Raises:
        ModelError: If the name is unknown (the message suggests the nearest), a file stands on an unknown model, or the refiner is another model's.
        MissingWeightsError: If the weights are missing and cannot be fetched; the message says how to bring them.
        WeightsError: If a weight file is damaged or does not fit; the message names it.
        ShapeError: If the model cannot have that size.
        DeviceError: If the device or dtype is not available.
        MemoryLimitError: If the size would need more memory than there is; known for HRSAM, whose size is meant to grow.
    """
    target, precision = resolve_device(device), resolve_dtype(dtype)
    name = str(name) if name is not None else catalog.DEFAULT
    improves = catalog.build_refiner(refiner, name) if refiner is not None else None
    parts = catalog.build(name, size=size, networks=networks, progress=progress)
    if improves is not None:
        if parts.clicks is None:
            raise ModelError(f"expected a model that takes clicks for the refiner {refiner}, got {name}; fretsaw.list_models() names their modes")
        refiners.require_fit(improves, parts.clicks, refiner or "")
    _require_memory(parts, target, precision)
    parts.to(target)
    if parts.clicks is not None:
        parts.clicks.to_precision(precision)
    if refiner is not None and parts.clicks is not None:
        refiners.install_decoder(refiner, name, parts.clicks)
    zooms = parts.zooms or refiner is not None if zoom is None else zoom
    if improves is not None:
        improves = improves.to(target).for_answers(precision, zooms)
    return Segmenter(name, parts, improves, ZoomRules() if zooms else None, ClickRules() if click_true else None)


def _require_memory(parts: catalog.Parts, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a size that does not fit into memory, if the image encoder can say how much it needs."""
    from fretsaw import memory

    if parts.clicks is None or not isinstance(encoder := parts.clicks.image_encoder, memory.EstimatesMemory):
        return
    side = parts.clicks.preprocessing.size
    memory.require(lambda side: memory.click_memory(encoder, side, dtype, device.type), side, memory.capacity(str(device)), str(device))


def resolve_device(device: str | None) -> torch.device:
    """Return the torch device for a user's word; None takes CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: If the word is unknown or the device is not there.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is None:
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    kind, _, index = str(device).partition(":")
    if kind not in available or (index and not index.isdigit()):
        raise DeviceError(f"expected a device out of cpu, cuda, cuda:N, mps; got {device!r}")
    if not available[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise DeviceError(f"expected a device that this machine has ({', '.join(k for k, there in available.items() if there)}), got {device!r}")
    return torch.device(device)


def resolve_dtype(dtype: str | None) -> torch.dtype:
    """Return the torch dtype for a user's word; None means float32.

    Raises:
        DeviceError: If the word is unknown.
    """
    import torch

    if dtype is None:
        return torch.float32
    if dtype not in DTYPES:
        raise DeviceError(f"expected a dtype out of {', '.join(DTYPES)}; got {dtype!r}")
    return getattr(torch, dtype)
