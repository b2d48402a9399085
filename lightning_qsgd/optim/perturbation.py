"""Perturbations: what multiplies the gradient (or Adam's direction) in Superpositional Gradient Descent.

Paper: arXiv 2511.01918. A perturbation maps blocks of angles a = pi * theta to a modulation s in [-1, 1].
Shapes: B blocks, n qubits; one angle, one qubit and one s per touched coordinate.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor


def require(name: str, value: Any, valid: bool, rule: str) -> None:
    """Refuse an argument.

    Raises:
        ValueError: unless ``valid``; it names the argument, its value and the rule.
    """
    if not valid:
        raise ValueError(f"Invalid {name}: {value!r}; it must be {rule}")


class Perturbation(ABC):
    """Base of all perturbations; a subclass implements :meth:`forward`.

    Args:
        num_qubits: coordinates per block, at least 1. Default: 4.

    Attributes:
        layout: set by the optimizer before each call: for each tensor, in slot order, (number of the parameter, number
            of its coordinates, number of pad slots after them). Pad slots have angle 0 and their s is dropped.
        circuits, shots: run so far, those before a loaded state included. 0 where classical.
        seconds: wall-clock seconds that circuits took in this process; no part of the state.
        fallback_steps: steps that something else answered because circuits failed.
        on_answer: called with (angles, s, step) of each call, while ``layout`` is that of the angles. Default: None.
    """

    on_answer: Callable[[Tensor, Tensor, int], None] | None = None

    def __init__(self, num_qubits: int = 4) -> None:
        require("num_qubits", num_qubits, num_qubits >= 1, "at least 1")
        self.num_qubits = num_qubits
        self.layout: Sequence[tuple[int, int, int]] = ()
        self.circuits, self.shots, self.seconds = 0, 0, 0.0
        self.fallback_steps = 0

    @property
    def blockwise(self) -> bool:
        """Whether s of a block depends on that block's angles and the step alone, whatever else is asked with it.

        The optimizer may then ask for the blocks of a step in several calls, and on each rank for its own, while
        weights that it has asked about move already: what may fail belongs into :meth:`prepare`. Default: False, one
        call with all blocks before anything moves, which costs memory of their size.
        """
        return False

    def identity(self) -> str:
        """What a checkpoint must agree on to be continued. Default: the class and its plain public attributes."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, str, bool)) and k[0] != "_"}
        settings = sorted(plain.keys() - {"circuits", "shots", "seconds", "fallback_steps"})
        return f"{type(self).__name__}({', '.join(f'{name}={plain[name]}' for name in settings)})"

    def prepare(self) -> str | None:
        """Do one-time work, such as fitting a surrogate, unless it is done; returns a line about it, or None."""
        return None

    def fresh(self) -> Perturbation:
        """What a new optimizer trains with. Default: this object, which several optimizers may then share.

        One that remembers something about the weights it has seen returns a copy that has seen none, unless it is new.
        """
        return self

    def report(self) -> dict[str, str | float]:
        """What is known once: texts (the circuit's drawing) and numbers, by name. Default: nothing."""
        return {}

    @abstractmethod
    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """Modulation of one optimizer step.

        Args:
            angles: (B, n), float32 or float64, pi * theta.
            step: number of the optimizer step, from 0: all randomness is a function of (seed, step).

        Returns:
            s, (B, n), like ``angles``, in [-1, 1].
        """

    def __call__(self, angles: Tensor, *, step: int) -> Tensor:
        """Call :meth:`forward`, and tell ``on_answer``."""
        s = self.forward(angles, step=step)
        if self.on_answer is not None:
            self.on_answer(angles, s, step)
        return s

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers and texts by name, and containers of such; no times."""
        return {"circuits": self.circuits, "shots": self.shots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.circuits, self.shots = int(state["circuits"]), int(state["shots"])


class SinePerturbation(Perturbation):
    """s = sin(pi * theta), Eq. 2 in closed form. No circuit runs; it is what Eq. 5's circuit computes at depth 1.

    Args:
        num_qubits: coordinates per block; it only decides how many coordinates are touched. Default: 4.
    """

    @property
    def blockwise(self) -> bool:
        """True."""
        return True

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """sin(angles); ``step`` does not matter."""
        return angles.sin()


Control = Literal["sign", "uniform", "matched", "shuffled", "frozen", "constant", "scalar", "series"]


class ControlPerturbation(Perturbation):
    """Classical twins of a perturbation: what remains of its effect without the circuit's answer to the weights.

    Args:
        kind: one of

            - "sign": random signs, fresh in each step;
            - "uniform": uniform in [-1, 1], fresh in each step;
            - "matched": the reference's magnitudes with random signs;
            - "shuffled": the reference's values, dealt to random coordinates in each step;
            - "frozen": the reference at the first perturbed step, per coordinate: a table of learning-rate factors;
            - "constant": the reference's mean per tensor at the first perturbed step;
            - "scalar": its mean over all touched coordinates at that step. With scale="adam" and scope="all" that is
              AdamW with the learning rate lr * (1 + quantum_weight * mean);
            - "series": a random function of the weights with the circuit's spectrum: its trigonometric series, each
              coefficient but the constant with a random sign, clamped to [-1, 1]. The reference must be a
              CircuitPerturbation in surrogate mode without center.
        reference: the perturbation to imitate; None: :class:`SinePerturbation`, also where this control replaces
            another perturbation in stacked configurations: the optimizer's option ``twin`` keeps that one as the
            reference. "sign" and "uniform" take from it only the number of qubits. A circuit is run as often as its
            twin needs it (once for frozen, constant and scalar).
        seed: of the random kinds, at least 0. Default: 0.

    The table of frozen, constant and scalar belongs to one optimizer and travels in its state. The first optimizer that
    is given a new control trains with it, any other one with a copy that has no table yet (see :meth:`fresh`).

    Raises:
        ValueError: for an unknown kind, a negative seed, or ("series") a reference without series.
        RuntimeError: ("frozen", "constant", "scalar") if the touched coordinates are no longer those of the first step.
    """

    def __init__(self, kind: Control, reference: Perturbation | None = None, seed: int = 0) -> None:
        reference = SinePerturbation() if reference is None else reference
        super().__init__(reference.num_qubits)
        require("kind", kind, kind in get_args(Control), f"one of {', '.join(get_args(Control))}")
        require("seed", seed, seed >= 0, "at least 0")
        self.kind, self.reference, self.seed = kind, reference, seed
        self._random_series: Any = None
        self._table: Tensor | None = None
        self._table_layout: list[tuple[int, int, int]] = []
        self._taken = False  # by an optimizer

    def fresh(self) -> ControlPerturbation:
        """Itself, once; afterwards, or when it has been asked before, a copy without table, of the same reference."""
        control = copy.copy(self) if self._taken or self._table is not None else self
        control.reference = self.reference.fresh()
        control._table, control._table_layout, control._random_series = None, [], None
        control._taken = True
        return control

    def identity(self) -> str:
        """Class, kind, seed and reference."""
        if self.kind in ("sign", "uniform"):
            return f"ControlPerturbation({self.kind}, num_qubits={self.num_qubits}, seed={self.seed})"
        return f"ControlPerturbation({self.kind}, {self.reference.identity()}, seed={self.seed})"

    def prepare(self) -> str | None:
        """Prepare the reference, where this kind asks it."""
        return None if self.kind in ("sign", "uniform") else self.reference.prepare()

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The control's modulation, (B, n)."""
        if self.kind in ("frozen", "constant", "scalar"):
            if self._table is None:
                self._table = self._reduced(self._ask_reference(angles, step))
                self._table_layout = list(self.layout)
            if self._table_layout != list(self.layout):
                changed = sorted(set(self._table_layout) ^ set(self.layout))
                raise RuntimeError(
                    f"The {self.kind} control was set for other coordinates than step {step} touches; (parameter, "
                    f"coordinates, padding) that differ: {changed}. It needs the same parameters with gradients always"
                )
            self._table = self._table.to(angles)
            return self._table
        if self.kind == "series":
            if self._random_series is None:
                self._random_series = self._same_spectrum()
            return self._random_series(angles).clamp(-1, 1)
        seed = int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0])
        generator = torch.Generator("cpu").manual_seed(seed)
        if self.kind == "shuffled":
            values = self._ask_reference(angles, step).flatten()
            real = self._real_slots().to(values.device)
            order = torch.randperm(len(real), generator=generator, device="cpu").to(values.device)
            return values.index_copy(0, real, values[real[order]]).view_as(angles)
        uniform = torch.rand(angles.shape, generator=generator, dtype=torch.float64, device="cpu").mul_(2).sub_(1)
        if self.kind == "uniform":
            return uniform.to(angles)
        sign = torch.where(uniform < 0, -1.0, 1.0).to(angles)
        return sign if self.kind == "sign" else self._ask_reference(angles, step).abs() * sign

    def report(self) -> dict[str, str | float]:
        """That of the reference, where this kind asks it."""
        return {} if self.kind in ("sign", "uniform") else self.reference.report()

    def _ask_reference(self, angles: Tensor, step: int) -> Tensor:
        self.reference.layout = self.layout
        values = self.reference(angles, step=step)
        self.circuits, self.shots, self.seconds = (
            self.reference.circuits,
            self.reference.shots,
            self.reference.seconds,
        )
        self.fallback_steps = self.reference.fallback_steps
        return values

    def _real_slots(self) -> Tensor:  # indices of the slots that are coordinates, not padding
        lengths = torch.tensor(self.layout, device="cpu")[:, 1:].flatten()
        real = torch.tensor([True, False], device="cpu").repeat(len(self.layout))
        return real.repeat_interleave(lengths).nonzero()[:, 0]

    def _same_spectrum(self) -> Any:
        self.reference.prepare()
        series = getattr(self.reference, "series", None)
        require("reference", type(self.reference).__name__, series is not None, "a CircuitPerturbation with a series")
        assert series is not None
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], tuple(series.coefficients.shape))
        signs[(0,) * series.num_inputs] = 1
        self.circuits, self.shots, self.seconds = self.reference.circuits, self.reference.shots, self.reference.seconds
        return type(series)(series.coefficients * torch.from_numpy(signs))

    def _reduced(self, values: Tensor) -> Tensor:
        if self.kind == "frozen":
            return values
        if self.kind == "scalar":
            return values.flatten()[self._real_slots().to(values.device)].mean().expand_as(values).clone()
        parts = values.flatten().split([length for _, *run in self.layout for length in run])
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return torch.cat([torch.cat([real.mean().expand_as(real), pad]) for real, pad in pairs]).view_as(values)

    def state_dict(self) -> dict[str, Any]:
        """The table of the first step, and the reference's state."""
        state = super().state_dict() | {f"reference.{k}": v for k, v in self.reference.state_dict().items()}
        if self._table is None:
            return state
        return state | {"table": self._table, "layout": torch.tensor(self._table_layout, device="cpu")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._random_series = None
        table = state.get("table")
        layout = [tuple(run) for run in state["layout"].tolist()] if "layout" in state else []
        slots = sum(length for _, *run in layout for length in run)
        require("table", table, slots == (0 if table is None else table.numel()), "one number for each slot of layout")
        self._table, self._table_layout = table, layout
        prefix = "reference."
        self.reference.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.fallback_steps = self.reference.fallback_steps
