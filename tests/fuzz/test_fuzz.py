"""A part of the fuzz suite, small enough for every run of the tests, and the suite's own check: planted faults are found."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("coverage", reason="needs the package coverage, which .[dev] installs")

from . import harness, planted

COUNT = 2200
PLANTED = Path(planted.__file__)


@pytest.fixture(scope="module")
def planted_scores(tmp_path_factory) -> dict[str, harness.Score]:
    report = harness.run(0, files=[PLANTED], keep=tmp_path_factory.mktemp("kept"), at_least=2)
    return {score.name: score for score in report.scores}


@pytest.mark.parametrize("name", planted.FAULTS)
def test_planted_faults_are_found_and_saved(name, planted_scores):
    [failure] = planted_scores[name].failures.values()
    assert planted.FAULTS[name][1] in failure.reason
    assert Path(failure.saved).read_bytes()
    assert failure.times == planted_scores[name].inputs == 2  # the suite goes on behind a crash


@pytest.mark.parametrize("name", planted.SOUND)
def test_refusals_and_values_are_counted(name, planted_scores):
    score = planted_scores[name]
    assert not score.failures
    assert (score.inputs, score.past_header, score.refused) == (2, *(2 * number for number in planted.SOUND[name][1]))


READERS = ("coco", "label-studio", "cvat", "labelme", "voc", "yolo", "png", "picture-log", "picture-record", "image")
"""Targets that read files; each meets the code behind the header often enough."""


@pytest.mark.slow
def test_no_input_gets_past_its_reader_unanswered(tmp_path):
    """`python -m tests.fuzz --count 50000` is the same with more inputs; `--replay FILE` tries one that failed again."""
    report = harness.run(COUNT, seed=20, keep=tmp_path, at_least=40)
    print(report.table())
    assert not report.failures, report.table()
    assert report.inputs >= 2000
    assert report.past_header >= 0.4
    shares = {score.name: score.past_header / score.inputs for score in report.scores if score.name in READERS}
    assert shares.keys() == set(READERS)
    assert min(shares.values()) >= 0.3, shares  # 0.4 over many inputs; so few as here may be unlucky
