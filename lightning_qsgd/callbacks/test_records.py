"""What a test keeps of its rows, in bounded memory, and the tables made of it.

Shapes: B rows of a batch, C classes, K targets, N tested rows.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from lightning_qsgd.callbacks.test_outputs import Numbers, Scores

BINS = 15  # of confidence (Guo et al. 2017)
FEW = 10  # examples: below this many a class is told to have only few
MISTAKES, PICTURES = 50, 16  # rows of mistakes.csv, pictures of mistakes.png
POINTS, LATEST = 2000, 200  # rows in predicted.png and in forecast.png
SHOWN = 4  # targets in a picture

#: Where a row stands: (loader, rank, number). A rank's number is 0 if the row's number comes from its batch.
Place = tuple[int, int, int]


class Least:
    """The rows with the least keys, in the order of the keys.

    Args:
        limit: the number of rows kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[Any, Any]] = []

    def add(self, keys: Sequence[Any], row: Callable[[int], Any]) -> None:
        """Add rows by their keys; ``row(i)`` is asked only for the row of ``keys[i]`` that is kept."""
        last = self._kept[-1][0] if len(self._kept) == self._limit else None
        new = heapq.nsmallest(self._limit, ((key, i) for i, key in enumerate(keys) if last is None or key < last))
        if new:
            kept = [*self._kept, *((key, row(i)) for key, i in new)]
            self._kept = sorted(kept, key=lambda entry: entry[0])[: self._limit]

    def merge(self, other: "Least") -> None:
        """Add the rows of another one."""
        self.add([key for key, _ in other._kept], lambda i: other._kept[i][1])

    @property
    def rows(self) -> list[Any]:
        """The kept rows."""
        return [row for _, row in self._kept]


class Moments:
    """Count, mean and squared deviations of K columns, summed in float64 without cancellation (Chan et al. 1979)."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean, self.squares = np.zeros(columns), np.zeros(columns)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add rows (B, K)."""
        other = Moments(values.shape[1])
        if len(values):
            other.count, other.mean = len(values), values.mean(0)
            other.squares = ((values - other.mean) ** 2).sum(0)
        self.merge(other)

    def merge(self, other: "Moments") -> None:
        """Add the rows of another one."""
        if not other.count:
            return
        count = self.count + other.count
        shift = other.mean - self.mean
        self.squares = self.squares + other.squares + shift**2 * (self.count * other.count / count)
        self.mean = self.mean + shift * (other.count / count)
        self.count = count

    @property
    def mean_square(self) -> NDArray[np.float64]:
        """Means (K,) of the squared values."""
        return self.squares / self.count + self.mean**2


