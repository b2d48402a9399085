"""Check the times of a series: that they increase, and by equal steps."""

import calendar
import math
import re
from collections import Counter
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.datamodules.frames import Frame, is_missing, number

_MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])")
_FORMS = "numbers, or dates such as 2024-05-31, 2024-05 or 2024-05-31T14:30"


def check_times(frame: Frame, column: str) -> None:
    """Check that the times in a column increase, and warn if their steps are unequal.

    Times are numbers or dates. Steps of whole months are equal if the dates are on the same day of the month or all on
    the month's last day.

    Raises:
        ValueError: for a value that is no time, mixed kinds, and times that do not increase, with their lines.
    """
    times = [_time(value) for value in frame.columns[column]]
    if wrong := [i for i, time in enumerate(times) if time is None]:
        value = frame.columns[column][wrong[0]]
        raise ValueError(f"{frame.at(wrong)}: {column!r} is not a time: {value!r}; write {_FORMS}")
    zones = {time.tzinfo is None for time in times if isinstance(time, datetime)}
    if len({type(time) for time in times}) > 1 or len(zones) > 1:
        raise ValueError(
            f"{frame.name}: {column!r} holds numbers and dates, or dates with and without zone; write one kind"
        )
    known: list[Any] = times
    if back := [i for i in range(1, len(known)) if known[i] <= known[i - 1]]:
        values = frame.columns[column]
        raise ValueError(
            f"{frame.at(back)}: {column!r} does not increase: {values[back[0]]} follows {values[back[0] - 1]}; sort "
            "the rows, keep one for each time, and write times of places with summer time in UTC"
        )
    steps = _steps(known)
    counts = Counter(steps)
    usual, often = counts.most_common(1)[0] if counts else (None, 0)
    if other := [i + 1 for i, step in enumerate(steps) if step != usual]:
        rank_zero_warn(
            f"{frame.at(other)}: the step of {column!r} differs from the usual {usual} ({often} of {len(steps)} "
            "steps); windows are rows one after another, whatever time lies between"
        )


def _time(value: Any) -> float | datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if is_missing(value):
        return None
    found = number(value)
    if found is not None:
        return found if np.isfinite(found) else None
    text = str(value).strip()
    try:
        return datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    except ValueError:
        return None


def _steps(times: list[Any]) -> list[Any]:
    """Steps between times: numbers rounded to 12 digits of the greatest one, whole months, or durations."""
    if times and isinstance(times[0], datetime):
        months = [12 * time.year + time.month for time in times]
        at = {(time.day, time.time()) for time in times}
        ends = all(time.day == calendar.monthrange(time.year, time.month)[1] for time in times)
        if len(set(months)) == len(months) and (len(at) == 1 or (ends and len({time.time() for time in times}) == 1)):
            return [f"{after - before} months" for before, after in pairwise(months)]
        return [after - before for before, after in pairwise(times)]
    steps = np.diff(np.array(times, dtype=np.float64))
    digits = 12 - math.ceil(math.log10(max(np.abs(times).max(initial=0), 1e-100)))
    return np.round(steps, digits).tolist()
