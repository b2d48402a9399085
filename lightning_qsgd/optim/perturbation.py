"""Perturbations: what multiplies the gradient (or Adam's direction) in Superpositional Gradient Descent.

Paper: arXiv 2511.01918. A perturbation maps blocks of angles a = pi * theta to s in [-1, 1], the modulation. Each
classical twin keeps a part of the effect of s.
Shapes: B blocks, n qubits; one angle, one qubit and one s per touched coordinate.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor


def require(name: str, value: Any, valid: bool, rule: str) -> None:
    """Check an argument.

    Raises:
        ValueError: if ``valid`` is false, with the argument, its value and the rule.
    """
    if not valid:
        raise ValueError(f"Invalid {name}: {value!r}; it must be {rule}")


class Perturbation(ABC):
    """Base of all perturbations; a subclass implements :meth:`forward`.

    Args:
        num_qubits: coordinates per block, at least 1. Default: 4.

    Attributes:
        layout: set by the optimizer before each call: for each tensor, in the order of the slots, (number of the
            parameter, number of its coordinates, number of padding slots after them). Padding has angle 0, and its s is
            dropped.
        circuits, shots: numbers so far, including those before a loaded state; 0 without circuits.
        seconds: wall-clock seconds in circuits in this process; not part of the state.
        fallback_steps: number of steps in which a series replaced circuits that failed.
        on_answer: function that is called with (angles, s, step) after each call, while ``layout`` is set. Default:
            None.
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
        """Whether s of a block depends only on the angles of that block and on the step.

        If True, the optimizer may evaluate the blocks of a step in several calls, on each rank its own, while earlier
        blocks already move. Do work that can fail in :meth:`prepare`. If False (default), one call evaluates all blocks
        before any weight moves, which needs memory of their size.
        """
        return False

    def identity(self) -> str:
        """A text that must equal that of a loaded state. Default: the class and its plain public attributes."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, str, bool)) and k[0] != "_"}
        settings = sorted(plain.keys() - {"circuits", "shots", "seconds", "fallback_steps"})
        return f"{type(self).__name__}({', '.join(f'{name}={plain[name]}' for name in settings)})"

    def prepare(self) -> str | None:
        """Do one-time work, such as fitting a series, unless it is done. Returns a line that reports it, or None."""
        return None

    def fresh(self) -> Perturbation:
        """The perturbation that a new optimizer uses. Default: this object, which several optimizers may share.

        A perturbation that remembers something about the weights returns itself if it is new, and otherwise a copy
        without memory.
        """
        return self

    def report(self) -> dict[str, str | float]:
        """One-time facts by name: texts, such as the drawing of the circuit, and numbers. Default: none."""
        return {}

    @abstractmethod
    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The modulation s of one optimizer step.

        Args:
            angles: (B, n), float32 or float64, pi * theta.
            step: number of the optimizer step, from 0. All randomness must be a function of (seed, step).

        Returns:
            s, (B, n), like ``angles``, in [-1, 1].
        """

    def __call__(self, angles: Tensor, *, step: int) -> Tensor:
        """Call :meth:`forward`, and then ``on_answer``."""
        s = self.forward(angles, step=step)
        if self.on_answer is not None:
            self.on_answer(angles, s, step)
        return s

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints: tensors, numbers, texts and containers of these by name, without times."""
        return {"circuits": self.circuits, "shots": self.shots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.circuits, self.shots = int(state["circuits"]), int(state["shots"])


class SinePerturbation(Perturbation):
    """s = sin(pi * theta), Eq. 2 in closed form, which the circuit of Eq. 5 computes at depth 1. No circuit runs.

    Args:
        num_qubits: coordinates per block; it only determines how many coordinates are touched. Default: 4.
    """

    @property
    def blockwise(self) -> bool:
        """True."""
        return True

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """sin(angles); ``step`` is not used."""
        return angles.sin()


TwinKind = Literal["sign", "uniform", "matched", "shuffled", "frozen", "constant", "scalar", "series"]


class TwinPerturbation(Perturbation):
    """Base of the classical twins. Each keeps a part of a perturbation's effect, without its response to the weights.

    The memory of a twin belongs to one optimizer and is part of its state. The first optimizer that gets a new twin
    uses it; other optimizers use copies without memory (see :meth:`fresh`).

    Args:
        reference: the perturbation to imitate. The circuits of a reference run as often as the twin needs them: once
            for frozen, constant and scalar. Default: :class:`SinePerturbation`, even if this twin replaces another
            perturbation in stacked configurations; the optimizer's option ``twin`` keeps that one as the reference.
        seed: seed of the random twins, at least 0. Default: 0.

    Attributes:
        kind: its name for the optimizer's option ``twin`` and for comparisons.
        asks: whether it evaluates the reference; "sign" and "uniform" only take the number of qubits from it.

    Raises:
        ValueError: for a negative seed.
    """

    kind: ClassVar[TwinKind]
    asks: ClassVar[bool] = True

    def __init__(self, reference: Perturbation | None = None, seed: int = 0) -> None:
        reference = SinePerturbation() if reference is None else reference
        super().__init__(reference.num_qubits)
        require("seed", seed, seed >= 0, "at least 0")
        self.reference, self.seed = reference, seed
        self._taken = False  # whether an optimizer uses it, or it remembers weights
        self._forget()

    def _forget(self) -> None:
        """Drop the memory of the weights."""

    def fresh(self) -> TwinPerturbation:
        """This object if no optimizer uses it and it has no memory, otherwise a copy without memory."""
        twin = copy.copy(self) if self._taken else self
        twin.reference = self.reference.fresh()
        twin._forget()
        twin._taken = True
        return twin

    def identity(self) -> str:
        """Kind, reference and seed."""
        reference = self.reference.identity() if self.asks else f"num_qubits={self.num_qubits}"
        return f"ControlPerturbation({self.kind}, {reference}, seed={self.seed})"  # 0.1.0's checkpoints hold it

    def prepare(self) -> str | None:
        """Prepare the reference, if this twin evaluates it."""
        return self.reference.prepare() if self.asks else None

    def report(self) -> dict[str, str | float]:
        """The report of the reference, if this twin evaluates it."""
        return self.reference.report() if self.asks else {}

    def _ask_reference(self, angles: Tensor, step: int) -> Tensor:
        self.reference.layout = self.layout
        values = self.reference(angles, step=step)
        self._count()
        return values

    def _count(self) -> None:
        own = self.reference
        self.circuits, self.shots, self.seconds = own.circuits, own.shots, own.seconds
        self.fallback_steps = own.fallback_steps

    def _generator(self, step: int) -> torch.Generator:
        seed = int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0])
        return torch.Generator("cpu").manual_seed(seed)

    def _uniform(self, angles: Tensor, step: int) -> Tensor:  # like angles, in [-1, 1)
        drawn = torch.rand(angles.shape, generator=self._generator(step), dtype=torch.float64, device="cpu")
        return drawn.mul_(2).sub_(1)

    def _signs(self, angles: Tensor, step: int) -> Tensor:
        return torch.where(self._uniform(angles, step) < 0, -1.0, 1.0).to(angles)

    def _real_slots(self) -> Tensor:  # indices of the slots without padding
        lengths = torch.tensor(self.layout, device="cpu")[:, 1:].flatten()
        real = torch.tensor([True, False], device="cpu").repeat(len(self.layout))
        return real.repeat_interleave(lengths).nonzero()[:, 0]

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the state of the reference."""
        return super().state_dict() | {f"reference.{k}": v for k, v in self.reference.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._forget()
        prefix = "reference."
        self.reference.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.fallback_steps = self.reference.fallback_steps


class SignTwin(TwinPerturbation):
    """Random signs, fresh in each step. Arguments: as :class:`TwinPerturbation`."""

    kind, asks = "sign", False

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """-1 or 1 with equal probability, (B, n)."""
        return self._signs(angles, step)


class UniformTwin(TwinPerturbation):
    """Uniform in [-1, 1], fresh in each step. Arguments: as :class:`TwinPerturbation`."""

    kind, asks = "uniform", False

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """Uniform numbers, (B, n)."""
        return self._uniform(angles, step).to(angles)


class MatchedTwin(TwinPerturbation):
    """The reference's magnitudes with random signs, fresh in each step. Arguments: as :class:`TwinPerturbation`."""

    kind = "matched"

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The reference's |s| with random signs, (B, n)."""
        return self._ask_reference(angles, step).abs() * self._signs(angles, step)


class ShuffledTwin(TwinPerturbation):
    """The reference's s, permuted randomly in each step. Arguments: as :class:`TwinPerturbation`."""

    kind = "shuffled"

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The reference's s in random order, (B, n); padding is not permuted."""
        s = self._ask_reference(angles, step).flatten()
        real = self._real_slots().to(s.device)
        order = torch.randperm(len(real), generator=self._generator(step), device="cpu").to(s.device)
        return s.index_copy(0, real, s[real[order]]).view_as(angles)


class _TableTwin(TwinPerturbation):
    """Base of the twins that keep values of the first perturbed step."""

    def _forget(self) -> None:
        self._table: Tensor | None = None
        self._table_layout: list[tuple[int, int, int]] = []

    @abstractmethod
    def _reduced(self, s: Tensor) -> Tensor:
        """The values to keep of the reference's s, (B, n)."""

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The table of the first step, (B, n).

        Raises:
            RuntimeError: if the touched coordinates are not those of that step.
        """
        if self._table is None:
            self._table, self._taken = self._reduced(self._ask_reference(angles, step)), True
            self._table_layout = list(self.layout)
        if self._table_layout != list(self.layout):
            changed = sorted(set(self._table_layout) ^ set(self.layout))
            raise RuntimeError(
                f"The {self.kind} twin was set for other coordinates than step {step} touches; (parameter, "
                f"coordinates, padding) that differ: {changed}. It needs gradients of the same parameters in each step"
            )
        self._table = self._table.to(angles)
        return self._table

    def state_dict(self) -> dict[str, Any]:
        """The table of the first step, and the state of the reference."""
        state = super().state_dict()
        if self._table is None:
            return state
        return state | {"table": self._table, "layout": torch.tensor(self._table_layout, device="cpu")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        table = state.get("table")
        layout = [tuple(run) for run in state["layout"].tolist()] if "layout" in state else []
        slots = sum(length for _, *run in layout for length in run)
        require("table", table, slots == (0 if table is None else table.numel()), "one number for each slot of layout")
        self._table, self._table_layout = table, layout
        self._taken |= table is not None


class FrozenTwin(_TableTwin):
    """The reference's s of the first perturbed step, for each coordinate: a table of learning-rate factors.

    Arguments: as :class:`TwinPerturbation`.
    """

    kind = "frozen"

    def _reduced(self, s: Tensor) -> Tensor:
        return s


class ConstantTwin(_TableTwin):
    """The mean of the reference's s over each tensor in the first perturbed step.

    Arguments: as :class:`TwinPerturbation`.
    """

    kind = "constant"

    def _reduced(self, s: Tensor) -> Tensor:
        parts = s.flatten().split([length for _, *run in self.layout for length in run])
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return torch.cat([torch.cat([real.mean().expand_as(real), pad]) for real, pad in pairs]).view_as(s)


class ScalarTwin(_TableTwin):
    """The mean of the reference's s over all touched coordinates in the first perturbed step.

    With scale="adam" and scope="all" this is AdamW with the learning rate lr * (1 + quantum_weight * mean).

    Arguments: as :class:`TwinPerturbation`.
    """

    kind = "scalar"

    def _reduced(self, s: Tensor) -> Tensor:
        return s.flatten()[self._real_slots().to(s.device)].mean().expand_as(s).clone()


class SeriesTwin(TwinPerturbation):
    """A random function of the weights with the circuit's spectrum.

    It is the circuit's trigonometric series with a random sign for each coefficient except the constant, clamped to
    [-1, 1].

    Args:
        reference: a CircuitPerturbation without center.
        seed: seed of the signs, at least 0. Default: 0.

    Raises:
        ValueError: in the first step, if the reference has no series.
    """

    kind = "series"

    def _forget(self) -> None:
        self._series: Any = None

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """The random series at ``angles``, (B, n); ``step`` is not used."""
        if self._series is None:
            self._series = self._same_spectrum()
        return self._series(angles).clamp(-1, 1)

    def _same_spectrum(self) -> Any:
        self.reference.prepare()
        series = getattr(self.reference, "series", None)
        require("reference", type(self.reference).__name__, series is not None, "a CircuitPerturbation with a series")
        assert series is not None
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], tuple(series.coefficients.shape))
        signs[(0,) * series.num_inputs] = 1
        self._count()
        return type(series)(series.coefficients * torch.from_numpy(signs))


_CLASSES = (SignTwin, UniformTwin, MatchedTwin, ShuffledTwin, FrozenTwin, ConstantTwin, ScalarTwin, SeriesTwin)
#: The classical twins by kind.
TWINS: dict[TwinKind, type[TwinPerturbation]] = {twin.kind: twin for twin in _CLASSES}


def ControlPerturbation(kind: TwinKind, reference: Perturbation | None = None, seed: int = 0) -> TwinPerturbation:
    """Make the classical twin of a kind. Configurations of 0.1.0 use this name; new ones name the class.

    Args:
        kind: "sign" (:class:`SignTwin`), "uniform", "matched", "shuffled", "frozen", "constant", "scalar", "series".
        reference, seed: as in :class:`TwinPerturbation`.

    Raises:
        ValueError: for an unknown kind, or a negative seed.
    """
    require("kind", kind, kind in TWINS, f"one of {', '.join(TWINS)}")
    return TWINS[kind](reference, seed)
