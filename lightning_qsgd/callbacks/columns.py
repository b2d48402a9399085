"""Named columns from whatever ``predict_step`` returns.

Shapes: B rows of a batch, N rows in all, K columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_COLUMNS = 10_000
_WAY_OUT = (
    "predictions.csv takes tensors (rows, ...), a list with a text or a number for each row, and dicts or tuples of "
    "these. Return one of them, or switch the file off with --predictions.filename=null and write your own callback"
)
#: How far a row of probabilities may be from a sum of 1: rounding of 16-bit numbers, and of others.
_COARSE, _FINE = 0.02, 1e-4


@dataclass
class Part:
    """A tensor or list that was returned for a batch.

    Attributes:
        values: B of them: texts, numbers, or rows of numbers (B, ...).
        probable: whether the rows are class probabilities: numbers in [0, 1] with a sum of 1. Some may be NaN.
    """

    values: list[Any] | np.ndarray
    probable: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return self.values.shape[1:] if isinstance(self.values, np.ndarray) else ()


def parts_of(returned: Any, rows: int | None) -> dict[str, Part]:
    """What ``predict_step`` returned for a batch, by name.

    Args:
        returned: see :class:`PredictionWriter`.
        rows: B, where it is known.

    Raises:
        ValueError: if it has not one value or row of values for each row of the batch.
    """
    found: dict[str, Part] = {}
    _collect(returned, "", found)
    lengths = {len(part.values) for part in found.values()}
    if len(lengths) > 1 or (rows is not None and lengths != {rows}):
        of = "" if rows is None else f" for a batch of {rows} rows"
        sizes = ", ".join(f"{len(part.values)} in {name or 'it'}" for name, part in found.items())
        raise ValueError(f"predict_step returned {_described(returned)}{of}: {sizes or 'nothing in it'}. {_WAY_OUT}")
    return found


def _collect(value: Any, name: str, found: dict[str, Part]) -> None:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple):
        name = name if hasattr(value, "_fields") else name or "prediction"
        value = dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if inner is not None:  # as in a model's output without a loss
                _collect(inner, f"{name}_{key}" if name else str(key), found)
        return
    coarse, what = False, _described(value)
    if isinstance(value, Tensor):
        coarse = value.dtype in (torch.bfloat16, torch.float16)
        value = (value.to_dense() if value.layout != torch.strided else value).detach().cpu()
        value = (value.float() if coarse else value).numpy()
    elif isinstance(value, list):
        value = [item.item() if isinstance(item, Tensor) and item.ndim == 0 else item for item in value]
    where = f" in {name!r}" if name else ""
    if name in found:
        raise ValueError(f"predict_step returned two values {name!r}; rename a key")
    if isinstance(value, list) and all(isinstance(item, str | bool | int | float | None) for item in value):
        found[name] = Part(value)
    elif not isinstance(value, np.ndarray) or value.ndim == 0 or value.dtype.kind not in "biuf":
        raise ValueError(f"predict_step returned {what}{where}. {_WAY_OUT}")
    elif (size := math.prod(value.shape[1:])) > MAX_COLUMNS:
        raise ValueError(
            f"predict_step returned {what}{where}: {size:,} numbers for each row, and a table takes "
            f"{MAX_COLUMNS:,}. Reduce it, or switch the file off with --predictions.filename=null"
        )
    else:
        found[name] = Part(value, _are_probabilities(value, _COARSE if coarse else _FINE))


def _are_probabilities(numbers: np.ndarray, far: float) -> bool:
    if numbers.ndim != 2 or numbers.shape[1] < 2 or numbers.dtype.kind != "f":
        return False
    known = numbers[~np.isnan(numbers).all(1)]
    return bool((known >= -far).all() and (known <= 1 + far).all() and (abs(known.sum(1) - 1) <= far).all())


def _described(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        inside = [str(key) for key in value]
    else:
        inside = sorted({type(item).__name__ for item in value}) if isinstance(value, list | tuple) else []
    return f"{type(value).__name__}" + (f" of {', '.join(inside)}" if inside else "")


def joined(parts: Sequence[Part]) -> Part:
    """Those of all batches as one: N rows, probabilities only if they are so in each."""
    values: Any = [part.values for part in parts]
    lists = isinstance(values[0], list)
    together = [value for batch in values for value in batch] if lists else np.concatenate(values)
    return Part(together, all(part.probable for part in parts))


def columns_of(
    name: str, part: Part, labels: Sequence[str] | None, targets: Sequence[str] | None, every: bool
) -> dict[str, list[Any]]:
    """Columns of N values each.

    Args:
        name: of the part; "" for what was returned as a whole.
        part: of all rows.
        labels: names of the classes, or None.
        targets: names of the numbers of a row, or None.
        every: whether to give the probability of each class too.

    Raises:
        ValueError: if there are not as many labels as classes.
    """
    values, word = part.values, name or "prediction"
    if isinstance(values, list):
        texts = not name and all(isinstance(value, str) for value in values)
        return {"generated" if texts else word: values}
    if part.probable and not name:
        return _classes(values, labels, every)
    if values.ndim == 1:
        only = targets[0] if targets and len(targets) == 1 and not name else word
        columns = {only: _plain(values)}
        if not name and labels and values.dtype.kind in "iu" and 0 <= values.min() <= values.max() < len(labels):
            columns["label"] = [labels[k] for k in values.tolist()]
        return columns
    known = labels if part.probable else targets
    if values.ndim == 2 and known and len(known) == values.shape[1]:
        names = [f"{name}_{one}" if name else str(one) for one in known]
    else:
        names = ["_".join(map(str, (word, *index))) for index in np.ndindex(values.shape[1:])]
    return dict(zip(names, map(_plain, values.reshape(len(values), -1).T), strict=True))


def _classes(probabilities: np.ndarray, labels: Sequence[str] | None, every: bool) -> dict[str, list[Any]]:
    count = probabilities.shape[1]
    if labels and len(labels) != count:
        raise ValueError(
            f"predict_step returned probabilities of {count} classes, and the data module's labels are {len(labels)}: "
            f"{', '.join(map(str, labels[:8]))}; give it one for each class"
        )
    names: Sequence[Any] = labels or range(count)
    best = np.nan_to_num(probabilities).argmax(1)
    unknown = set(np.flatnonzero(np.isnan(probabilities).all(1)).tolist())
    label = ["" if i in unknown else names[k] for i, k in enumerate(best.tolist())]
    columns = {"label": label, "probability": _share(probabilities[np.arange(len(best)), best])}
    if every:
        columns |= {f"p({name})": _share(column) for name, column in zip(names, probabilities.T, strict=True)}
    return columns


def _share(column: np.ndarray) -> list[float]:
    return [round(value, 6) for value in column.tolist()]


def _plain(column: np.ndarray) -> list[Any]:
    """Numbers of Python, those of 32 bits with the digits that they have."""
    return [float(text) for text in column.astype(str)] if column.dtype == np.float32 else column.tolist()
