"""How numbers are printed in reports."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_qsgd.comparison.spec import Metric

NONE = "\u2013"  # where there is no number


@dataclass(frozen=True)
class Numbers:
    """Values and differences of one metric: two digits of a percent, or four digits of a plain number.

    Args:
        metric: decides the unit.
    """

    metric: Metric

    @property
    def factor(self) -> float:
        """What values are multiplied by."""
        return 100.0 if self.metric.unit == "%" else 1.0

    @property
    def unit(self) -> str:
        """Of differences."""
        return "points" if self.metric.unit == "%" else ""

    def value(self, x: float) -> str:
        """A value, without its unit."""
        return number(x * self.factor, ".2f" if self.metric.unit == "%" else ".4g")

    def difference(self, x: float) -> str:
        """A difference with its sign, without its unit; "+0.00" for none."""
        text = number(x * self.factor, "+.2f" if self.metric.unit == "%" else "+.3g")
        return "+0.00" if text == minus("-0.00") else text

    def size(self, x: float) -> str:
        """A difference's size, without its unit."""
        return self.difference(abs(x)).removeprefix("+")

    def interval(self, low: float, high: float) -> str:
        """An interval of differences; a dash where it is not known."""
        known = math.isfinite(low) and math.isfinite(high)
        return f"{self.difference(low)} to {self.difference(high)}" if known else NONE

    def spread(self, values: Sequence[float]) -> str:
        """Mean and sample standard deviation, as 91.20 +- 0.41; of one value, it alone."""
        if not values:
            return NONE
        middle = self.value(float(np.mean(values)))
        return f"{middle} \u00b1 {self.value(float(np.std(values, ddof=1)))}" if len(values) > 1 else middle

    def with_unit(self, text: str, *, difference: bool = False) -> str:
        """A printed number and its unit."""
        return f"{text} {self.unit if difference else self.metric.unit}".strip()


def number(x: float | None, form: str = ".3g") -> str:
    """A number; a dash for none, and the sign for infinity."""
    if x is None or math.isnan(x):
        return NONE
    if math.isinf(x):
        return "\u221e" if x > 0 else minus("-\u221e")
    return minus(f"{x:{form}}")


def minus(text: str) -> str:
    """Text in which numbers have a minus instead of a hyphen; "a - b" stays."""
    return re.sub(r"(?<!\S)-(?=[\d\u221e])", "\u2212", text)


def p_value(p: float) -> str:
    """Two digits; "< 0.0001" below that."""
    return "< 0.0001" if p < 1e-4 else number(p, ".2g" if p < 0.095 else ".2f")


def count(n: int, noun: str, thousands: bool = False) -> str:
    """A number of things, as "1 run" and "2 runs"; "2,000 runs" with ``thousands``."""
    return f"{f'{n:,}' if thousands else n} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def percent(share: float | None) -> str:
    """A share with two digits of a percent; a dash for none.

    What is not all and not nothing is not printed as if it were: "<0.01 %" and ">99.99 %". Below 1e-12 lie rounding
    errors.
    """
    if share is None or not math.isfinite(share):
        return number(share)
    share = 0.0 if abs(share) < 1e-12 else 1.0 if abs(1 - share) < 1e-12 else share
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if abs(share) < 1e-4:
        return "<0.01 %" if share > 0 else ">\u22120.01 %"
    return ">99.99 %" if 0.9999 < share < 1 else minus(f"{100 * share:,.{0 if abs(share) >= 10 else 2}f} %")
