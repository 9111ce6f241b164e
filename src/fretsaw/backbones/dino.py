"""DINO and DINOv2 (on transformers' `ViTModel` and `Dinov2Model`), and SAM's ViT, as sources of patch features: which places belong together.

Source: DINO (Caron et al. 2021); DINOv2 (Oquab et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.backbones.sam_decoder import load_strict
from fretsaw.errors import StateDictError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""How the pixels of all networks here are normalised."""

HEAD_SIZE = 64

PUBLISHED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Names inside a block in published files -> those of transformers' current modules; the longest that fits counts."""

IGNORED = ("pooler.",)
"""What some copies of DINO hold for classification and patch features do not need."""


class DinoPatches(nn.Module):
    """Patch features of the last layer, normalised by its LayerNorm.

    Args:
        model: transformers' `ViTModel` or `Dinov2Model`.

    Source: DINO (Caron et al. 2021), section 3; used as in ProxyCLIP (Lan et al. 2024), section 3.2.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.patch: int = model.config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, C, h, w) for pixels (B, 3, H, W), normalised by `MEAN` and `STD`, sides multiples of the patch."""
        arguments = {"interpolate_pos_encoding": True} if self.model.config.model_type == "vit" else {}
        tokens = self.model(pixel_values=pixels, **arguments).last_hidden_state[:, 1:]
        grid = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        return tokens.transpose(1, 2).unflatten(2, grid)


class SamPatches(nn.Module):
    """SAM's ViT as a source of patch features, for windows of any side that 16 divides.

    Args:
        image_encoder: `SamImageEncoder`, shared with the model that it belongs to.

    Source: S2CLIP, table 2, row "SAM ViT-B/16".
    """

    patch = 16

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, C, h, w) for pixels (B, 3, H, W), normalised by `MEAN` and `STD`."""
        dtype = next(self.image_encoder.parameters()).dtype
        return self.image_encoder(pixels.to(dtype)).final.float()


def build_dino(state: Mapping[str, Tensor]) -> DinoPatches:
    """Build DINO or DINOv2 from its parameters; their names and shapes tell which, and its size.

    Args:
        state: Under the names of the published files or of transformers' modules.

    Raises:
        StateDictError: If the parameters are those of another network.
    """
    state = rename_published({name: value for name, value in state.items() if not name.startswith(IGNORED)})
    if "embeddings.patch_embeddings.projection.weight" not in state:
        raise StateDictError(f"expected the parameters of DINO or DINOv2, got {len(state)} others, such as {', '.join(list(state)[:3])}")
    model = build_model(state)
    load_strict(model, state)
    return DinoPatches(model.requires_grad_(False)).eval()


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters under the names of transformers' current modules; names that are current already stay."""
    second = any(".layer_scale1." in name for name in state)
    renamed = {}
    for name, value in state.items():
        if name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            module, _, parameter = rest.rpartition(".")
            prefix = "encoder.layer." if second else "layers."
            name = f"{prefix}{number}.{PUBLISHED.get(module, module)}.{parameter}"
        renamed[name] = value
    return renamed


def build_model(state: Mapping[str, Tensor]) -> Any:
    """Return the network, without weights (on the meta device), that parameters under its names belong to."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    patches = state["embeddings.patch_embeddings.projection.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    second = any(".layer_scale1." in name for name in state)
    prefix = "encoder.layer." if second else "layers."
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)}),
        "num_attention_heads": max(1, width // HEAD_SIZE),
        "patch_size": patch,
        "image_size": patch * round((state["embeddings.position_embeddings"].shape[1] - 1) ** 0.5),
    }
    hidden = state.get(f"{prefix}0.mlp.fc1.weight")
    if hidden is None:
        raise StateDictError(f"expected a DINO with plain MLPs (S and B), got parameters without {prefix}0.mlp.fc1.weight")
    with torch.device("meta"):
        if second:
            return Dinov2Model(Dinov2Config(**sizes, mlp_ratio=hidden.shape[0] // width, layer_norm_eps=1e-6))
        return ViTModel(ViTConfig(**sizes, intermediate_size=hidden.shape[0], layer_norm_eps=1e-12), add_pooling_layer=False)
