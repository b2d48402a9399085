"""What an optimizer with a perturbation saves beside AdamW's state, and how it loads it."""

import io
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import TouchedCoordinates
from lightning_qsgd.optim.displacement import DisplacedGradients, MeasuredDisplacement
from lightning_qsgd.optim.param_groups import STATE, Scope
from lightning_qsgd.optim.perturbation import Perturbation
from lightning_qsgd.optim.statistics import Tally

_PLAIN = (int, float, complex, bytes, type(None), torch.dtype, torch.device)
_NEEDED = {"step": int, "scope": str, "identity": str}


class SavedState(DisplacedGradients, torch.optim.AdamW):
    """Base of an AdamW whose perturbation's and displacement's states are saved in its parameter groups.

    ``state_dict()`` has them in each group under "perturbation_state", as bytes: the one kind of value that all of
    torch's distributed state dicts carry whatever its size. :func:`unpack` reads them. Groups in use hold b"" there.
    """

    perturbation: Perturbation
    scope: Scope
    _options: dict[str, Any]  # its own entries in parameter groups, with the constructor's values
    _schedule: Callable[[int], float] | None
    statistics: dict[str, Tensor] | None
    _tally: Tally | None
    _attributes = ("perturbation", "displacement", "scope", "_options", "_schedule", "_step", "_warned")
    _attributes += ("record_statistics", "_large_steps")

    def _own_state(self) -> dict[str, Any]:
        own = {"step": self._step, "scope": self.scope, "identity": self.perturbation.identity()}
        return own | self._displacement_state() | self.perturbation.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and in each group, under "perturbation_state", that of perturbation and displacement."""
        packed = pack(self._own_state())
        before = [(group, group.get(STATE, b"")) for group in self.param_groups]
        for group, _ in before:
            group[STATE] = packed
        try:
            return super().state_dict()  # whose hooks see it
        finally:
            for group, value in before:
                group[STATE] = value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of a plain AdamW: perturbation and displacement then stay as they are.

        As in torch, the state's options win over the constructor's; a difference in this class's options is warned of.
        A schedule of quantum_weight is no state: it is the constructor's.

        Raises:
            ValueError: if the state belongs to another perturbation, displacement or scope, or is damaged. Nothing is
                loaded then.
        """
        before = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)  # calls __setstate__ between its hooks
        for old, group in zip(before, self.param_groups, strict=True):
            if changed := [f"{k} {old[k]!r} by {group[k]!r}" for k in self._options if group[k] != old[k]]:
                warnings.warn(f"The loaded state replaces {', '.join(changed)}", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._attributes}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "param_groups" in state and "perturbation" not in state:  # of load_state_dict; pickles have all attributes
            self._load(state["param_groups"])
        super().__setstate__(state)
        self._touched = TouchedCoordinates()
        self._tally = self.statistics = None
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
            group.setdefault("reference_lr", float(group["lr"]))
            group[STATE] = b""

    def _load(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take over what is this class's in loaded groups, and complete those of a plain AdamW."""
        if own := _own_state_in(groups):
            self._check(own)
            before = [(part, dict(vars(part))) for part in _parts(self.perturbation, self.displacement)]
            try:
                self.perturbation.load_state_dict(own)
                self._load_displacement_state(own)
            except Exception as error:
                for part, attributes in before:
                    part.__dict__ = attributes
                raise _damaged(f"{type(self.perturbation).__name__} cannot load it: {error!r}") from error
            self._step = own["step"]
        for mine, group in zip(self.param_groups, groups, strict=True):
            for name in (*self._options, "reference_lr"):
                group.setdefault(name, mine[name])
            group |= {"capturable": False, "differentiable": False}
            if mine["scheduled"] or group["scheduled"]:
                group |= {"scheduled": mine["scheduled"], "quantum_weight": mine["quantum_weight"]}

    def _check(self, own: dict[str, Any]) -> None:
        for name, kind in _NEEDED.items():
            if type(own.get(name)) is not kind:
                raise _damaged(f"its {name} is {own.get(name)!r}")
        if own["step"] < 0:
            raise _damaged(f"its step is {own['step']}")
        for name, mine in (("identity", self.perturbation.identity()), ("scope", self.scope)):
            if own[name] != mine:
                raise ValueError(
                    f"The state belongs to {own[name]}, this optimizer has {mine}; resume with the "
                    "same perturbation and scope, or start a new run"
                )
        self._check_displacement(own)


def pack(state: Mapping[str, Any]) -> bytes:
    """The state of a perturbation as bytes: the same bytes for the same state.

    Args:
        state: tensors of any device, numbers, texts, and containers of such.

    Raises:
        ValueError: for anything else, which would not be read again.
    """
    buffer = io.BytesIO()
    torch.save(_canonical(state), buffer)
    content = buffer.getvalue()
    return zlib.crc32(content).to_bytes(4, "big") + content


def unpack(value: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """What a "perturbation_state" of a state dict holds: step, scope, identity, and the perturbation's own entries.

    Args:
        value: of this version, or of 0.1.0: a dict, in sharded runs with all of it packed under "packed".

    Returns:
        Tensors (on the CPU, where they were packed) and plain values by name.

    Raises:
        ValueError: if it is cut off, changed, or something else.
    """
    if isinstance(value, Mapping):
        if "packed" not in value:
            return dict(value)
        content = value["packed"]
    elif isinstance(value, bytes):
        content = value[4:]
        if zlib.crc32(content).to_bytes(4, "big") != value[:4]:
            raise _damaged(f"{len(value)} bytes with another checksum than their own")
    else:
        raise _damaged(f"it is a {type(value).__name__}")
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torch raises for a file that was cut off
        raise _damaged(f"torch.load cannot read it: {error!r}") from error
    if not isinstance(state, dict):
        raise _damaged(f"it holds a {type(state).__name__}")
    return state


def _parts(*parts: Any) -> Iterator[Any]:
    """Those given that are no None, and the perturbations within them: all that loading a state changes."""
    for part in parts:
        if isinstance(part, (Perturbation, MeasuredDisplacement)):
            yield part
            yield from _parts(*vars(part).values())


def _own_state_in(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state in loaded groups, empty where there is none: 0.1.0 wrote it into the first one only."""
    values = [value for group in groups if (value := group.get(STATE)) is not None and not _is_empty(value)]
    if len({value for value in values if isinstance(value, bytes)}) > 1:
        raise _damaged("the groups hold different ones")
    return unpack(values[0]) if values else {}


def _is_empty(value: Any) -> bool:
    return isinstance(value, (bytes, Mapping)) and not value


def _damaged(reason: str) -> ValueError:
    return ValueError(
        f"Invalid perturbation_state: {reason}. The state dict was damaged or changed; load another one, or delete "
        "perturbation_state in its param_groups to load AdamW's state alone"
    )


def _canonical(value: Any) -> Any:
    """A copy that pickles to the same bytes whenever it is equal: pickle tells equal objects from the same object."""
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
            f"Invalid state_dict of a perturbation: it holds a {type(value).__name__}; put tensors, numbers, texts, or "
            "lists and dicts of such into it"
        )
    return value
