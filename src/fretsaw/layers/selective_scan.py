"""Selective scan: a recurrence that is linear in its state, and the cycle-scan that runs it over a sequence repeated R times for little more than one lap.

Shape legend: B images, L tokens, D channels, N states per channel, R laps, T tokens of a chunk.

    x, delta  (B, L, D)   input and step; delta >= 0
    A         (D, N)      decay, < 0
    write     (B, L, N)   the papers' B: how a token enters the states
    read      (B, L, N)   the papers' C: how the states make the output
    state h   (B, D, N)

    h_t = exp(delta_t A) h_(t-1) + delta_t write_t x_t          y_t = read_t . h_t

Nothing of size L x D x N is ever stored: the sequence is cut into chunks of about a million numbers, and the backward pass computes them again.
Every exponent is <= 0 and nothing is divided by a product of decays, so nothing overflows.

Source: Mamba (Gu and Dao 2023), eq. 2 and 3.2; HRSAM (paper 003), sec. 3.5, eq. 9 and 10.
Deviation: write enters by delta * write (Euler), not by eq. 10's zero-order hold, as in Mamba's and HRSAM's published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fretsaw.errors import ShapeError

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**25, "mps": 2**23}
"""Numbers per chunk: on a CPU what its caches hold, measured; on a GPU what should keep it busy, not measured yet."""

SEGMENTS = {"cpu": 1, "cuda": 64, "mps": 32}
"""Pieces of a sequence that are scanned side by side. A CPU is busy with one; a GPU would wait for L small steps (its figures are not measured yet)."""

STATE_GROUP = 4
"""States that share one bound in `final_state`; smaller follows the decay more closely, larger makes fewer calls."""


def selective_scan(x: Tensor, delta: Tensor, A: Tensor, write: Tensor, read: Tensor, start: Tensor | None = None) -> Tensor:
    """Scan a sequence once.

    Args:
        x: (B, L, D).
        delta: (B, L, D), >= 0.
        A: (D, N), < 0.
        write: (B, L, N).
        read: (B, L, N).
        start: (B, D, N) state before the first token; zero if None.

    Returns:
        (B, L, D) y without the skip term D x. Computed in float32, or in float64 if the input is.

    Raises:
        ShapeError: If the tensors do not belong together.

    Source: HRSAM (paper 003), eq. 9 and 10.
    """
    _check(x, delta, A, write, read)
    x, delta, A, write, read = _precise(x, delta, A, write, read)
    begin = torch.zeros(x.shape[0], A.shape[1], A.shape[0], dtype=x.dtype, device=x.device) if start is None else start.to(x.dtype).transpose(1, 2).contiguous()
    return _scan(delta, delta * x, A.t().contiguous(), write, read, begin)


def final_state(x: Tensor, delta: Tensor, A: Tensor, write: Tensor) -> Tensor:
    """Return the state after the last token, (B, D, N), from zero, without running the recurrence.

    h_L is the sum over t of exp(A (delta_(t+1) + ... + delta_L)) delta_t write_t x_t: no token waits for another, and tokens whose weight is below the square
    of the rounding error are left out.

    Args:
        x: (B, L, D).
        delta: (B, L, D), >= 0.
        A: (D, N), < 0.
        write: (B, L, N).

    Source: HRSAM (paper 003), eq. 10, unrolled.
    """
    _check(x, delta, A, write, write)
    x, delta, A, write = _precise(x, delta, A, write)
    return _final(delta, delta * x, A.t().contiguous(), write).transpose(1, 2)


def cycle_scan(x: Tensor, delta: Tensor, A: Tensor, write: Tensor, read: Tensor, gains: Tensor, segments: int | None = None) -> Tensor:
    """Scan a sequence that is repeated R times and add the laps' outputs, each by its gain: exact, in one lap and a summary.

    Lap r starts where lap r - 1 ended, and its state differs from the first lap's by P_t h(r-1)_L, where P_t is the product of the decays up to t. So the laps
    add up to one lap whose input is scaled by the sum of the gains and that starts at g_2 h(1)_L + g_3 h(2)_L + ..., with h(r)_L = h(1)_L + P_L h(r-1)_L.

    Args:
        x: (B, L, D).
        delta: (B, L, D), >= 0.
        A: (D, N), < 0.
        write: (B, L, N).
        read: (B, L, N).
        gains: (D, R), one per channel and lap.
        segments: Pieces of the sequence that are scanned side by side; by device if None. It changes the order of work, not the result.

    Returns:
        (B, L, D), without the skip term.

    Source: HRSAM (paper 003), sec. 3.5, fig. 7.
    Deviation: the laps are merged by a learned gain per channel and lap, which starts at 1, as in the published code; the paper sums them.
    Deviation: one lap with a start state in place of three; the result is the same up to rounding.
    """
    _check(x, delta, A, write, read)
    x, delta, A, write, read, gains = _precise(x, delta, A, write, read, gains)
    batch, length, _ = x.shape
    pieces = min(segments or SEGMENTS.get(x.device.type, 1), length)
    decay, u = A.t().contiguous(), delta * x
    total = gains.sum(dim=1)
    # One row per segment; tokens that fill up the last segment have delta 0 and leave the state alone.
    delta, u, write, read = (_segmented(tensor, pieces) for tensor in (delta, u, write, read))
    summary = _final(delta, u, decay, write).unflatten(0, (batch, pieces))
    fade = torch.exp(decay * delta.sum(dim=1, keepdim=True)).unflatten(0, (batch, pieces))
    start = _lap_start(_run(summary, fade, torch.zeros_like(summary[:, 0]))[-1], fade.prod(dim=1), gains)
    starts = torch.stack(_run(summary * total, fade, start)[:-1], dim=1).flatten(0, 1)
    return _scan(delta, u * total, decay, write, read, starts).reshape(batch, -1, x.shape[2])[:, :length]


def _lap_start(first: Tensor, fade: Tensor, gains: Tensor) -> Tensor:
    """Return sum over r >= 2 of g_r h(r-1)_L, (B, N, D), from h(1)_L, P_L and the gains."""
    state, start = first, torch.zeros_like(first)
    for lap in range(1, gains.shape[1]):
        start = start + gains[:, lap] * state
        state = first + fade * state
    return start


def _run(summary: Tensor, fade: Tensor, state: Tensor) -> list[Tensor]:
    """Return the states before each segment and after the last, from the segments' own final states and fades (B, S, N, D)."""
    states = [state]
    for index in range(summary.shape[1]):
        states.append(summary[:, index] + fade[:, index] * states[-1])
    return states


