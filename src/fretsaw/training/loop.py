"""The training loop. It runs the step of any recipe, and continues a killed run from its folder; it knows no method.

A run is a pure function of its seed: batch number i is made from (seed, i), so a resumed run sees the batches that the uninterrupted one would have
seen and comes to the same losses.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError, DataError, OutputError
from fretsaw.images import write_bytes
from fretsaw.ownership import own
from fretsaw.training.processes import ONE, Processes

Step = Callable[[Any, int], Mapping[str, Tensor]]
"""Maps (batch, step number) to scalars. "loss" is minimised; the others are logged."""


class Watcher(Protocol):
    """Receives a run's progress; the command line draws its progress bar with one."""

    def advance(self, note: str = "") -> None: ...


def resumed(watcher: Watcher | None, steps: int) -> None:
    """Tell a watcher how many steps an interrupted run has made already, if it counts them."""
    if (skip := getattr(watcher, "skip", None)) is not None and steps:
        skip(steps)


def say(watcher: Watcher | None, text: str) -> None:
    """Print a line by the watcher, if it prints lines."""
    if (speak := getattr(watcher, "say", None)) is not None:
        speak(text)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate factor over steps: linear warm-up, then one of the decays below.

    Attributes:
        steps: Number of steps in all.
        warmup: Steps of linear warm-up from `start`.
        start: Factor at step 0.
        decay: Maps the part of the way after warm-up, [0, 1], to a factor.
    """

    steps: int
    warmup: int = 0
    start: float = 0.01
    decay: Callable[[float], float] = lambda way: 1.0

    def factor(self, step: int) -> float:
        """The factor for step number `step`."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        return self.decay(min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup)))


def cosine(way: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * way))


def linear(way: float) -> float:
    """From 1 to 0 along a line: polynomial decay of power 1."""
    return 1 - way


def fit(
    model: nn.Module,
    step: Step,
    batches: Callable[[int], Iterable[Any]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int = 0,
    clip_norm: float | None = 1.0,
    save_every: float = 120.0,
    log_every: int = 20,
    minutes: float | None = None,
    watcher: Watcher | None = None,
    validate: Callable[[int], Mapping[str, float]] | None = None,
    validate_every: int = 0,
    enough: Callable[[], bool] = lambda: False,
    processes: Processes = ONE,
) -> int:
    """Train until the schedule ends, continuing what lies in `folder`.

    Args:
        model: What is trained; its parameters that need gradients are the optimizer's.
        step: Computes the losses of a batch.
        batches: Called once with the number of the first step to make; yields that step's batch, then the next, without end.
        optimizer: Its groups' learning rates are the peaks; the schedule scales them.
        schedule: Length and shape of the run.
        folder: Holds `checkpoint.pt` and `log.jsonl`.
        seed: Seeds torch before every step together with the step's number, for dropout and whatever a step draws.
        clip_norm: Largest gradient norm, or None.
        save_every: Seconds between checkpoints.
        log_every: Steps between two lines of the log; each line holds the means since the last.
        minutes: Stop after so long, with a checkpoint; None trains to the end.
        watcher: Told after every step.
        validate: Returns figures for the log; called every `validate_every` steps and at the end.
        validate_every: 0 validates at the end only.
        processes: Those that share the work; the first one alone writes, validates and is watched.
        enough: Asked before the first step and after every validation; true ends the run early.

    Returns:
        The number of steps made in all; the schedule's number when the run is complete.

    Raises:
        BusyError: If another run trains in `folder`; the message names it.
        OutputError: If `folder` cannot be written.
        ConfigError: If the checkpoint in `folder` belongs to another network or another schedule.
        DataError: If the batches end before the schedule, or a loss is not finite.
    """
    chief = processes.rank == 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"expected a folder for the run at {folder}, got: {error.strerror}") from error
    # Only the first of several processes writes, so only it owns the folder.
    with own(folder, "a training run", ".fit") if chief else nullcontext():
        done = _resume(folder, model, optimizer, schedule)
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
        processes.wait()
        if chief:
            resumed(watcher, done)
            for left in folder.glob(".checkpoint.*.tmp"):  # by a kill
                left.unlink(missing_ok=True)
            _cut_log(folder, done)
        started = saved = time.monotonic()
        totals: dict[str, float] = {}
        counted = 0
        stream = iter(batches(done))
        stopped = processes.agree(enough())
        while done < schedule.steps and not stopped:
            at_line = done % log_every == 0  # only here, so that every line of the log is a mean over the same steps, resumed or not
            if minutes is not None and at_line and processes.agree(time.monotonic() - started > 60 * minutes):
                break
            if at_line and chief and time.monotonic() - saved > save_every:
                save_checkpoint(folder, model, optimizer, schedule, done)
                saved = time.monotonic()
            batch = next(stream, None)
            if batch is None:
                raise DataError(f"expected batches without end, got none for step {done} of {schedule.steps}")
            # Every process has random numbers of its own. Those of the first one are the same as in a run of one process.
            torch.manual_seed(hash((seed, done) if chief else (seed, done, processes.rank)) % 2**31)  # pyright: ignore[reportUnknownMemberType]
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule.factor(done)
            losses = _learn(step, batch, done, optimizer, clip_norm, processes, folder)
            done, counted = done + 1, counted + 1
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(processes.mean(value.detach()))
            means = {name: total / counted for name, total in totals.items()}
            if watcher is not None and chief:
                watcher.advance(f"loss {means['loss']:.4f}")
            if done % log_every == 0 or done == schedule.steps:
                if chief:
                    _log(folder, {"step": done, "seconds": round(time.monotonic() - started, 1), "lr": optimizer.param_groups[0]["lr"], **means})
                totals, counted = {}, 0
            if validate is not None and (done == schedule.steps or (validate_every and done % validate_every == 0)):
                if chief:
                    _log(folder, {"step": done, **{f"val/{name}": value for name, value in validate(done).items()}})
                stopped = processes.agree(enough())
        if chief:
            save_checkpoint(folder, model, optimizer, schedule, done)
        processes.wait()
        return done


