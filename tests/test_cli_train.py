"""`fretsaw train`: settings are read by type, and mistakes are said before anything runs."""

from __future__ import annotations

import pytest

import fretsaw.recipes.hrsam_lite.run as hrsam_lite
from fretsaw import cli
from fretsaw.cli.train import configure
from fretsaw.errors import ConfigError
from fretsaw.recipes.hrsam_lite.run import Config


def test_values_are_read_as_the_fields_type():
    config = configure(Config, ["photos=a,b", "out=run", "steps=12", "rate=3e-4", "map_weights=1,0.5,0"])
    assert (config.photos, config.steps, config.rate, config.map_weights) == ("a,b", 12, 3e-4, (1.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["photos=a", "out=b", "stepps=3"], "did you mean steps"),
        (["photos=a", "out=b", "steps=many"], "setting steps: .*'many'"),
        (["photos"], "expected KEY=VALUE"),
        (["photos=a"], "setting out"),
    ],
)
def test_mistakes_are_said(settings, message):
    with pytest.raises(ConfigError, match=message):
        configure(Config, settings)


def test_show_prints_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "hrsam_lite", "--show"])
    assert not stop.value.code
    assert "steps = 20000" in capsys.readouterr().out


def test_unknown_recipe_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "fretsaw_tini"])
    assert "did you mean fretsaw_tiny?" in capsys.readouterr().err


def test_a_run_ends_with_its_curves(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="pictures need the extra train")

    def run(config, watcher):
        (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
        return 2

    monkeypatch.setattr(hrsam_lite, "run", run)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "hrsam_lite", "--set", "photos=p", "--set", f"out={tmp_path}"])
    assert not stop.value.code
    assert (tmp_path / "curves.png").stat().st_size > 1000
