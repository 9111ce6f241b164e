"""The cycle-scan layer: every token hears of all others at linear cost.

Legend: B images, L tokens, C channels, D inner channels, N states per channel, R laps.
"""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.errors import ShapeError
from fretsaw.layers.selective_scan import cycle_scan

STEP_RANGE = (0.001, 0.1)
"""Steps at the start of training are drawn between these, evenly in their logarithm (Mamba's rule)."""


class CycleScan(nn.Module):
    """Residual gated selective scan over the token sequence repeated R times, merged by a gain per channel and lap. No causal convolution.

    Args:
        dim: C.
        state_size: N.
        expand: D / C.
        laps: R.

    Source: HRSAM (paper 003), sec. 3.5 and appendix D.2; Mamba (Gu and Dao 2023), sec. 3.
    Deviation: no causal convolution, and the gate multiplies the normalised output, as in the published code.
    """

    def __init__(self, dim: int, state_size: int = 32, expand: float = 1.0, laps: int = 3) -> None:
        super().__init__()
        inner = int(dim * expand)
        self.state_size = state_size
        self.in_norm = nn.LayerNorm(dim)
        self.in_proj = nn.Sequential(nn.Linear(dim, 2 * inner), nn.SiLU())
        self.ssm_proj = nn.Linear(inner, inner + 2 * state_size)
        self.ssm_proj_bias = nn.Parameter(_initial_steps(inner))
        self.As_log = nn.Parameter(torch.arange(1, state_size + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.Ds = nn.Parameter(torch.ones(inner))
        self.gamma = nn.Parameter(torch.ones(inner, laps, 1))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim)
        nn.init.uniform_(self.ssm_proj.weight[:inner], -(inner**-0.5), inner**-0.5)
        nn.init.zeros_(self.ssm_proj.bias)

    def forward(self, x: Tensor, lengths: tuple[int, ...] | None = None) -> Tensor:
        """Scan tokens.

        Args:
            x: (B, L, C).
            lengths: Lengths of sequences that lie one after the other and are scanned each by itself; None: L is one sequence.

        Returns:
            (B, L, C), x included.

        Raises:
            ShapeError: If the lengths do not add up to L.
        """
        if lengths is not None and sum(lengths) != x.shape[1]:
            raise ShapeError(f"expected sequences that add up to {x.shape[1]} tokens, got {lengths}")
        parts = x.split(list(lengths), dim=1) if lengths is not None else (x,)
        return torch.cat([self._scan(part) for part in parts], dim=1) if len(parts) > 1 else self._scan(x)

    def _scan(self, x: Tensor) -> Tensor:
        entry, gate = self.in_proj(self.in_norm(x)).chunk(2, dim=2)
        inner = entry.shape[2]
        step, write, read = self.ssm_proj(entry).split((inner, self.state_size, self.state_size), dim=2)
        # In float32 at least, whatever the weights and autocast say: sums over thousands of tokens need it.
        with torch.autocast(x.device.type, enabled=False):
            entry, step, write, read = (tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in (entry, step, write, read))
            delta = F.softplus(step + self.ssm_proj_bias.to(step.dtype))
            decay = -self.As_log.to(step.dtype).exp()
            gains = self.gamma[..., 0].to(step.dtype)
            y = _scan_laps(entry, delta, decay, write, read, gains)
            y = torch.addcmul(y, entry, self.Ds.to(step.dtype) * gains.sum(dim=1))
        return x + self.out_proj(gate * self.out_norm(y.to(gate.dtype)))


def _scan_laps(x: Tensor, delta: Tensor, A: Tensor, write: Tensor, read: Tensor, gains: Tensor) -> Tensor:
    """`cycle_scan`, or three laps by mamba-ssm's compiled kernel where that is installed and the tensors are on CUDA."""
    if not x.is_cuda or importlib.util.find_spec("mamba_ssm") is None:
        return cycle_scan(x, delta, A, write, read, gains)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]

    repeated = [tensor.repeat(1, gains.shape[1], 1).transpose(1, 2).contiguous() for tensor in (x, delta, write, read)]
    laps = selective_scan_fn(repeated[0], repeated[1], A, repeated[2], repeated[3])
    return torch.einsum("bdrl,dr->bld", laps.unflatten(2, (gains.shape[1], -1)), gains)


def _initial_steps(count: int) -> Tensor:
    """Return biases whose softplus lies in `STEP_RANGE`."""
    low, high = (math.log(bound) for bound in STEP_RANGE)
    steps = torch.exp(low + torch.rand(count) * (high - low))
    return steps + torch.log(-torch.expm1(-steps))