def _learn(
    step: Step, batch: Any, done: int, optimizer: torch.optim.Optimizer, clip_norm: float | None, processes: Processes, folder: Path
) -> Mapping[str, Tensor]:
    """Make one step and return its losses."""
    optimizer.zero_grad(set_to_none=True)
    losses = step(batch, done)
    loss = losses["loss"]
    if not torch.isfinite(loss):
        raise DataError(f"expected a finite loss, got {loss.item()} at step {done}; the checkpoint before it is kept in {folder}")
    processes.backward(loss)
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()
    return losses


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, done: int) -> None:
    """Write `checkpoint.pt` atomically: trained parameters and buffers, the optimizer and the number of steps made. It is on the disk when this returns.

    Raises:
        OutputError: If it cannot be written; the checkpoint before it is kept.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "steps": done,
        "schedule_steps": schedule.steps,
    }
    temporary = folder / f".checkpoint.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / "checkpoint.pt")
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        raise OutputError(f"expected to write {folder / 'checkpoint.pt'}, got: {str(error).splitlines()[0]}; the checkpoint before it is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the log's lines. A line that cannot be read, for example because a kill cut it short, is left out."""
    lines: list[dict[str, float]] = []
    for text in (folder / "log.jsonl").read_text(errors="replace").splitlines():
        try:
            line: Any = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(cast("dict[str, Any]", line).get("step"), int):
            lines.append(cast("dict[str, float]", line))
    return lines


def _resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        steps, _ = int(state["steps"]), (state["schedule_steps"], state["model"], state["optimizer"])
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"expected the checkpoint of a training run at {path}, got a damaged or another file; move it away to start anew") from error
    if state["schedule_steps"] != schedule.steps:
        raise ConfigError(f"expected to continue a run of {state['schedule_steps']} steps in {folder}, got {schedule.steps}; use another folder")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"expected the checkpoint of this network in {folder}, got another one: {str(error).splitlines()[0]}; use another folder") from error
    return steps


def _cut_log(folder: Path, steps: int) -> None:
    """Drop the log's lines after the checkpoint, because their steps are made again."""
    path = folder / "log.jsonl"
    if path.exists():
        kept = [line for line in read_log(folder) if line["step"] <= steps]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())  # atomic: a kill loses no line


def _log(folder: Path, line: Mapping[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
