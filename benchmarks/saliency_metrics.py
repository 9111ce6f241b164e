"""Time Fretsaw's metrics of soft maps against PySODMetrics', and compare every figure.

PySODMetrics lives in an environment of its own:

    python3 -m venv /tmp/pysod && /tmp/pysod/bin/pip install pysodmetrics==1.6.2
    python benchmarks/saliency_metrics.py /tmp/pysod PREDICTIONS TRUTHS --scale 1 --scale 3

PREDICTIONS and TRUTHS are folders of PNG files with the same names; in a truth, any channel above 0 is object. Both programs hold the images in memory and
measure the same image one after the other, round by round, so that what else the machine does falls on both alike. Each image counts with the median of its
rounds. OpenCV gets one thread on both sides unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
Scorer = Callable[[np.ndarray, np.ndarray], dict[str, float]]

WITHOUT_HCE = ("max F", "mean F", "adaptive F", "weighted F", "MAE", "S", "max E", "mean E", "adaptive E")


def read_pairs(predictions: Path, truths: Path, scale: float, limit: int | None) -> list[Pair]:
    """Return the (prediction, truth) pairs, both (H, W) uint8, enlarged by `scale`."""
    pairs = []
    for path in sorted(predictions.glob("*.png"))[:limit]:
        prediction, truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), cv2.imread(str(truths / path.name), cv2.IMREAD_COLOR)
        if prediction is None or truth is None:
            raise SystemExit(f"expected images {path} and {truths / path.name}")
        truth = np.where(truth.max(axis=2) > 0, 255, 0).astype(np.uint8)
        if scale != 1:
            prediction = cv2.resize(prediction, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            truth = cv2.resize(truth, (prediction.shape[1], prediction.shape[0]), interpolation=cv2.INTER_NEAREST)
        pairs.append((prediction, truth))
    return pairs


def fretsaw_scorer(hce: bool) -> Scorer:
    """Fretsaw's figures of one image."""
    from fretsaw.evaluation.auto import score

    names = ("HCE",) if hce else WITHOUT_HCE
    return lambda prediction, truth: score(prediction, truth, metrics=names)


def reference_scorer(hce: bool) -> Scorer:
    """PySODMetrics' figures of one image, with its defaults."""
    import py_sod_metrics as reference  # pyright: ignore[reportMissingImports]

    warnings.simplefilter("ignore")

    def run(metric, prediction: np.ndarray, truth: np.ndarray) -> dict:
        metric.step(pred=prediction, gt=truth)
        return metric.get_results()

    def without_hce(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        f = run(reference.Fmeasure(), prediction, truth)["fm"]
        e = run(reference.Emeasure(), prediction, truth)["em"]
        return {
            "max F": f["curve"].max(),
            "mean F": f["curve"].mean(),
            "adaptive F": f["adp"],
            "weighted F": run(reference.WeightedFmeasure(), prediction, truth)["wfm"],
            "MAE": run(reference.MAE(), prediction, truth)["mae"],
            "S": run(reference.Smeasure(), prediction, truth)["sm"],
            "max E": e["curve"].max(),
            "mean E": e["curve"].mean(),
            "adaptive E": e["adp"],
        }

    def only_hce(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        return {"HCE": run(reference.HumanCorrectionEffortMeasure(), prediction, truth)["hce"]}

    return only_hce if hce else without_hce


def timed(scorer: Scorer, pair: Pair) -> tuple[float, dict[str, float]]:
    """Return the seconds that one image took, and its figures."""
    start = time.perf_counter()
    values = scorer(*pair)
    return time.perf_counter() - start, {name: float(value) for name, value in values.items()}


def serve(arguments: argparse.Namespace) -> None:
    """Answer each index on standard input with the time and figures of that image, as JSON on one line."""
    pairs = read_pairs(arguments.predictions, arguments.truths, arguments.scale[0], arguments.limit)
    scorer = reference_scorer(arguments.hce)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(timed(scorer, pairs[int(line)])) + "\n")
        sys.stdout.flush()


def compare(arguments: argparse.Namespace, scale: float, hce: bool) -> str:
    """Measure one scale and return its row of the table."""
    pairs = read_pairs(arguments.predictions, arguments.truths, scale, arguments.limit)
    command = [str(arguments.environment / "bin" / "python"), __file__, str(arguments.environment), str(arguments.predictions), str(arguments.truths)]
    command += ["--serve", "--scale", str(scale), "--threads", str(arguments.threads), "--limit", str(len(pairs)), *(["--hce"] if hce else [])]
    scorer = fretsaw_scorer(hce)
    ours: list[list[float]] = [[] for _ in pairs]
    theirs: list[list[float]] = [[] for _ in pairs]
    difference = 0.0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for turn in range(arguments.rounds + 1):  # the first is for warming up
            for index, pair in enumerate(pairs):
                seconds, values = timed(scorer, pair)
                child.stdin.write(f"{index}\n")
                child.stdin.flush()
                their_seconds, their_values = json.loads(child.stdout.readline())
                difference = max([difference, *(abs(values[name] - their_values[name]) for name in values)])
                if turn:
                    ours[index].append(seconds)
                    theirs[index].append(their_seconds)
        child.stdin.close()
    mine, reference = [statistics.median(times) for times in ours], [statistics.median(times) for times in theirs]
    height, width = pairs[0][0].shape
    what = "HCE" if hce else "all but HCE"
    return (
        f"{what:<12} {len(pairs)} images of {width} x {height}: Fretsaw {1e3 * statistics.median(mine):8.2f} ms an image, "
        f"PySODMetrics {1e3 * statistics.median(reference):8.2f} ms, whole set {sum(reference) / sum(mine):5.1f} x faster, largest difference {difference:.1e}"
    )


def main() -> None:
    """Read the command line and print one row per scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", type=Path, help="folder of the environment that holds PySODMetrics")
    parser.add_argument("predictions", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("--scale", type=float, action="append", help="enlarge the images; may be repeated (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="take so many images only")
    parser.add_argument("--threads", type=int, default=1, help="OpenCV's threads on both sides")
    parser.add_argument("--hce", action="store_true", help="time HCE as well, apart from the rest")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.scale = arguments.scale or [1.0]
    cv2.setNumThreads(arguments.threads)
    if arguments.serve:
        serve(arguments)
        return
    for scale in arguments.scale:
        print(compare(arguments, scale, hce=False), flush=True)
        if arguments.hce:
            print(compare(arguments, scale, hce=True), flush=True)


if __name__ == "__main__":
    main()
