"""CircuitSimulator: exact outcome probabilities, or amplitudes, in torch, batched and differentiable.

The state is kept as real numbers, C = 1 (real) or 2 (real and imaginary part) for each amplitude, because all gates
but phases are real (see stages.py): half the arithmetic of complex matrices. Gates on neighbouring qubits act as one
matrix.

Shapes: B batch, n qubits, P parameters. Amplitude ``k`` belongs to the outcome whose bit ``q`` is qubit ``q``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.constants import Constants
from lightning_qsgd.quantum.stages import PermutationStage, PhaseStage, compile_stages

MAX_QUBITS = 12
LONG = 16  # real stages, above which states are normalised: each H loses 6e-8 of the norm in float32


class _Real(NamedTuple):  # a stage of real gates, as tensors: t = rows of the angles
    rows: slice
    signs: Tensor  # (gates,): 1 rotation, -1 reflection
    runs: list[tuple[int, int, bool]]  # from the lowest qubit: number of qubits, first gate, whether they have gates
    batched: bool


class _Phase(NamedTuple):
    rows: slice
    signs: Tensor  # (angles, 2**n)
    batched: bool


class _Permutation(NamedTuple):
    order: Tensor
    inverse: Tensor


class CircuitSimulator(Constants):
    """An ansatz as a torch function on the statevector, differentiable (also twice) in inputs and weights.

    In reverse mode, so torch.func.jacrev, not jacfwd. torch.compile takes it whole.

    Args:
        ansatz: the circuit; at most 12 qubits, and without resets.
        amplitudes: return complex amplitudes, phases and all as Qiskit's ``Statevector`` has them, instead of outcome
            probabilities. Their phases depend on conventions that nothing can measure. Default: False.

    Raises:
        ValueError: for more qubits, or a reset.
    """

    def __init__(self, ansatz: Ansatz, amplitudes: bool = False) -> None:
        form = ansatz.normal_form
        n, columns = form.num_qubits, form.angles.num_columns
        if n > MAX_QUBITS:
            besides = n - ansatz.num_qubits
            routed = f" (with the {besides} that its router used besides)" if besides else ""
            raise ValueError(
                f"Invalid ansatz: {n} qubits{routed}; the simulator takes at most {MAX_QUBITS}. A sampler takes up to "
                "24: QuantumNetwork(ansatz, AerSampler())"
            )
        self.ansatz, self.amplitudes = ansatz, amplitudes
        self._extend = None if form.angles.is_linear else form.angles.extend
        self._routed = n > ansatz.num_qubits
        group = 2 if n < 10 else 4  # qubits whose gates act as one matrix: measured
        forms: list[np.ndarray] = []

        def rows_of(own: list[np.ndarray]) -> tuple[slice, bool]:  # their places, and whether they depend on inputs
            forms.extend(own)
            return slice(len(forms) - len(own), len(forms)), any(each[1 : 1 + columns].any() for each in own)

        self._plan: list[_Real | _Phase | _Permutation] = []
        for stage in compile_stages(form, phases=amplitudes):
            if isinstance(stage, PermutationStage):
                index = torch.from_numpy(stage.index)
                self._plan.append(_Permutation(index, index.argsort()))
            elif isinstance(stage, PhaseStage):
                terms = dict(stage.signs)
                if stage.constant.any() or not terms:
                    terms = {-1: stage.constant, **terms}
                one = np.eye(1, form.angles.forms.shape[1])[0]
                rows, batched = rows_of([one if source < 0 else form.angles.forms[source] for source in terms])
                self._plan.append(_Phase(rows, torch.from_numpy(np.stack([*terms.values()])), batched))
            else:
                gates = dict(sorted(stage.gates.items()))
                rows, batched = rows_of([each for _, each in gates.values()])
                signs = torch.tensor([-1.0 if reflection else 1.0 for reflection, _ in gates.values()])
                self._plan.append(_Real(rows, signs, _runs(list(gates), n, group), batched))
        self._is_long = sum(isinstance(stage, _Real) for stage in self._plan) > LONG
        slopes = torch.from_numpy(np.stack(forms))  # (angles, 1 + P)
        self._slopes = slopes[:, 0], slopes[:, 1 : 1 + columns].T, slopes[:, 1 + columns :].T
        self.forget_constants()

    def __call__(self, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Outcome probabilities, or amplitudes.

        Args:
            inputs: (B, num_inputs), float32 or float64, radians.
            weights: (num_weights,) or (B, num_weights), same dtype; None only where the ansatz has none.

        Returns:
            (B, 2**n), in the dtype (amplitudes: its complex one) and on the device of ``inputs``.

        Raises:
            ValueError: for a wrong shape or dtype.
        """
        batch, outcomes = len(inputs), 2**self.ansatz.num_qubits
        if inputs.ndim != 2 or inputs.shape[1] != self.ansatz.num_inputs:
            raise ValueError(f"Invalid inputs: shape {tuple(inputs.shape)}; it must be (B, {self.ansatz.num_inputs})")
        if not inputs.is_floating_point():
            raise ValueError(f"Invalid inputs: {inputs.dtype}; they must be floating point")
        weights = inputs.new_zeros(0) if weights is None else weights
        count = self.ansatz.num_weights
        if weights.dtype != inputs.dtype or weights.shape not in ((count,), (batch, count)):
            raise ValueError(
                f"Invalid weights: {weights.dtype} of shape {tuple(weights.shape)}; they must be {inputs.dtype}, "
                f"({count},) or ({batch}, {count})"
            )
        if not batch:
            empty = inputs.new_zeros(0, outcomes) * (inputs.sum() + weights.sum())  # gradients of 0
            return torch.complex(empty, empty) if self.amplitudes else empty
        (constants, input_slopes, weight_slopes), plan = self.constants(inputs.dtype, inputs.device)
        if self._extend is not None:
            inputs, weights = self._extend(inputs, weights)
        fixed = torch.atleast_2d(constants + weights @ weight_slopes if len(weight_slopes) else constants)
        angles = fixed + inputs @ input_slopes  # (B, angles)

        def angles_of(stage: _Real | _Phase) -> Tensor:  # (B or 1, angles of the stage)
            return (angles if stage.batched else fixed)[:, stage.rows]

        state = _product(angles_of(plan[0]), batch)  # (B, 2**n)
        parts, parts_last = 1, False  # C; whether it is the fastest axis of the state
        last = plan[-1] if isinstance(plan[-1], _Permutation) and not self.amplitudes else None  # of probabilities
        for stage in plan[1:] if last is None else plan[1:-1]:
            if isinstance(stage, _Real):
                state = _apply_real(state, angles_of(stage), stage, parts_last)
                parts_last = not parts_last
                continue
            state = state.view(batch, -1, parts) if parts_last else state.view(batch, parts, -1)
            axis = 2 if parts_last else 1
            if isinstance(stage, _Permutation):
                state = _Permute.apply(state, stage.order, stage.inverse, 3 - axis)
            else:
                phase = (angles_of(stage) @ stage.signs).unsqueeze(axis)
                cos, sin = phase.cos(), phase.sin()
                if parts == 1:
                    state = torch.cat([state * cos, state * sin], axis)
                else:
                    real, imaginary = state.split(1, axis)
                    state = torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], axis)
                parts = 2
            state = state.flatten(1)
        if self.amplitudes:  # there are two parts: the last stage is one of phases
            axis = 2 if parts_last else 1
            real, imaginary = state.view(batch, *((-1, 2) if parts_last else (2, -1))).unbind(axis)
            state = torch.complex(real, imaginary)
            if self._is_long:
                state = state / torch.linalg.vector_norm(state, dim=-1, keepdim=True)
            return state[:, :outcomes] if self._routed else state
        probabilities = state.square()
        if parts == 2:
            probabilities = (
                probabilities.view(batch, -1, 2).sum(2) if parts_last else probabilities.view(batch, 2, -1).sum(1)
            )
        if self._is_long:
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        if last is not None:
            probabilities = _Permute.apply(probabilities, last.order, last.inverse, 1)
        return probabilities[:, :outcomes] if self._routed else probabilities  # the router's qubits, behind, are 0

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
        """Slopes of the angles, and the stages."""

        def move(stage: Any) -> Any:
            if isinstance(stage, _Permutation):
                return _Permutation(*(index.to(device) for index in stage))
            return stage._replace(signs=stage.signs.to(device, dtype))

        slopes = tuple(slope.to(device, dtype, copy=True) for slope in self._slopes)
        return slopes, [move(stage) for stage in self._plan]


