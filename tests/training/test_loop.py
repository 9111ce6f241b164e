"""The training loop: resumes to the same losses, keeps a killed run's work, refuses what does not belong to it."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from torch import nn

from fretsaw.cli.progress import Steps
from fretsaw.errors import BusyError, ConfigError, DataError, OutputError
from fretsaw.training import loop
from fretsaw.training.loop import Schedule, cosine, fit, linear, read_log, save_checkpoint


def parts():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def batch(index: int):
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(16, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def batches(first: int):
    return (batch(i) for i in itertools.count(first))


def step_of(model):
    return lambda data, done: {"loss": nn.functional.mse_loss(model(data[0]), data[1])}


def run(folder, steps=60, **options):
    model, optimizer = parts()
    done = fit(model, step_of(model), batches, optimizer, Schedule(steps, warmup=10, decay=cosine), folder, log_every=10, **options)
    return model, done


def cut_short(folder):
    """A run of 60 steps that is killed after 30."""
    model, optimizer = parts()

    def stops(first):
        for i in range(first, 30):
            yield batch(i)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, step_of(model), stops, optimizer, Schedule(60, 10, decay=cosine), folder, log_every=10, save_every=0)


def test_training_learns(tmp_path):
    run(tmp_path, 300)
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]


def test_an_interrupted_run_comes_to_the_same_losses_and_weights(tmp_path):
    whole, _ = run(tmp_path / "whole")
    cut_short(tmp_path / "cut")
    resumed, done = run(tmp_path / "cut")
    assert done == 60
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = run(tmp_path)
    again, done = run(tmp_path)
    assert done == 60
    assert torch.equal(first[0].weight, again[0].weight)


def test_a_budget_stops_with_a_checkpoint(tmp_path):
    _, done = run(tmp_path, minutes=0)
    assert done == 0
    assert (tmp_path / "checkpoint.pt").exists()


def test_what_counts_steps_counts_those_of_the_interrupted_run_too(tmp_path, capsys):
    cut_short(tmp_path)
    with Steps(60, "steps") as steps:
        run(tmp_path, watcher=steps)
    said = capsys.readouterr().err
    assert "going on after 30 of 60 steps" in said
    assert "steps: 60/60" in said


def test_validation_lands_in_the_log(tmp_path):
    run(tmp_path, validate=lambda done: {"score": done / 100}, validate_every=25)
    assert [line["val/score"] for line in read_log(tmp_path) if "val/score" in line] == [0.25, 0.5, 0.6]


def test_another_network_or_schedule_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="expected to continue a run of 60 steps"):
        run(tmp_path, 70)
    model = nn.Linear(4, 1)
    with pytest.raises(ConfigError, match="expected the checkpoint of this network"):
        fit(model, step_of(model), batches, torch.optim.AdamW(model.parameters()), Schedule(60), tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(tmp_path):
    model, optimizer = parts()
    with pytest.raises(DataError, match="finite loss, got nan at step 3"):
        fit(model, lambda data, done: {"loss": model(data[0]).sum() * (float("nan") if done == 3 else 1)}, batches, optimizer, Schedule(9), tmp_path)


def test_batches_that_end_early_are_said(tmp_path):
    model, optimizer = parts()
    with pytest.raises(DataError, match="none for step 5 of 60"):
        fit(model, step_of(model), lambda first: map(batch, range(first, 5)), optimizer, Schedule(60), tmp_path)


def test_schedule_shapes():
    schedule = Schedule(110, warmup=10, start=0.0, decay=linear)
    assert [schedule.factor(i) for i in (0, 5, 10, 60, 110)] == [0, 0.5, 1, 0.5, 0]
    assert cosine(0) == 1
    assert cosine(0.5) == pytest.approx(0.5)


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(tmp_path):
    """One step of plain descent at rate 1 moves the weights by the gradient itself, so its length is the gradient's norm."""
    moved, x = {}, torch.tensor([[3.0, 4.0, 0.0]])  # the gradient of the sum is x itself, of norm 5
    for norm in (0.5, 2.0, None):
        model = nn.Linear(3, 1, bias=False)
        before = model.weight.detach().clone()
        fit(
            model,
            lambda data, done, model=model: {"loss": model(data).sum()},
            lambda first: itertools.repeat(x),
            torch.optim.SGD(model.parameters(), lr=1.0),
            Schedule(1),
            tmp_path / str(norm),
            clip_norm=norm,
        )
        moved[norm] = (before - model.weight).norm().item()
    assert moved == pytest.approx({0.5: 0.5, 2.0: 2.0, None: 5.0}, rel=1e-5)


def test_the_log_holds_every_step_once_when_the_checkpoint_is_older_than_the_log(tmp_path, monkeypatch):
    """A kill between two checkpoints: the steps after the last one are made again, and what the log said of them goes."""
    run(tmp_path / "whole", validate=lambda done: {"score": done}, validate_every=10)
    model, optimizer = parts()
    saved = []

    def stops(first):
        for i in range(first, 45):
            yield batch(i)
        raise KeyboardInterrupt

    def once(*arguments):
        if not saved:
            saved.append(arguments[-1])
            save_checkpoint(*arguments)

    monkeypatch.setattr(loop, "save_checkpoint", once)
    options = {"log_every": 10, "save_every": 0, "validate": lambda done: {"score": done}, "validate_every": 10}
    with pytest.raises(KeyboardInterrupt):
        fit(model, step_of(model), stops, optimizer, Schedule(60, 10, decay=cosine), tmp_path / "cut", **options)
    monkeypatch.undo()
    assert saved[0] < read_log(tmp_path / "cut")[-1]["step"] == 40
    (tmp_path / "cut" / "log.jsonl").open("a").write('{"step": 5')  # and a line that the kill cut short
    run(tmp_path / "cut", validate=lambda done: {"score": done}, validate_every=10)
    logs = [[{key: value for key, value in line.items() if key != "seconds"} for line in read_log(tmp_path / name)] for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert (tmp_path / "cut" / "log.jsonl").read_text().count("\n") == len(logs[0])


def test_a_folder_in_which_a_run_trains_is_refused_and_the_runner_named(tmp_path):
    model, optimizer = parts()

    def second(first):
        with pytest.raises(BusyError, match=f"a training run \\(process {os.getpid()} on "):
            run(tmp_path)
        return batches(first)

    fit(model, step_of(model), second, optimizer, Schedule(5), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "log.jsonl"}


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", "truncated", "other"])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, content):
    run(tmp_path, 20)
    path = tmp_path / "checkpoint.pt"
    if content == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes(path.read_bytes()[:-500] if content == "truncated" else content)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="expected the checkpoint of a training run") as refusal:
        run(tmp_path, 20)
    assert str(path) in str(refusal.value)
    assert path.read_bytes() == before


def test_a_full_disk_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    run(tmp_path, 20, minutes=0)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*arguments):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="the checkpoint before it is kept") as refusal:
        run(tmp_path, 20)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".checkpoint*"))


@pytest.mark.parametrize("line", ["3", "[1]", "null", '{"loss": 1}', '{"step": "x"}', '{"step"', "\ufffd"])
def test_a_line_that_is_none_of_a_log_is_left_out(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]
