"""Early stopping and the best weights: the best validation so far, and the number of validations since it improved. Both are read back from the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fretsaw.training.loop import read_log


class BestSoFar:
    """Follows one figure of the validation. Lower is better.

    Args:
        folder: Of the run; its log says what earlier calls of the same run saw.
        keep: Called when the figure is the best so far, to store the model.
        figure: Name of the figure, as `validate` returns it.
        patience: Validations without improvement after which the run has had enough; 0 never has.
        halve_after: Validations without improvement after which the rate is halved; 0 keeps it.
        least_rate: Smallest factor on the rate.
    """

    def __init__(self, folder: Path, keep: Callable[[], None], figure: str = "loss", patience: int = 0, halve_after: int = 0, least_rate: float = 0.01) -> None:
        self._folder, self._keep, self._figure = folder, keep, figure
        self._patience, self._halve_after, self._least_rate = patience, halve_after, least_rate
        self._read = False
        self.best, self.stale, self.rate = float("inf"), 0, 1.0

    def enough(self) -> bool:
        """Return whether nothing has improved for `patience` validations."""
        self._catch_up()
        return bool(self._patience) and self.stale >= self._patience

    def see(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Record a validation's figures, store the model if they are the best so far, and return them."""
        self._catch_up()
        if self._take(figures[self._figure]):
            self._keep()
        return figures

    def factor(self) -> float:
        """Return the factor on the rate: halved whenever nothing improved for `halve_after` validations in a row."""
        self._catch_up()
        return self.rate

    def _catch_up(self) -> None:
        """Read the log when it is first needed: by then the loop has dropped the lines that the checkpoint does not cover."""
        if self._read:
            return
        self._read = True
        name = f"val/{self._figure}"
        if (self._folder / "log.jsonl").exists():
            for line in read_log(self._folder):
                if name in line:
                    self._take(line[name])

    def _take(self, value: float) -> bool:
        if value < self.best:
            self.best, self.stale = value, 0
            return True
        self.stale += 1
        if self._halve_after and self.stale % self._halve_after == 0:
            self.rate = max(self.rate / 2, self._least_rate)
        return False