def _runs(qubits: list[int], n: int, group: int) -> list[tuple[int, int, bool]]:
    """Qubits 0..n-1 in runs that either have gates, at most ``group`` each, or have none."""
    runs: list[tuple[int, int, bool]] = []
    for q in range(n):
        has_gate = q in qubits
        if runs and runs[-1][2] == has_gate and (not has_gate or runs[-1][0] < group):
            runs[-1] = runs[-1][0] + 1, runs[-1][1], has_gate
        else:
            runs.append((1, qubits.index(q) if has_gate else -1, has_gate))
    return runs


def _product(angles: Tensor, batch: int) -> Tensor:
    """Real product state (B, 2**n) of first columns (cos t, sin t); angles (B or 1, n)."""
    factors = list(torch.stack([angles.cos(), angles.sin()], -1).expand(batch, -1, 2).unbind(1))
    while len(factors) > 1:  # neighbours in pairs
        pairs = zip(factors[::2], factors[1::2], strict=False)
        odd = factors[-1:] if len(factors) % 2 else []
        factors = [(high.unsqueeze(2) * low.unsqueeze(1)).flatten(1) for low, high in pairs] + odd
    return factors[0]


def _apply_real(state: Tensor, angles: Tensor, stage: _Real, parts_last: bool) -> Tensor:
    """Multiply each run's matrix into its axis of the state, and move that axis to the other end, without a copy.

    From (..., high, low) with C before or after the qubits to the same with C on the other side; the state is (B, all).
    """
    batch = len(state)
    cos, sin = angles.cos(), angles.sin()
    matrices = torch.stack([cos, -stage.signs * sin, sin, stage.signs * cos], -1).view(len(angles), -1, 2, 2)
    for size, first, has_gates in reversed(stage.runs) if parts_last else stage.runs:
        matrix = matrices[:, first]
        for gate in range(first + 1, first + size if has_gates else 0):
            side = 2 * matrix.shape[-1]
            matrix = (matrices[:, gate, :, None, :, None] * matrix[:, None, :, None, :]).reshape(-1, side, side)
        if parts_last:  # the highest run is the slowest axis: make it the fastest
            state = state.view(batch, 2**size, -1).transpose(1, 2)
            state = torch.matmul(state, matrix.mT) if has_gates else state.contiguous()
        else:
            state = state.view(batch, -1, 2**size).transpose(1, 2)
            state = torch.matmul(matrix, state) if has_gates else state.contiguous()
    return state.reshape(batch, -1)


class _Permute(torch.autograd.Function):
    """index_select by a permutation, whose gradient is index_select by its inverse (torch would scatter)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor, axis: int) -> Tensor:
        return x.index_select(axis, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, index, inverse, ctx.axis = inputs
        ctx.save_for_backward(index, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        index, inverse = ctx.saved_tensors
        return _Permute.apply(grads[0], inverse, index, ctx.axis), None, None, None
