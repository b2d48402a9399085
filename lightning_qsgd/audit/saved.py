"""Findings as JSON, and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.errors import CattrsError

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
        return _converter().structure(values["findings"][key], kind)
    except (ValueError, KeyError, TypeError, AttributeError, CattrsError) as error:
        raise ValueError(f"{path} has no {kind.__name__} called {key!r}: {error!r}; run the audit again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    return converter
