"""Learning curves: read from a run's log, also one that a kill cut short, and drawn."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from fretsaw import cli
from fretsaw.errors import DataError, MissingExtraError, OutputError
from fretsaw.training import curves


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": 10 * i, "seconds": i, "lr": 1e-4 * (5 - i), "loss": 1 / i, "IoU": 0.1 * i} for i in range(1, 5)]
    lines.append({"step": 40, "val/score": 0.7})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50, "lo')
    return folder


def test_each_figure_is_a_curve(run):
    found = curves.curves(run)
    assert list(found) == ["lr", "loss", "IoU", "val/score"]
    assert found["loss"] == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3)), (40, 0.25)]
    assert found["val/score"] == [(40, 0.7)]


def test_the_command_draws_one_run_or_several(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["curves", str(run)])
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == str(run / "curves.png")
    single = Image.open(run / "curves.png")
    assert min(single.size) > 300
    assert len(set(single.convert("L").resize((60, 60)).getdata())) > 10, "something is drawn"
    both = curves.draw([run, run], tmp_path / "both.svg")
    assert "val/score" in both.read_text() or both.stat().st_size > 5000


def test_what_cannot_be_drawn_is_said(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["curves", str(tmp_path / "none")])
    assert stop.value.code == 1
    assert "expected the log of a training run" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(DataError, match="at least one line"):
        curves.curves(tmp_path)
    with pytest.raises(OutputError, match=r"\.png, \.pdf or \.svg, got .*\.xyz"):
        curves.draw([run], tmp_path / "curves.xyz")
    monkeypatch.setattr(curves, "can_draw", lambda: False)
    with pytest.raises(MissingExtraError, match=r"fretsaw\[train\]"):
        curves.draw([run], tmp_path / "curves.png")
