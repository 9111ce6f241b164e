"""Fine-tuned parameters as changes of low rank: what is stored, how near it comes back, and what stays whole."""

from __future__ import annotations

import pytest
import torch

from fretsaw.weights.low_rank import compress, part_way, restore


@pytest.fixture
def start():
    torch.manual_seed(0)
    return {"matrix": torch.randn(64, 48), "vector": torch.randn(64), "same": torch.randn(40, 40), "small": torch.randn(4, 4)}


@pytest.fixture
def trained(start):
    change = 0.1 * torch.randn(64, 3) @ torch.randn(3, 48)
    return start | {"matrix": start["matrix"] + change, "vector": start["vector"] + 1, "small": start["small"] + 1, "new": torch.randn(5)}


def test_a_change_within_the_rank_comes_back_exactly(start, trained):
    whole = restore(compress(trained, start, 3), start)
    assert set(whole) == set(trained)
    assert all(torch.allclose(whole[name], value, atol=1e-5) for name, value in trained.items())


def test_what_did_not_change_is_not_stored_and_what_would_not_shrink_is_stored_whole(start, trained):
    stored = compress(trained, start, 3)
    assert set(stored) == {"matrix.change.left", "matrix.change.right", "vector", "small", "new"}
    assert sum(value.numel() for value in stored.values()) < 0.12 * sum(value.numel() for value in trained.values()) + 64 + 16 + 5


def test_more_rank_comes_nearer(start):
    trained = {"matrix": start["matrix"] + torch.randn(64, 48)}
    errors = [(restore(compress(trained, start, rank), start)["matrix"] - trained["matrix"]).norm() for rank in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_whole_parameters_stay_what_they_are(start, trained):
    assert torch.equal(restore(trained, start)["matrix"], trained["matrix"])


def test_part_of_the_way_lies_between(start, trained):
    half = part_way(trained, start, 0.5)
    assert torch.allclose(half["vector"], start["vector"] + 0.5)
    assert torch.equal(half["new"], trained["new"]), "what the start lacks is taken as it is"
    for share, end in ((0.0, start), (1.0, trained)):
        assert all(torch.allclose(value, end.get(name, value)) for name, value in part_way(trained, start, share).items())