class ClassRecord:
    """What a test keeps of a classifier.

    Args:
        num_classes: C.

    Attributes:
        confusion: counts (C, C), true class by predicted class.
        confident: whether the module returned probabilities; then there are bins and mistakes.
        bins: (3, 15): rows, correct rows and the sum of confidences, by confidence.
        invalid: number of rows whose probabilities are NaN.
        mistakes: the 50 most confident mistakes, dicts of what the batch knows, true, predicted and probability.
        pictures: pairs of such a dict and its image (C, H, W), of the 16 most confident mistakes with an image.
    """

    def __init__(self, num_classes: int, confident: bool) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.confident = confident
        self.bins, self.invalid = np.zeros((3, BINS)), 0
        self.mistakes, self.pictures = Least(MISTAKES), Least(PICTURES)

    def add(self, found: Scores, places: Sequence[Place], known: dict[str, list[Any]], images: Tensor | None) -> None:
        """Add a batch.

        Args:
            found: scores and labels of B rows.
            places: their B places.
            known: columns of the B rows, such as ids.
            images: (B, ...), or None.
        """
        classes = len(self.confusion)
        labels = found.labels.cpu()
        scores = found.scores.cpu()
        predicted = scores.argmax(-1) if self.confident else scores
        counts = torch.bincount(labels * classes + predicted, minlength=classes**2)
        self.confusion += counts.view(classes, classes).numpy()
        if not self.confident:
            return
        confidence, right = scores.gather(1, predicted[:, None])[:, 0], labels == predicted
        valid = ~scores.isnan().any(1)
        self.invalid += int((~valid).sum())
        # Half-open bins, as in torchmetrics, but with 1 in the last one rather than in a sixteenth
        place = torch.bucketize(confidence[valid], torch.linspace(0, 1, BINS + 1), right=True).clamp(1, BINS) - 1
        for row, values in enumerate((torch.ones(len(place)), right[valid], confidence[valid])):
            self.bins[row] += torch.bincount(place, values.double(), minlength=BINS).numpy()
        wrong = (valid & ~right).nonzero()[:, 0].tolist()

        def mistake(i: int) -> dict[str, Any]:
            row = wrong[i]
            values = {name: column[row] for name, column in known.items()}
            values |= {"true": int(labels[row]), "predicted": int(predicted[row])}
            return values | {"probability": float(confidence[row])}

        keys = [(-float(confidence[row]), places[row]) for row in wrong]
        self.mistakes.add(keys, mistake)
        if images is not None:
            self.pictures.add(keys, lambda i: (mistake(i), images[wrong[i]].detach().float().cpu().clone()))

    def merge(self, other: "ClassRecord") -> None:
        """Add what another rank kept."""
        self.confusion += other.confusion
        self.bins, self.invalid = self.bins + other.bins, self.invalid + other.invalid
        self.mistakes.merge(other.mistakes)
        self.pictures.merge(other.pictures)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1]; NaN if a probability is NaN."""
        rows, right, confidence = self.bins
        return float(np.abs(right - confidence).sum() / rows.sum()) if not self.invalid and rows.sum() else float("nan")

    def table(self, names: Sequence[Any]) -> list[dict[str, Any]]:
        """A row for each class, lowest F1 first; see :class:`TestReport`."""
        rows = []
        for name, examples, predicted, correct in zip(
            names, self.confusion.sum(1), self.confusion.sum(0), self.confusion.diagonal(), strict=True
        ):
            row = {"label": name, "examples": int(examples), "predicted": int(predicted), "correct": int(correct)}
            row |= _proportion("precision", correct, predicted if examples else 0)
            row |= _proportion("recall", correct, examples)
            row["f1"] = float(2 * correct / (examples + predicted)) if examples else None
            rows.append(row | {"note": _note(examples, predicted)})
        return sorted(rows, key=lambda row: 2.0 if row["f1"] is None else row["f1"])


class NumberRecord:
    """What a test keeps of predicted numbers.

    Args:
        names: names of the K targets.
        has_persistence: whether each row comes with the last observed values.

    Attributes:
        rows: N.
        errors, targets, persistence: moments of predicted - true, of true, and of persistence - true (or None).
        absolute: sums (K,) of the errors' sizes.
        invalid: number of rows (K,) with a value that is NaN or infinite.
        sample: up to 2,000 rows (2, K'), predicted and true, of the first 4 targets; the same for any number of ranks.
        latest: up to 200 rows (2 or 3, K), predicted, true and persistence, the last one first.
    """

    def __init__(self, names: Sequence[str], has_persistence: bool) -> None:
        self.names = list(names)
        count = len(self.names)
        self.errors, self.targets = Moments(count), Moments(count)
        self.persistence = Moments(count) if has_persistence else None
        self.absolute, self.invalid = np.zeros(count), np.zeros(count, np.int64)
        self.sample, self.latest = Least(POINTS), Least(LATEST)

    @property
    def rows(self) -> int:
        """N."""
        return self.errors.count

    def add(self, found: Numbers, places: Sequence[Place]) -> None:
        """Add a batch, with the places of its rows."""
        parts = [found.predictions, found.targets]
        with np.errstate(invalid="ignore", over="ignore"):
            errors = found.predictions - found.targets
            self.errors.add(errors)
            self.targets.add(found.targets)
            self.absolute += np.abs(errors).sum(0)
            if self.persistence is not None:
                assert found.persistence is not None
                self.persistence.add(found.persistence - found.targets)
                parts.append(found.persistence)
        together = np.stack(parts, 1)
        self.invalid += (~np.isfinite(together)).any(1).sum(0)
        # A multiplicative hash of the number (Knuth) draws the same rows on any number of ranks.
        draws = [(number * 2654435761 % 2**32, (loader, rank, number)) for loader, rank, number in places]
        self.sample.add(draws, lambda i: together[i, :2, :SHOWN].copy())
        backwards = [(-loader, -rank, -number) for loader, rank, number in places]
        self.latest.add(backwards, lambda i: together[i].copy())

    def merge(self, other: "NumberRecord") -> None:
        """Add what another rank kept."""
        with np.errstate(invalid="ignore", over="ignore"):
            self.errors.merge(other.errors)
            self.targets.merge(other.targets)
            if self.persistence is not None and other.persistence is not None:
                self.persistence.merge(other.persistence)
        self.absolute, self.invalid = self.absolute + other.absolute, self.invalid + other.invalid
        self.sample.merge(other.sample)
        self.latest.merge(other.latest)

    def table(self) -> list[dict[str, Any]]:
        """A row for each target, in their order; see :class:`TestReport`."""
        with np.errstate(invalid="ignore", over="ignore"):
            mse, spread = self.errors.mean_square, np.sqrt(self.errors.squares / self.rows)
            around = self.targets.squares / self.rows
            around = np.where(around <= (1e-14 * self.targets.mean) ** 2, 0, around)  # all equal, but for rounding
            naive = None if self.persistence is None else self.persistence.mean_square
        columns: dict[str, list[Any]] = {
            "target": self.names,
            "rows": [self.rows] * len(self.names),
            "mse": mse.tolist(),
            "mae": (self.absolute / self.rows).tolist(),
            "r2": [_one_minus(a, b) for a, b in zip(mse, around, strict=True)],
            "bias": self.errors.mean.tolist(),
            "residual_sd": spread.tolist(),
        }
        if naive is not None:
            columns["skill"] = [_one_minus(a, b) for a, b in zip(mse, naive, strict=True)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion."""
    found = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _proportion(name: str, successes: int, trials: int) -> dict[str, float | None]:
    low, high = interval(successes, trials) if trials else (None, None)
    return {name: float(successes / trials) if trials else None, f"{name}_low": low, f"{name}_high": high}


def _note(examples: int, predicted: int) -> str:
    few = {0: "no examples", 1: "one example"}.get(int(examples), f"only {examples} examples" if examples < FEW else "")
    return ", ".join(filter(None, (few, "" if predicted or not examples else "never predicted")))


def _one_minus(part: float, whole: float) -> float | None:
    """1 - part / whole; None where it is undefined because the whole is 0."""
    return None if whole == 0 else float(1 - part / whole)
