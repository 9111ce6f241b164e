"""Refiners by name, or by a weight file of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.catalog.clicked import install_change
from fretsaw.catalog.lookup import weights_path
from fretsaw.errors import ModelError, shown
from fretsaw.weights import Route, WeightFile, Weights, fitting, load_state_dict, materialise, read_metadata
from fretsaw.weights.gather import shipped_path
from fretsaw.weights.metadata import read_object, stated
from fretsaw.weights.states import is_file

if TYPE_CHECKING:
    from fretsaw.methods.sam_clicks import SamClicks
    from fretsaw.methods.sam_ref.model import SamRef

SAM_REF = Weights(
    "sam-ref",
    (Route({"network": WeightFile("package:sam_ref.safetensors", "", 317432, "64328d4df8b443ad54b9b49479366b8b849b535cb6cdf163a09cd46be486deba")}),),
    "Apache-2.0",
    "Fretsaw, SAM-REF's refiner trained over SAM 2 Hiera-T",
    0,
)

REFINERS: dict[str, dict[str, Weights]] = {"sam-ref": {"fretsaw-tiny": SAM_REF, "sam2-hiera-tiny-clicks": SAM_REF}}
"""{name of the refiner: {name of the model that it was made for: weights}}. The weights travel in the package. One file serves both models: fretsaw-tiny's
encoder learned to give SAM 2 Hiera-T's embeddings."""

FIRST_STAGE = {"sam2-hiera-tiny": "sam2-hiera-tiny-clicks"}
"""{model: itself with the decoder that SAM-REF's first stage made}: a refiner by name brings that decoder along."""

DECODER_PREFIX = "decoder."
"""Before the names of a fine-tuned decoder's parameters in a refiner's file (SAM-REF's first stage of training)."""


def build_refiner(name: str | Path, model: str = "sam2-hiera-tiny") -> SamRef:
    """Build SAM-REF.

    Args:
        name: A name of `REFINERS`, or a file that holds parameters and, as metadata `config`, their arguments (`fretsaw train sam_ref` writes it).
        model: Name of the model that is to be refined; a refiner by name was trained for one model.

    Raises:
        ModelError: If there is no such name or file, or none of that name for the model.
        WeightsError: If the file is damaged or does not fit.
    """
    from fretsaw.methods.sam_ref.model import build_sam_ref

    path = refiner_path(name, model)
    (config,) = stated(path, read_metadata(path), "a refiner's", "config")
    with fitting(path, "a refiner, as fretsaw train sam_ref writes it"):
        state = {key: value for key, value in load_state_dict(path).items() if not key.startswith(DECODER_PREFIX)}
        return build_sam_ref(state, read_object(config, "a refiner's configuration"))


def require_fit(refiner: SamRef, clicks: SamClicks, name: str | Path) -> None:
    """Refuse a refiner that was made for another kind of model, before an image is encoded for it.

    Args:
        refiner: The refiner.
        clicks: The model whose answers it is to improve.
        name: The refiner's, for the message.

    Raises:
        ModelError: If it expects an image embedding of other channels than the model's.
    """
    expected, found = list(refiner.global_diff.channels), list(clicks.embedding_channels)
    if found[: len(expected)] != expected:
        raise ModelError(f"expected a model with an image embedding of {expected} channels, as the refiner {name} was made for, got one of {found}")


def install_decoder(name: str | Path, model: str, clicks: SamClicks) -> None:
    """Give a model the fine-tuned decoder that a refiner was trained over, where its file holds one, or a model beside it does (`FIRST_STAGE`).

    Args:
        name: As for `build_refiner`.
        model: As for `build_refiner`.
        clicks: The model; its mask decoder is changed.

    Raises:
        ModelError: As `build_refiner`.
        StateDictError: If the decoder does not fit.
    """
    from fretsaw.weights import low_rank

    path = refiner_path(name, model)
    if not is_file(Path(name)) and model in FIRST_STAGE:
        install_change(weights_path(FIRST_STAGE[model]), clicks)
    with fitting(path, "a refiner, as fretsaw train sam_ref writes it"):
        trained = {key.removeprefix(DECODER_PREFIX): value for key, value in load_state_dict(path).items() if key.startswith(DECODER_PREFIX)}
        if trained:
            start = clicks.mask_decoder.state_dict() if low_rank.RANK in read_metadata(path) else {}
            low_rank.load_trained(clicks.mask_decoder, trained, start)


def refiner_path(name: str | Path, model: str) -> Path:
    """Return the weight file of a refiner, checked where it goes by a name; for the arguments and errors see `build_refiner`."""
    if is_file(Path(name)):
        return Path(name)
    if str(name) not in REFINERS:
        raise ModelError(f"expected a refiner out of {', '.join(REFINERS)}, or the weight file of one, got {shown(str(name))}, which is no file")
    trained, over = REFINERS[str(name)], FIRST_STAGE.get(model, model)
    if over not in trained:
        known = ", ".join(sorted({*trained, *FIRST_STAGE}))
        raise ModelError(f"expected a model that {name} was trained for ({known}), got {model!r}; fretsaw train sam_ref trains one for it")
    if not shipped_path(trained[over].routes[0].files["network"]).is_file():
        raise ModelError(
            f"no trained refiner comes with this version: {name} for {model} is absent from this installation; "
            "fretsaw train sam_ref trains one, whose refiner.safetensors can be given in place of the name"
        )
    return materialise(trained[over])
