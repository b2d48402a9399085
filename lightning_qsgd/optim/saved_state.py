"""The packed form in which an optimizer's state dict holds the state of its perturbation."""

import io
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.optim.param_groups import STATE

_PLAIN = (int, float, complex, bytes, type(None), torch.dtype, torch.device)


def pack(state: Mapping[str, Any]) -> bytes:
    """Pack the state of a perturbation. Equal states give the same bytes.

    Args:
        state: tensors on any device, numbers, texts, and containers of these.

    Raises:
        ValueError: for any other value, which could not be read again.
    """
    buffer = io.BytesIO()
    torch.save(_canonical(state), buffer)
    content = buffer.getvalue()
    return zlib.crc32(content).to_bytes(4, "big") + content


def unpack(value: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """Read a "perturbation_state" of a state dict.

    Args:
        value: that of this version (bytes) or of 0.1.0 (a dict, which sharded runs packed under "packed").

    Returns:
        Step, scope, identity and the perturbation's own entries by name: plain values, and tensors, which are on the
        CPU if they were packed.

    Raises:
        ValueError: if the value is truncated, changed, or of another kind.
    """
    if isinstance(value, Mapping):
        if "packed" not in value:
            return dict(value)
        content = value["packed"]
    elif isinstance(value, bytes):
        content = value[4:]
        if zlib.crc32(content).to_bytes(4, "big") != value[:4]:
            raise damaged(f"the checksum of its {len(value)} bytes is wrong")
    else:
        raise damaged(f"it is a {type(value).__name__}")
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for truncated files
        raise damaged(f"torch.load cannot read it: {error!r}") from error
    if not isinstance(state, dict):
        raise damaged(f"it holds a {type(state).__name__}")
    return state


def saved_state(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state in loaded parameter groups; empty if there is none. 0.1.0 wrote it into the first group only."""
    values = [value for group in groups if (value := group.get(STATE)) is not None and not _is_empty(value)]
    if len({value for value in values if isinstance(value, bytes)}) > 1:
        raise damaged("the groups hold different ones")
    return unpack(values[0]) if values else {}


def _is_empty(value: Any) -> bool:
    return isinstance(value, (bytes, Mapping)) and not value


def damaged(reason: str) -> ValueError:
    """The error for a state that cannot be loaded."""
    return ValueError(
        f"Invalid perturbation_state: {reason}. The state dict was damaged or changed; load another one, or delete "
        "perturbation_state in its param_groups to load AdamW's state alone"
    )


def _canonical(value: Any) -> Any:
    """A copy whose pickle depends on its value alone; pickle distinguishes equal objects from the same object."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, Mapping):
        return {_canonical(name): _canonical(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_canonical, value))
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, _PLAIN):
        raise ValueError(
            f"Invalid state_dict of a perturbation: it holds a {type(value).__name__}; use tensors, numbers, "
            "texts, and lists and dicts of these"
        )
    return value
