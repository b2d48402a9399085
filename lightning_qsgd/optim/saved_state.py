"""What an optimizer with a perturbation saves beside AdamW's state, and how it loads it."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.blocks import TouchedCoordinates
from lightning_qsgd.optim.displaced_gradients import DisplacedGradients
from lightning_qsgd.optim.modulation import AtOnce
from lightning_qsgd.optim.param_groups import Scope
from lightning_qsgd.optim.perturbation import Perturbation
from lightning_qsgd.optim.sharding import is_dtensor
from lightning_qsgd.optim.statistics import Tally

_KEY = "perturbation_state"
_PACKED = "packed"


class SavedState(DisplacedGradients, torch.optim.AdamW):
    """Base of an AdamW whose perturbation's and displacement's states are saved in its first parameter group.

    Sharded checkpoints lose values in any other place.
    """

    perturbation: Perturbation
    scope: Scope
    _options: dict[str, Any]  # its own entries in parameter groups, with the constructor's values
    _schedule: Callable[[int], float] | None
    statistics: dict[str, Tensor] | None
    _tally: Tally | None
    _attributes = ("perturbation", "displacement", "scope", "_options", "_schedule", "_step", "_warned")
    _attributes += ("record_statistics",)

    def _own_state(self) -> dict[str, Any]:
        own = {"step": self._step, "scope": self.scope, "identity": self.perturbation.identity()}
        return own | self._displacement_state() | self.perturbation.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and in the first group, under "perturbation_state", that of perturbation and displacement."""
        state = super().state_dict()
        own = self._own_state()
        if any(is_dtensor(p) for p in self._all_parameters()):
            own = {_PACKED: _pack(own)}
        state["param_groups"][0][_KEY] = own
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of a plain AdamW: perturbation and displacement then stay as they are.

        As in torch, the state's options win over the constructor's; a difference in this class's options is warned of.
        A schedule of quantum_weight is no state: it is the constructor's.

        Raises:
            ValueError: if the state belongs to another perturbation, displacement or scope.
        """
        first, *rest = state_dict["param_groups"]
        own = first.get(_KEY) or {}
        own = _unpack(own[_PACKED]) if _PACKED in own else own
        own_names = (*self._options, "reference_lr")
        before = [{name: group[name] for name in own_names} for group in self.param_groups]
        groups = [{k: v for k, v in first.items() if k != _KEY}, *rest]
        if len(groups) == len(before):  # otherwise torch refuses it; options that a plain AdamW lacks stay as they are
            groups = [mine | loaded for mine, loaded in zip(before, groups, strict=True)]
        if own:
            for name, mine in (("identity", self.perturbation.identity()), ("scope", self.scope)):
                if own[name] != mine:
                    raise ValueError(
                        f"The state belongs to {own[name]}, this optimizer has {mine}; resume with the "
                        "same perturbation and scope, or start a new run"
                    )
            self._check_displacement(own)
        super().load_state_dict({**state_dict, "param_groups": groups})
        for old, group in zip(before, self.param_groups, strict=True):
            group |= {"capturable": False, "differentiable": False}
            if old["scheduled"] or group["scheduled"]:
                group |= {"scheduled": old["scheduled"], "quantum_weight": old["quantum_weight"]}
            if changed := [f"{k} {old[k]!r} by {group[k]!r}" for k in self._options if group[k] != old[k]]:
                warnings.warn(f"The loaded state replaces {', '.join(changed)}", stacklevel=2)
        if own:
            self._step = int(own["step"])
            self.perturbation.load_state_dict(own)
            self._load_displacement_state(own)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._attributes}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._touched, self._at_once = TouchedCoordinates(), AtOnce()
        self._tally = self.statistics = None
        self.param_groups[0].setdefault(_KEY, {})  # torch's flattened state dicts look for the keys that are there
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
            group.setdefault("reference_lr", float(group["lr"]))


def _pack(state: dict[str, Any]) -> bytes:
    """As one value: distributed checkpoints restore a tensor only where the new run has one of that name and shape."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpack(packed: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(packed), weights_only=True)
