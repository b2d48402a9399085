"""Findings as JSON, and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lightning_qsgd.files import atomic_write

FORMAT = 1
T = TypeVar("T")


def save_findings(findings: Mapping[str, Any], path: Path) -> None:
    """Write findings, completely or not at all; numbers that are not finite become null.

    Args:
        findings: dataclasses of plain values, by key.
        path: of the file.

    Raises:
        OSError: if it cannot be written.
    """
    plain = {key: _finite(asdict(found)) for key, found in findings.items()}
    with atomic_write(path) as file:
        json.dump({"format": FORMAT, "findings": plain}, file, indent=1, allow_nan=False)
        file.write("\n")


def load_findings(path: str | Path, key: str, kind: type[T]) -> T:
    """Read one of the findings that :func:`save_findings` wrote.

    Args:
        path: of the file.
        key: which one.
        kind: its class.

    Returns:
        The findings; where a number was not finite, it is NaN.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {path}; make one with: lightning-qsgd audit --config FILE")
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise ValueError("its format is another version's")
        return _read(kind, values["findings"][key])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has no {kind.__name__} called {key!r}: {error!r}; run the audit again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: Any, value: Any) -> Any:
    """A value of a type, from what JSON makes of it."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: _read(kinds[name], part) for name, part in value.items()})  # type: ignore[operator]
    if origin is UnionType:
        return None if value is None else _read(inner[0], value)
    if origin is dict:
        return {_read(inner[0], name): _read(inner[1], part) for name, part in value.items()}
    if origin is list:
        return [_read(inner[0], part) for part in value]
    if origin is tuple:
        return tuple(_read(part, one) for part, one in zip(inner, value, strict=True))
    if kind is float:
        return math.nan if value is None else float(value)
    return int(value) if kind is int else value
