"""CLIP for dense use: patch tokens of every layer, the last block's projections by themselves, and the text side; on transformers' `CLIPModel`.

    pixels --tokens--> hidden states before the last block, and those of the layers below
    last block: `last_heads` gives queries, keys and values; whoever calls mixes the values as it likes; `project` and `embed` lead to the text's space

Source: CLIP (Radford et al. 2021), section 2; the last block without residual and MLP: ClearCLIP (Lan et al. 2024), section 3.3, as Trident uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones import clip_keys
from fretsaw.backbones.sam_decoder import load_strict
from fretsaw.errors import StateDictError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""How CLIP's pixels are normalised."""

MERGES = "tokenizer.merges"
"""The name under which a converted file holds the tokenizer's merge table, as the bytes of the published `merges.txt`."""

IGNORED = frozenset({"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"})
"""Buffers in older files: 0, 1, 2, ..."""

HEAD_SIZE = 64
WIDE_HEADS = {1280: 16}
"""Heads of vision towers whose heads are not of 64 channels: OpenCLIP's H/14."""

Part = Literal["query", "key", "value"]
PROJECTION: dict[Part, str] = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


class Clip(nn.Module):
    """CLIP, taken apart where dense methods need it.

    Args:
        model: transformers' `CLIPModel`.
        merges: The tokenizer's merge table in its order, pairs of symbols; None for a network that will see no text.
        checksum: Names the weights; part of every cache key that depends on them.

    Source: CLIP (Radford et al. 2021), section 2.4.
    """

    def __init__(self, model: Any, merges: Sequence[tuple[str, str]] | None = None, checksum: str = "") -> None:
        super().__init__()
        self.model = model
        self.checksum = checksum
        self.patch: int = model.config.vision_config.patch_size
        self.heads: int = model.config.vision_config.num_attention_heads
        self.depth: int = model.config.vision_config.num_hidden_layers
        self._merges = merges
        self._tokenizer: Any = None

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.model.logit_scale.device

    def tokens(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the patch tokens after each block but the last: depth - 1 tensors (B, h w, C), places in row order, the class token dropped.

        Args:
            pixels: (B, 3, H, W) normalised by `MEAN` and `STD`, sides multiples of the patch; other sides than those of training resample the positions.

        Deviation: positions are resampled to the exact grid; the published dense code passes a scale that is 0.1 patch larger, which shifts them by less than
            a hundredth of a patch.
        """
        vision = self.model.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
        layers = []
        for block in vision.encoder.layers[:-1]:
            hidden = block(hidden, None)
            layers.append(hidden[:, 1:])
        return tuple(layers)

    def last_heads(self, hidden: Tensor, part: Part) -> Tensor:
        """Return the last block's queries, keys or values (B, heads, N, c) of tokens (B, N, C) that enter it."""
        block = self.model.vision_model.encoder.layers[-1]
        projected = getattr(block.self_attn, PROJECTION[part])(block.layer_norm1(hidden))
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the last attention's output projection to mixed values (..., C), heads joined; no residual, no MLP."""
        return self.model.vision_model.encoder.layers[-1].self_attn.out_proj(mixed)

    def embed(self, features: Tensor) -> Tensor:
        """Take features (..., C) to the space that images and texts share, (..., D), not normalised."""
        return self.model.visual_projection(self.model.vision_model.post_layernorm(features))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (n, D) of texts, not normalised.

        Raises:
            StateDictError: If the network came without a tokenizer.
        """
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self._context, return_tensors="pt")
        pooled = self.model.text_model(input_ids=tokens["input_ids"].to(self.device)).pooler_output
        return self.model.text_projection(pooled)

    def require_words(self) -> None:
        """Refuse a network that cannot read words, before an image is encoded for it.

        Raises:
            StateDictError: If it came without a tokenizer's merge table, or with that of another vocabulary.
        """
        if self._merges is None:
            raise StateDictError(f"expected CLIP with its tokenizer's merge table under the name {MERGES!r}, got parameters alone")
        words, known = len(vocabulary(self._merges)), self.model.text_model.embeddings.token_embedding.num_embeddings
        if words != known:
            raise StateDictError(f"expected a merge table for {known} words, as many as CLIP embeds, got one for {words}")

    @property
    def tokenizer(self) -> Any:
        """transformers' `CLIPTokenizer` for this network's merge table."""
        if self._merges is None:
            raise StateDictError(f"expected CLIP with its tokenizer's merge table under the name {MERGES!r}, got parameters alone")
        if self._tokenizer is None:
            from transformers import CLIPTokenizer

            merges: Any = list(self._merges)  # pairs, where the annotation says texts
            self._tokenizer = CLIPTokenizer(vocab=vocabulary(self._merges), merges=merges, model_max_length=self._context)
        return self._tokenizer

    @property
    def _context(self) -> int:
        return self.model.config.text_config.max_position_embeddings


def read_merges(content: bytes) -> list[tuple[str, str]]:
    """Read a published `merges.txt`: one pair a line after a line with the version."""
    lines = content.decode("utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return {symbol: id}, which the merge table determines: 256 bytes, the same at a word's end, the merged symbols in order, start and end of text.

    Source: CLIP (Radford et al. 2021), section 2.4: byte-pair encoding as of GPT-2.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    # bytes that cannot be printed stand for the letters after the first 256
    others = (chr(256 + number) for number in range(256 - len(printable)))
    symbols = [*(chr(byte) for byte in printable), *others]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def config_of(state: Mapping[str, Tensor], activation: str | None = None, vision_heads: int | None = None) -> dict[str, Any]:
    """Return the keyword arguments of transformers' `CLIPConfig` that parameters under its names determine.

    Args:
        state: Parameters.
        activation: "quick_gelu" (OpenAI's weights) or "gelu" (most of OpenCLIP's); shapes do not tell. None: "gelu" for the width of H/14.
        vision_heads: Heads of the vision tower; None: of 64 channels each, as in all published networks but H/14.
    """
    table = state["vision_model.embeddings.position_embedding.weight"]
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    words = state["text_model.embeddings.token_embedding.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    activation = activation or ("gelu" if width in WIDE_HEADS else "quick_gelu")
    shared = {"projection_dim": state["visual_projection.weight"].shape[0], "hidden_act": activation}
    vision = {
        "hidden_size": width,
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _depth(state, "vision_model.encoder.layers."),
        "num_attention_heads": vision_heads or WIDE_HEADS.get(width, max(1, width // HEAD_SIZE)),
        "patch_size": patch,
        "image_size": patch * round((len(table) - 1) ** 0.5),
    }
    text = {
        "hidden_size": words.shape[1],
        "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _depth(state, "text_model.encoder.layers."),
        "num_attention_heads": max(1, words.shape[1] // HEAD_SIZE),
        "vocab_size": len(words),
        "max_position_embeddings": len(state["text_model.embeddings.position_embedding.weight"]),
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
        "pad_token_id": len(words) - 1,
    }
    return {"projection_dim": shared["projection_dim"], "vision_config": {**vision, **shared}, "text_config": {**text, **shared}}


def build_model(config: Mapping[str, Any]) -> Any:
    """Return transformers' `CLIPModel` without weights (on the meta device)."""
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**config))
    # numbers, not weights: no file holds them
    for embeddings in (model.vision_model.embeddings, model.text_model.embeddings):
        places = torch.arange(embeddings.position_embedding.num_embeddings).expand((1, -1))
        embeddings.register_buffer("position_ids", places, persistent=False)
    return model