def _segmented(tensor: Tensor, pieces: int) -> Tensor:
    """(B, L, C) -> (B * pieces, L / pieces, C), filled up with zeros."""
    rest = -tensor.shape[1] % pieces
    if rest:
        tensor = torch.nn.functional.pad(tensor, (0, 0, 0, rest))
    return tensor.reshape(tensor.shape[0] * pieces, -1, tensor.shape[2])


def _precise(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring all to float64 if one is, else to float32: running sums over thousands of tokens need it."""
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)


def _check(x: Tensor, delta: Tensor, A: Tensor, write: Tensor, read: Tensor) -> None:
    batch, length, channels = x.shape
    states = (batch, length, A.shape[1])
    if delta.shape != x.shape or A.shape[0] != channels or tuple(write.shape) != states or tuple(read.shape) != states:
        shapes = [tuple(tensor.shape) for tensor in (x, delta, A, write, read)]
        raise ShapeError(f"expected x and delta (B, L, D), A (D, N), write and read (B, L, N), got {shapes}")
    if not length:
        raise ShapeError("expected at least one token, got a sequence of length 0")


# The two kernels. Inside them time comes first and channels last: (T, B, N, D).


def _chunks(delta: Tensor, states: int) -> list[tuple[int, int]]:
    batch, length, channels = delta.shape
    size = max(8, CHUNK_ELEMENTS.get(delta.device.type, 2**20) // (batch * states * channels))
    return [(begin, min(begin + size, length)) for begin in range(0, length, size)]


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _scan(delta: Tensor, u: Tensor, decay: Tensor, write: Tensor, read: Tensor, start: Tensor) -> Tensor:
    """y (B, L, D) from u = delta x and decay (N, D); start (B, N, D)."""
    if _needs_grad(delta, u, decay, write, read, start):
        return _Scan.apply(delta, u, decay, write, read, start)
    return _scan_chunks(delta, u, decay, write, read, start, None)


def _room(chunks: list[tuple[int, int]], start: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for one chunk's factors and states, taken once: fresh memory for each chunk costs as much as the arithmetic."""
    length = max(end - begin for begin, end in chunks)
    return start.new_empty(length, *start.shape), start.new_empty(length, *start.shape)


def _states(delta: Tensor, u: Tensor, decay: Tensor, write: Tensor, start: Tensor, room: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the factors exp(delta A) and the states of one chunk, both (T, B, N, D), in `room`; delta, u (T, B, D), write (T, B, N)."""
    factors = torch.mul(delta[:, :, None], decay, out=room[0][: len(delta)]).exp_()
    states = torch.mul(u[:, :, None], write[..., None], out=room[1][: len(delta)])
    previous = start
    for factor, state in zip(factors.unbind(0), states.unbind(0), strict=True):
        previous = state.addcmul_(factor, previous)
    return factors, states


def _scan_chunks(delta: Tensor, u: Tensor, decay: Tensor, write: Tensor, read: Tensor, start: Tensor, starts: list[Tensor] | None) -> Tensor:
    """Run all chunks; the state before each is appended to `starts`, if given."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    rows = [tensor.transpose(0, 1) for tensor in (delta, u, write, read, y)]
    chunks = _chunks(delta, decay.shape[0])
    room = _room(chunks, start)
    for begin, end in chunks:
        delta_c, u_c, write_c, read_c, y_c = (row[begin:end] for row in rows)
        if starts is not None:
            starts.append(start)
        _, states = _states(delta_c, u_c, decay, write_c, start, room)
        y_c.copy_((read_c[:, :, None] @ states)[:, :, 0])
        start = states[-1].clone()
    return y


class _Scan(torch.autograd.Function):
    """`_scan_chunks` with a backward pass that computes each chunk's states again from the state before it."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, u: Tensor, decay: Tensor, write: Tensor, read: Tensor, start: Tensor) -> Tensor:
        starts: list[Tensor] = []
        y = _scan_chunks(delta, u, decay, write, read, start, starts)
        ctx.save_for_backward(delta, u, decay, write, read, torch.stack(starts))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        delta, u, decay, write, read, starts = ctx.saved_tensors
        grads = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (delta, u, write, read)]
        inputs = [tensor.transpose(0, 1) for tensor in (delta, u, write, read, grad_y)]
        outputs = [tensor.transpose(0, 1) for tensor in grads]
        grad_decay = torch.zeros_like(decay, memory_format=torch.contiguous_format)
        carry = torch.zeros_like(starts[0])  # gradient of the state before the chunk that was handled last
        chunks = _chunks(delta, decay.shape[0])
        room = _room(chunks, carry)
        for index, (begin, end) in reversed(list(enumerate(chunks))):
            delta_c, u_c, write_c, read_c, grad_c = (row[begin:end] for row in inputs)
            grad_delta, grad_u, grad_write, grad_read = (row[begin:end] for row in outputs)
            factors, states = _states(delta_c, u_c, decay, write_c, starts[index], room)
            grad_states = grad_c[:, :, None] * read_c[..., None]
            grad_states[-1] += carry
            for t in range(end - begin - 1, 0, -1):
                grad_states[t - 1].addcmul_(factors[t], grad_states[t])
            carry = factors[0] * grad_states[0]
            grad_read.copy_((states @ grad_c[..., None])[..., 0])
            grad_write.copy_((grad_states @ u_c[..., None])[..., 0])
            grad_u.copy_((write_c[:, :, None] @ grad_states)[:, :, 0])
            # d/d(delta A) of exp(delta A) h_(t-1)
            factors.mul_(grad_states)
            factors[1:].mul_(states[:-1])
            factors[0].mul_(starts[index])
            grad_delta.copy_((factors * decay).sum(dim=2))
            grad_decay += torch.einsum("tbnd,tbd->nd", factors, delta_c)
        return grads[0], grads[1], grad_decay, grads[2], grads[3], carry


def _final(delta: Tensor, u: Tensor, decay: Tensor, write: Tensor) -> Tensor:
    """h_L (B, N, D) from zero."""
    if _needs_grad(delta, u, decay, write):
        return _Final.apply(delta, u, decay, write)
    return _final_chunks(delta, u, decay, write)


def _reach(dtype: torch.dtype) -> float:
    """Exponents below minus this are left out: their weight is under the square of the rounding error (6e-16 in float32); thousands of them change no digit."""
    return -2.2 * math.log(torch.finfo(dtype).eps)


def _weights(delta: Tensor, decay: Tensor) -> Iterator[tuple[int, int, Tensor, slice, Tensor, Tensor]]:
    """Yield what each token's entry still weighs at the end of the sequence, by chunks of tokens and groups of states, without what has faded.

    Channels are sorted by their whole decay, slowest first: those of which something is left form a prefix, the shorter the farther a chunk lies from the end.
    Most of an image's tokens are so far from it that only the slowest states remember them.

    Yields:
        begin, end of the chunk; indices of its channels; slice of states; distances (B, T, width), the sum of delta after the token;
        weights (B, states, T, width).
    """
    reach = _reach(delta.dtype)
    chunks = _chunks(delta, STATE_GROUP)
    order = delta.mean(dim=(0, 1)).mul(decay.abs().amin(dim=0)).argsort()
    sums = torch.stack([delta[:, begin:end].sum(dim=1) for begin, end in chunks])
    after = sums.flip(0).cumsum(0).flip(0) - sums  # (chunks, B, D): from the end of the chunk to the end of the sequence
    groups = [slice(first, min(first + STATE_GROUP, len(decay))) for first in range(0, len(decay), STATE_GROUP)]
    slowest = torch.stack([decay[group].amax(dim=0) for group in groups])
    alive = (slowest * after.amin(dim=1)[:, None] > -reach)[..., order]
    places = torch.arange(1, len(order) + 1, device=order.device)
    widths = (alive * places).amax(dim=-1).tolist()
    for (begin, end), rest, row in zip(chunks, after, widths, strict=True):
        kept = order[: max(row)]
        steps = delta[:, begin:end].index_select(2, kept)
        distances = steps.flip(1).cumsum(1).flip(1) - steps + rest[:, None, kept]
        for group, width in zip(groups, row, strict=True):
            if width:
                rates = decay[group].index_select(1, kept[:width])
                # Clamped: results too small for a normal number would make every later operation slow.
                weights = (distances[:, None, :, :width] * rates[:, None]).clamp_(min=-reach).exp_()
                yield begin, end, kept[:width], group, distances[..., :width], weights


def _final_chunks(delta: Tensor, u: Tensor, decay: Tensor, write: Tensor) -> Tensor:
    state = torch.zeros(delta.shape[0], *decay.shape, dtype=delta.dtype, device=delta.device)
    for begin, end, channels, group, _, weights in _weights(delta, decay):
        entries = weights.mul_(u[:, None, begin:end].index_select(3, channels))
        state[:, group].index_add_(2, channels, (write[:, begin:end, group].transpose(1, 2)[:, :, None] @ entries)[:, :, 0])
    return state


class _Final(torch.autograd.Function):
    """`_final_chunks` with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, u: Tensor, decay: Tensor, write: Tensor) -> Tensor:
        ctx.save_for_backward(delta, u, decay, write)
        return _final_chunks(delta, u, decay, write)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_state: Tensor) -> tuple[Tensor, ...]:
        delta, u, decay, write = ctx.saved_tensors
        grad_distance, grad_u = torch.zeros_like(delta), torch.zeros_like(u)
        grad_decay, grad_write = torch.zeros_like(decay), torch.zeros_like(write)
        for begin, end, channels, group, distances, weights in _weights(delta, decay):
            entries = u[:, begin:end].index_select(2, channels)
            writes = write[:, begin:end, group].transpose(1, 2)[..., None]
            weights.mul_(grad_state[:, group].index_select(2, channels)[:, :, None])
            grad_write[:, begin:end, group] += (weights * entries[:, None]).sum(dim=-1).transpose(1, 2)
            weights.mul_(writes)
            grad_u[:, begin:end].index_add_(2, channels, weights.sum(dim=1))
            weights.mul_(entries[:, None])
            rates = decay[group].index_select(1, channels)
            grad_distance[:, begin:end].index_add_(2, channels, (weights * rates[:, None]).sum(dim=1))
            grad_decay[group].index_add_(1, channels, torch.einsum("bntd,btd->nd", weights, distances))
        # A token's distance is the sum of all later steps, so a step's gradient is the sum over all earlier tokens.
        return grad_distance.cumsum(dim=1) - grad_distance, grad_u, grad_decay, grad_write
