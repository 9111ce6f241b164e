"""The selective scan against its recurrence written out, and the cycle-scan in one lap against three."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.hrsam.definitions import repeated_scan
from fretsaw.errors import ShapeError
from fretsaw.layers import selective_scan as kernels
from fretsaw.layers.cycle_scan import STEP_RANGE, CycleScan
from fretsaw.layers.selective_scan import cycle_scan, final_state, selective_scan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def inputs(batch=2, length=50, channels=6, states=5, dtype=torch.float64, laps=3, seed=0):
    """x, delta, A, write, read, gains; the steps spread over two orders of magnitude, as trained ones do."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    slow = torch.exp(-7 + 4.6 * torch.rand(channels, generator=g, dtype=dtype))
    delta = slow * torch.exp(0.5 * normal(batch, length, channels))
    decay = -torch.exp(torch.arange(1, states + 1, dtype=dtype).log() + 0.2 * normal(channels, states))
    return normal(batch, length, channels), delta, decay, normal(batch, length, states), normal(batch, length, states), 1 + 0.3 * normal(channels, laps)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of eight tokens and groups of two states, so that short sequences cross their borders."""
    monkeypatch.setitem(kernels.CHUNK_ELEMENTS, "cpu", 8)
    monkeypatch.setattr(kernels, "STATE_GROUP", 2)


def recurrence(x, delta, decay, write, read, state=None):
    """Eq. 10, one token at a time, one channel at a time."""
    x, delta, decay, write, read = (tensor.numpy() for tensor in (x, delta, decay, write, read))
    state = np.zeros((x.shape[0], *decay.shape)) if state is None else state.numpy().copy()
    y = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for d in range(x.shape[2]):
                state[b, d] = np.exp(delta[b, t, d] * decay[d]) * state[b, d] + delta[b, t, d] * write[b, t] * x[b, t, d]
                y[b, t, d] = read[b, t] @ state[b, d]
    return torch.from_numpy(y), torch.from_numpy(state)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("length", [1, 7, 8, 9, 50])
def test_scan_equals_the_recurrence(length):
    x, delta, decay, write, read, _ = inputs(length=length)
    start = torch.randn(2, 6, 5, dtype=torch.float64)
    wanted, state = recurrence(x, delta, decay, write, read)
    torch.testing.assert_close(selective_scan(x, delta, decay, write, read), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(final_state(x, delta, decay, write), state, atol=1e-12, rtol=0)
    torch.testing.assert_close(selective_scan(x, delta, decay, write, read, start), recurrence(x, delta, decay, write, read, start)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 3, 257, 4000])
@pytest.mark.parametrize("segments", [1, 4, 100])
def test_one_lap_equals_three(dtype, length, segments):
    tensors = inputs(length=length, channels=16, states=8, dtype=dtype)
    wanted = repeated_scan(*tensors)
    torch.testing.assert_close(cycle_scan(*tensors, segments=segments), wanted, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("laps", [1, 2, 5])
def test_other_numbers_of_laps(laps):
    tensors = inputs(laps=laps)
    torch.testing.assert_close(cycle_scan(*tensors), repeated_scan(*tensors), atol=1e-12, rtol=0)


def test_repeated_scan_is_the_literal_one():
    x, delta, decay, write, read, gains = inputs(batch=1, length=4)
    wanted, state = torch.zeros_like(x), None
    for lap in range(3):
        y, state = recurrence(x, delta, decay, write, read, state)
        wanted += gains[:, lap] * y
    torch.testing.assert_close(repeated_scan(x, delta, decay, write, read, gains), wanted, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("segments", [1, 3])
def test_gradients_of_the_cycle_scan(segments):
    tensors = [tensor.requires_grad_() for tensor in inputs(batch=2, length=11, channels=3, states=4)]
    assert torch.autograd.gradcheck(lambda *t: cycle_scan(*t, segments=segments), tensors)


@pytest.mark.usefixtures("small_chunks")
def test_gradients_of_the_scan_and_of_the_final_state():
    tensors = [tensor.requires_grad_() for tensor in inputs(batch=2, length=11, channels=3, states=4)]
    start = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selective_scan, (*tensors[:5], start))
    assert torch.autograd.gradcheck(final_state, tensors[:4])


def test_long_and_short_memories_neither_overflow_nor_vanish():
    """Steps of 50 forget everything at once, steps of 1e-6 nothing: products of decays run from 1 to 0 and are never divided by."""
    x, delta, decay, write, read, gains = inputs(length=600, channels=4, dtype=torch.float32)
    delta = torch.tensor([50.0, 1.0, 1e-3, 1e-6]).expand_as(delta).clone()
    tensors = [tensor.requires_grad_() for tensor in (x, delta, decay, write, read, gains)]
    y = cycle_scan(*tensors)
    torch.testing.assert_close(y, repeated_scan(*(tensor.detach().double() for tensor in tensors)).float(), atol=1e-3, rtol=1e-5)
    y.square().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


def test_half_precision_is_computed_in_single():
    tensors = inputs(length=300, dtype=torch.float32)
    low = [tensor.bfloat16() for tensor in tensors]
    y = cycle_scan(*low)
    assert y.dtype == torch.float32
    assert torch.equal(y, cycle_scan(*(tensor.float() for tensor in low)))


def test_nothing_of_size_tokens_by_channels_by_states_is_stored():
    """The largest tensor that any operation makes, forward and backward, is a chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.seen = max(self.seen, tensor.untyped_storage().nbytes() // 4)
            return out

    length, channels, states = 8192, 32, 16
    tensors = [tensor.requires_grad_() for tensor in inputs(batch=1, length=length, channels=channels, states=states, dtype=torch.float32)]
    with Largest() as mode:
        cycle_scan(*tensors).sum().backward()
    assert mode.seen <= kernels.CHUNK_ELEMENTS["cpu"] < length * channels * states


@pytest.mark.parametrize("change", [lambda t: t[0][:, :3], lambda t: t[0][..., :2], lambda t: t[0][:, :0]])
def test_tensors_that_do_not_belong_together_are_refused(change):
    tensors = inputs()
    with pytest.raises(ShapeError):
        cycle_scan(change(tensors), *tensors[1:])


def test_empty_sequence_is_refused():
    with pytest.raises(ShapeError, match="at least one token"):
        cycle_scan(*inputs(length=0))


# The layer.


def test_layer_scans_sequences_apart():
    torch.manual_seed(0)
    layer = CycleScan(12, state_size=4, expand=1.5).eval()
    x = torch.randn(2, 30, 12)
    both = layer(x, (20, 10))
    torch.testing.assert_close(both, torch.cat((layer(x[:, :20]), layer(x[:, 20:])), dim=1))
    assert not torch.allclose(both, layer(x), atol=1e-3)
    with pytest.raises(ShapeError, match="30"):
        layer(x, (20, 9))


def test_layer_lets_the_first_token_hear_of_the_last():
    torch.manual_seed(0)
    layer = CycleScan(12, state_size=4)
    x = torch.randn(1, 200, 12, requires_grad=True)
    layer(x)[0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, -1].abs().max() > 0
    once = CycleScan(12, state_size=4, laps=1)
    once.load_state_dict({**layer.state_dict(), "gamma": torch.ones(12, 1, 1)})
    x.grad = None
    once(x)[0, 0].sum().backward()
    assert x.grad[0, -1].abs().max() == 0  # one lap alone is causal


def test_layer_by_its_parts():
    """The gate, the skip term and the gains, written out with the literal three laps."""
    torch.manual_seed(0)
    layer = CycleScan(12, state_size=4).double()
    torch.nn.init.normal_(layer.Ds)
    torch.nn.init.normal_(layer.gamma)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    entry, gate = layer.in_proj(layer.in_norm(x)).chunk(2, dim=2)
    step, write, read = layer.ssm_proj(entry).split((12, 4, 4), dim=2)
    gains = layer.gamma[..., 0]
    delta = torch.log1p(torch.exp(step + layer.ssm_proj_bias))
    y = repeated_scan(entry, delta, -layer.As_log.exp(), write, read, gains) + gains.sum(dim=1) * layer.Ds * entry
    torch.testing.assert_close(layer(x), x + layer.out_proj(gate * layer.out_norm(y)), atol=1e-10, rtol=0)


def test_layer_in_bfloat16_and_its_gradients():
    torch.manual_seed(0)
    layer = CycleScan(16, state_size=4)
    x = torch.randn(1, 100, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    torch.testing.assert_close(low, layer(x), atol=0.05, rtol=0.05)
    low.square().sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in layer.parameters())
    half = CycleScan(16, state_size=4).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_layer_starts_with_steps_in_range():
    torch.manual_seed(0)
    steps = torch.nn.functional.softplus(CycleScan(2000, state_size=1).ssm_proj_bias)
    assert STEP_RANGE[0] * 0.99 <= steps.min() <= STEP_RANGE[0] * 1.1
    assert STEP_RANGE[1] * 0.9 <= steps.max() <= STEP_RANGE[1] * 1.01
