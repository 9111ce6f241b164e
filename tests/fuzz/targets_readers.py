"""Targets: run lengths, polygons and every reader of annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fretsaw import masks
from fretsaw.errors import FretsawError

from .harness import Refused, Target

HUGE = (2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
LENGTHS = st.one_of(st.integers(0, 40), st.integers(-3, 3), st.sampled_from(HUGE), st.sampled_from([-number for number in HUGE]))
SIDES = st.one_of(st.integers(1, 20), st.sampled_from([0, -1, 10**5, 10**9, 2**31, 2**62]))


def run_lengths(rle: Any, folder: Path) -> bool:
    try:
        mask = masks.decode_rle(rle)
    except FretsawError as error:
        raise Refused(past_header=True) from error
    assert mask.dtype == bool
    return True


@st.composite
def counts_near_a_size(draw: st.DrawFn) -> dict[str, Any]:
    """Run lengths whose sum is right modulo 2 ** 64, right, or nearly so."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    counts = draw(st.lists(LENGTHS, max_size=8))
    total = height * width - sum(counts)
    counts.append(draw(st.sampled_from([total, total % 2**64, total % 2**63, total + 1])))
    return {"size": [height, width], "counts": counts}


RUN_LENGTHS = st.one_of(
    counts_near_a_size(),
    st.fixed_dictionaries(
        {"size": st.lists(SIDES, min_size=2, max_size=2), "counts": st.one_of(st.lists(LENGTHS), st.text("0123456789:;<=>?@PQabno", max_size=60))}
    ),
)

TARGETS = [Target("rle", RUN_LENGTHS, run_lengths, ("fretsaw.masks",))]
