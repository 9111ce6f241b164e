"""SAM 2 Hiera-T from the two published files that can be had without a model hub: an ORT encoder and an ONNX decoder.

Both hold float32 parameters, mostly under the names of Meta's code; what the exporters folded or renamed is recovered here:

- the encoder's Linear weights are stored transposed and are named after the node that transposed them;
- the encoder's two position tables were added up to one constant, and come back by least squares;
- the decoder's anonymous parameters are named by the node that consumes them.

Where the files come from, and their checksums, stands in the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fretsaw.errors import MissingExtraError, StateDictError

BACKGROUND, WINDOW = 7, 8
"""Sides of Hiera-T's two position tables: one stretched over the image, one repeated in every window."""

FLOAT32 = 1
"""The number of this type in ONNX."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^model\.image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^model\.image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^model\.sam_mask_decoder\.", "mask_decoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"(transformer.*)\.out_proj\.", r"\1.o_proj."),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"pe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
)
"""Meta's names to transformers', applied in this order."""

IGNORED_ENCODER = r"/image_encoder/(trunk/blocks\.\d+/(attn/Sqrt_2|mlp/act/Constant(_2)?)|neck/Concat|neck/position_encoding_1/Constant_7)_output_0"
"""Float constants of the encoder's arithmetic: attention scales, the numbers in GELU, the neck's enlargement and an unused position encoding."""

NODE_NAMES: dict[str, str] = {
    "/mask_downscaling/mask_downscaling.1/Mul": "prompt_encoder.mask_downscaling.1.weight",
    "/mask_downscaling/mask_downscaling.1/Add_1": "prompt_encoder.mask_downscaling.1.bias",
    "/mask_downscaling/mask_downscaling.4/Mul": "prompt_encoder.mask_downscaling.4.weight",
    "/mask_downscaling/mask_downscaling.4/Add_1": "prompt_encoder.mask_downscaling.4.bias",
    "/output_upscaling.1/Mul": "mask_decoder.output_upscaling.1.weight",
    "/output_upscaling.1/Add_1": "mask_decoder.output_upscaling.1.bias",
    "/Mul_15": "prompt_encoder.no_mask_embed.weight",
    "/Expand_9": "output_tokens",
}
"""Decoder nodes whose anonymous operand is a parameter; those of the transformer's matrix products follow a rule, see `_decoder_parameters`."""


def convert_onnx(encoder: Path, decoder: Path) -> dict[str, Tensor]:
    """Read SAM 2 Hiera-T from its published ORT encoder and ONNX decoder.

    Args:
        encoder: `sam2_hiera_tiny_encoder.with_runtime_opt.ort`.
        decoder: `sam2_hiera_tiny_decoder_pr1.onnx`.

    Returns:
        Float32 parameters under the names of transformers' `Sam2Model`, without `mask_decoder.pred_obj_score_head`, which no file holds.

    Raises:
        MissingExtraError: If onnx or onnxruntime is not installed.
        StateDictError: If a file holds a tensor that neither the key map nor the ignore set knows, or cannot be read.
    """
    parameters = dict(_encoder_parameters(encoder)) | dict(_decoder_parameters(decoder))
    return {name: tensor.contiguous() for name, tensor in to_transformers(parameters).items()}


