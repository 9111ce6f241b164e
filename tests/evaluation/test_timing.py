"""Clocks around clicks: what they count, and what stands still."""

from __future__ import annotations

import time

import numpy as np
import pytest
from stand_ins import Disks, OpenDisks, photo, square

from fretsaw.data.datasets import folder
from fretsaw.errors import ConfigError, MissingExtraError, OutputError
from fretsaw.evaluation import curves
from fretsaw.evaluation.clicks import ClickTally
from fretsaw.evaluation.curves import curve, plot
from fretsaw.evaluation.protocols import HRSAM, SAM
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.timing import sat_latency, seconds_per_click, seconds_per_click_as_published
from fretsaw.images import read_image, write_image, write_mask


class Slow(Disks):
    """Takes 20 ms to open and 2 ms a click."""

    def open(self, image):
        time.sleep(0.02)
        return _OpenSlow(self, image.shape[:2])


class _OpenSlow(OpenDisks):
    def predict(self, clicks, previous):
        time.sleep(0.002)
        return super().predict(clicks, previous)


@pytest.fixture
def samples(tmp_path):
    truth = square(5, 6, 40, 30)
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", photo(truth))
        write_mask(tmp_path / "masks" / f"{name}.png", truth == 1)
    return folder(tmp_path).samples


@pytest.mark.parametrize("protocol", [SAM, HRSAM])
def test_spc_shares_one_encoding_over_twenty_clicks_whatever_the_target(samples, protocol):
    slow, waits = Slow(100), []
    times = seconds_per_click(slow, samples, protocol, lambda: waits.append(1), warm_up=1)
    assert len(slow.calls) == 3 * 20
    assert len(waits) == 3 * 21 * 2
    assert times["SPC"] == pytest.approx(times["SPC clicks alone"] + times["encoding"] / 20, rel=0.3)
    assert times["encoding"] >= 0.02
    assert times["SPC clicks alone"] >= 0.002


def test_spc_as_published_counts_the_clicks_that_were_made(samples):
    slow = Slow(100)
    seconds = seconds_per_click_as_published(slow, samples, SAM)
    assert seconds >= 2 * (0.02 + 0.002 * len(slow.calls) / 2) / len(slow.calls)
    for function in (seconds_per_click, seconds_per_click_as_published):
        with pytest.raises(ConfigError, match="at least one sample"):
            function(slow, [], SAM)


def test_sat_latency_prompts_a_grid_point_by_point():
    disks = Disks(5)
    seconds = sat_latency(disks, np.zeros((30, 40, 3), np.uint8), per_side=4, side=64)
    assert seconds > 0
    assert disks.opened[0].shape == (64, 64, 3)
    assert [(clicks[0].x, clicks[0].y) for clicks, _ in disks.calls] == [(8 + 16 * i, 8 + 16 * j) for j in range(4) for i in range(4)]
    assert all(len(clicks) == 1 and previous is None for clicks, previous in disks.calls)


def a_report(**changes) -> Report:
    tally = ClickTally()
    tally.add({"ious": [0.5, 0.7, 0.96]})
    return Report(**({"task": "clicks", "protocol": "sam", "dataset": "d", "model": "m", "metrics": tally.metrics()} | changes))


def test_a_curve_is_the_iou_after_each_click():
    assert curve(a_report()) == [0.5, 0.7] + [0.96] * 18
    with pytest.raises(ConfigError, match="task clicks"):
        curve(a_report(task="auto"))


def test_curves_become_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra evaluate")
    path = plot([a_report(), a_report(protocol="hrsam")], tmp_path / "deep" / "c.png")
    assert read_image(path).std() > 0
    assert [entry.name for entry in path.parent.iterdir()] == ["c.png"]
    with pytest.raises(OutputError, match=r"ends in \.png"):
        plot([a_report()], tmp_path / "c.xyz")
    with pytest.raises(ConfigError, match="at least one report"):
        plot([], tmp_path / "c.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"fretsaw\[evaluate\]"):
        plot([a_report()], tmp_path / "c.png")
    with pytest.raises(MissingExtraError, match=r"fretsaw\[evaluate\]"):
        curves.require_matplotlib()


def test_recall_is_the_share_of_truths_matched_well_enough():
    samples = [{"matched_ious": [0.6, 0.9], "truths": 3}, {"matched_ious": [], "truths": 1}]
    report = Report(task="instances", protocol="coco", dataset="d", model="m", metrics={}, samples=samples)
    assert curves.recall(report, [0.5, 0.6, 0.7, 0.95]) == [0.5, 0.5, 0.25, 0]
    with pytest.raises(ConfigError, match="task instances"):
        curves.recall(a_report(), [0.5])


def test_the_f_curve_is_that_of_the_levels():
    # One object pixel at level 200 and one background pixel at level 100, as they are: F is (1 + 0.3) p r / (0.3 p + r).
    levels = np.zeros(512, int)
    levels[200], levels[256 + 100] = 1, 1
    report = Report(task="auto", protocol="isnet", dataset="d", model="m", metrics={}, samples=[{"levels": " ".join(map(str, levels))}])
    values = curves.f_curve(report)
    assert values[150] == pytest.approx(1)
    assert values[50] == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))
    assert values[250] == pytest.approx(0)


def test_pictures_of_two_tasks_are_not_mixed(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra evaluate")
    with pytest.raises(ConfigError, match="task clicks, got auto"):
        plot([a_report(), a_report(task="auto")], tmp_path / "c.png")