def build_clip(state: Mapping[str, Tensor], checksum: str = "", activation: str | None = None, vision_heads: int | None = None) -> Clip:
    """Build CLIP from its parameters; their shapes tell its size.

    Args:
        state: Under transformers' names or those of the original checkpoints; the tokenizer's merge table under `MERGES`, if there is one.
        checksum: Names the weights.
        activation: See `config_of`.
        vision_heads: See `config_of`.

    Raises:
        StateDictError: If the parameters are not CLIP's.
    """
    merges = read_merges(state[MERGES].numpy().tobytes()) if MERGES in state else None
    state = {name: value for name, value in state.items() if name not in IGNORED and name != MERGES}
    if clip_keys.is_original(state):
        state = clip_keys.from_original(state)
    if "vision_model.embeddings.position_embedding.weight" not in state or "text_model.embeddings.token_embedding.weight" not in state:
        raise StateDictError(f"expected the parameters of CLIP, got {len(state)} others, such as {', '.join(list(state)[:3])}")
    model = build_model(config_of(state, activation, vision_heads))
    load_strict(model, state)
    return Clip(model.requires_grad_(False), merges, checksum).eval()


def resize_tokens(tokens: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resample tokens (..., h w, C) on `grid` to tokens (..., h' w', C) on `target`: bilinear, half-pixel centres, not anti-aliased, as Trident does."""
    if grid == target:
        return tokens
    leading, channels = tokens.shape[:-2], tokens.shape[-1]
    maps = tokens.reshape(-1, *grid, channels).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=target, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(*leading, target[0] * target[1], channels)


def _depth(state: Mapping[str, object], prefix: str) -> int:
    # counted, not read from the greatest number: a name may say layers.999999999
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})