def to_transformers(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename Meta's parameters to transformers', splitting and joining the few that are stored differently."""
    parameters = dict(parameters)
    tokens = parameters.pop("output_tokens")[0]
    renamed = {
        "mask_decoder.obj_score_token.weight": tokens[:1],
        "mask_decoder.iou_token.weight": tokens[1:2],
        "mask_decoder.mask_tokens.weight": tokens[2:],
        "no_memory_embedding": parameters.pop("no_mem_embed").reshape(1, 1, -1),
        "prompt_encoder.point_embed.weight": torch.cat([parameters.pop(f"prompt_encoder.point_embeddings.{i}.weight") for i in range(4)]),
    }
    for name, tensor in parameters.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in ("prompt_encoder.no_mask_embed.weight", "prompt_encoder.not_a_point_embed.weight"):
        renamed[name] = renamed[name].reshape(1, -1)
    for name in list(renamed):
        if "layer_norm" in name:
            renamed[name] = renamed[name].flatten()
    renamed["shared_image_embedding.positional_embedding"] = renamed["prompt_encoder.shared_embedding.positional_embedding"].clone()
    return renamed


def split_position_table(table: Tensor, background: int = BACKGROUND, window: int = WINDOW) -> tuple[Tensor, Tensor]:
    """Recover the two tables whose sum is a trunk's position constant.

    Args:
        table: (C, H, W), the bicubic enlargement of one table plus the repetition of the other; H and W are multiples of `window`.
        background: Side of the enlarged table.
        window: Side of the repeated table.

    Returns:
        (1, C, background, background) and (1, C, window, window) float32. A constant may move between the two; their sum at any size is not changed by it.

    Raises:
        StateDictError: If the table is not such a sum.

    Source: Bolya et al. 2023, "Window attention is bugged", section 4.
    """
    channels, height, width = table.shape
    unit = torch.eye(background**2, dtype=torch.float64).reshape(background**2, 1, background, background)
    enlarged = torch.nn.functional.interpolate(unit, size=(height, width), mode="bicubic").flatten(1)
    repeated = torch.eye(window**2, dtype=torch.float64).reshape(-1, window, window).tile(1, height // window, width // window).flatten(1)
    design = torch.cat([enlarged, repeated])
    values = table.double().flatten(1)
    # The Gram matrix is singular by the one shared constant; the pseudo-inverse gives the solution of least norm.
    solution = values @ design.T @ torch.linalg.pinv(design @ design.T, hermitian=True)
    residual = (solution @ design - values).abs().max().item()
    if residual > 1e-5:
        raise StateDictError(f"expected a position constant made of a {background} x {background} and a {window} x {window} table, residual {residual:.1e}")
    tables = solution.float().split([background**2, window**2], dim=1)
    return tables[0].reshape(1, channels, background, background), tables[1].reshape(1, channels, window, window)


def _encoder_parameters(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the encoder's parameters under Meta's names."""
    for name, tensor in _ort_initializers(path):
        if name == "/image_encoder/trunk/Transpose_output_0":
            names = ("model.image_encoder.trunk.pos_embed", "model.image_encoder.trunk.pos_embed_window")
            yield from zip(names, split_position_table(tensor[0]), strict=True)
        elif transposed := re.fullmatch(r"/(image_encoder/trunk/blocks\.\d+/.+)/Transpose_output_0", name):
            yield f"model.{transposed[1].replace('/', '.')}.weight", tensor.T
        elif name == "no_mem_embed" or re.match(r"model\.(image_encoder|sam_mask_decoder)\.", name):
            yield name, tensor
        elif not re.fullmatch(IGNORED_ENCODER, name):
            raise StateDictError(f"unknown tensor {name} {tuple(tensor.shape)} in {path.name}: not the published encoder of SAM 2 Hiera-T")


def _ort_initializers(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a file in onnxruntime's own format; integers are shapes and indices of its arithmetic and are left out."""
    try:
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
    except ImportError as error:
        raise MissingExtraError("reading the published SAM 2 encoder needs onnxruntime: install fretsaw[convert]") from error
    data = path.read_bytes()
    if not InferenceSession.InferenceSessionBufferHasIdentifier(data, 0):
        raise StateDictError(f"expected a file in onnxruntime's format, got {path}")
    model = InferenceSession.GetRootAs(data).Model()
    graph = None if model is None else model.Graph()
    if graph is None:
        raise StateDictError(f"expected a network in {path}, got an empty session")
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        if tensor.DataType() == FLOAT32:
            shape = [tensor.Dims(axis) for axis in range(tensor.DimsLength())]
            yield tensor.Name().decode(), torch.from_numpy(tensor.RawDataAsNumpy().view(np.float32).reshape(shape).copy())


def _decoder_parameters(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the decoder's parameters under Meta's names; the six output tokens come as one, `output_tokens`."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError("reading the published SAM 2 decoder needs onnx: install fretsaw[convert]") from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:
        raise StateDictError(f"expected an ONNX file, got {path}: {error}") from error
    readers = {operand: node for node in graph.node for operand in node.input}
    for initializer in graph.initializer:
        tensor = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        name, node = initializer.name, readers[initializer.name].name
        if re.match(r"(mask_decoder|prompt_encoder)\.", name):
            yield name, tensor
        elif node in NODE_NAMES:
            yield NODE_NAMES[node], tensor
        elif product := re.fullmatch(r"/(transformer/.+_proj|transformer/layers\.\d/mlp/layers\.\d)/MatMul", node):
            yield f"mask_decoder.{product[1].replace('/', '.')}.weight", tensor.T
        else:
            raise StateDictError(f"unknown tensor {name} {tuple(tensor.shape)} in {path.name}: not the published decoder of SAM 2 Hiera-T")
