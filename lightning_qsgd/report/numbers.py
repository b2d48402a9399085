"""Format numbers and plain values."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

NONE = "\u2013"  # printed for a missing number
MINUS = "\u2212"


@dataclass(frozen=True)
class Numbers:
    """Formats values and differences of a metric: in percent with two decimals, or as plain numbers with four digits.

    Args:
        value_unit: "%" prints values times 100, and differences in percentage points; "" or None prints plain numbers.
    """

    value_unit: str | None

    @property
    def factor(self) -> float:
        """The factor of printed values, 100 or 1."""
        return 100.0 if self.value_unit == "%" else 1.0

    @property
    def unit(self) -> str:
        """The unit of differences, "points" or ""."""
        return "points" if self.value_unit == "%" else ""

    def value(self, x: float) -> str:
        """A value, without its unit."""
        return number(x * self.factor, ".2f" if self.value_unit == "%" else ".4g")

    def difference(self, x: float) -> str:
        """A difference with its sign, without its unit."""
        return number(x * self.factor, "+.2f" if self.value_unit == "%" else "+.3g")

    def size(self, x: float) -> str:
        """The size of a difference, without its unit."""
        return self.difference(abs(x)).removeprefix("+")

    def interval(self, low: float, high: float) -> str:
        """An interval of differences; a dash if it is unknown."""
        known = math.isfinite(low) and math.isfinite(high)
        return f"{self.difference(low)} to {self.difference(high)}" if known else NONE

    def spread(self, values: Sequence[float]) -> str:
        """Mean and sample standard deviation, such as 91.20 ± 0.41; a single value without deviation."""
        if not values:
            return NONE
        middle = self.value(float(np.mean(values)))
        return f"{middle} \u00b1 {self.value(float(np.std(values, ddof=1)))}" if len(values) > 1 else middle

    def with_unit(self, text: str, *, difference: bool = False) -> str:
        """A formatted number with its unit."""
        return f"{text} {(self.unit if difference else self.value_unit) or ''}".strip()

    def full(self, x: float) -> str:
        """A value with its unit."""
        return self.with_unit(self.value(x))

    def by(self, x: float) -> str:
        """A difference with its sign and unit."""
        return self.with_unit(self.difference(x), difference=True)

    def amount(self, x: float) -> str:
        """The size of a difference with its unit."""
        return self.with_unit(self.size(x), difference=True)


def unit_of(metric: str) -> str:
    """The unit of a metric's values, by its name: "%" for accuracies and F1, "" for others."""
    return "%" if "accuracy" in metric or "f1" in metric else ""


#: The last words of metrics whose higher or lower values are better.
_DIRECTIONS: dict[Literal["max", "min"], str] = {
    "max": r"accuracy|acc|precision|recall|f1|auroc|auc|r2|skill",
    "min": r"loss|nll|perplexity|mse|rmse|mae|error",
}


def direction_of(metric: str) -> Literal["max", "min"] | None:
    """Whether higher ("max") or lower ("min") values of a metric are better, by its last word; None if unknown."""
    for mode, words in _DIRECTIONS.items():
        if re.search(rf"(?:^|[^a-z0-9])(?:{words})(?:_epoch)?$", metric.lower()):
            return mode
    return None


def check_direction(name: str, mode: str, metric: str) -> None:
    """Refuse a direction that the metric does not have.

    Args:
        name: name of the option, for the error.
        mode: "max" or "min".
        metric: name of the metric.

    Raises:
        ValueError: if the metric is known to be better in the other direction.
    """
    if (known := direction_of(metric)) not in (None, mode):
        better = "higher" if known == "max" else "lower"
        raise ValueError(f"Invalid {name}: {mode!r}; {better} {metric} is better: set {name} to {known}")


def number(x: float | None, form: str = ".3g") -> str:
    """Format a number: a dash for None and NaN, a sign for infinity, and no minus for numbers that round to zero."""
    if x is None or math.isnan(x):
        return NONE
    text = "\u221e" if math.isinf(x) else f"{abs(x):{form.lstrip('+')}}"
    if not re.search(r"[1-9\u221e]", text):
        return text
    return f"{MINUS if x < 0 else '+' if form.startswith('+') else ''}{text}"


def p_value(p: float) -> str:
    """Format a p-value with two digits, or as "< 0.0001"."""
    return "< 0.0001" if p < 1e-4 else number(p, ".2g" if p < 0.095 else ".2f")


def count(n: int, noun: str) -> str:
    """A number with a noun, such as "1 run" or "2,000 runs"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def percent(share: float | None) -> str:
    """Format a share in percent with two decimals; a dash for None.

    Shares near 0 and 1 are printed as "<0.01 %" and ">99.99 %". Differences below 1e-12 are rounding errors.
    """
    if share is None or not math.isfinite(share):
        return number(share)
    share = 0.0 if abs(share) < 1e-12 else 1.0 if abs(1 - share) < 1e-12 else share
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if abs(share) < 1e-4:
        return "<0.01 %" if share > 0 else f">{MINUS}0.01 %"
    return ">99.99 %" if 0.9999 < share < 1 else f"{number(100 * share, ',.0f' if abs(share) >= 10 else ',.2f')} %"


def duration(seconds: float) -> str:
    """Format seconds: "40 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plain(value: Any) -> str:
    """Format a setting: "yes" for True, "1 to 10" for consecutive integers, names and values for a mapping."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        items = list(value)
        steps = np.diff(items) if len(items) > 2 and all(type(item) is int for item in items) else np.zeros(1)
        return f"{items[0]} to {items[-1]}" if (steps == 1).all() else ", ".join(map(plain, items)) or NONE
    return number(value, "g") if isinstance(value, float) else NONE if value is None else str(value)
