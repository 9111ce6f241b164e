"""The precision of a training run: only the two that exist, and float32 leaves products as they are."""

from __future__ import annotations

import pytest
import torch

from fretsaw.errors import ConfigError
from fretsaw.training.precision import autocast, precision_named


def test_a_precision_that_does_not_exist_is_refused():
    assert precision_named("bfloat16") == torch.bfloat16
    with pytest.raises(ConfigError, match="float32, bfloat16, got 'float16'"):
        precision_named("float16")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_run_in_the_precision_that_was_named(name, dtype):
    with autocast("cpu", precision_named(name)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
