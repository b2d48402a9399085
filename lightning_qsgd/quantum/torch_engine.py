"""The simulator's engine in torch: the reference, on any device, differentiable any number of times.

The state consists of real numbers, C = 1 (real part) or 2 (real and imaginary part) for each amplitude. Since all gates
except phases are real (see stages.py), this takes half the arithmetic of complex matrices. Gates on neighbouring qubits
are applied as one matrix.

Shapes: B batch, n qubits, P parameters. Amplitude ``k`` belongs to the outcome whose bit ``q`` is qubit ``q``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.quantum.normal_form import NormalForm
from lightning_qsgd.quantum.stages import PermutationStage, PhaseStage, compile_stages

MAX_QUBITS = 12


class Constants:
    """Base class that caches constants for each dtype and device.

    Subclasses define :meth:`make_constants`, and call :meth:`reset_constants` as soon as it can be called. Copies and
    pickles do not contain the cache.
    """

    _cache: dict[tuple[torch.dtype, torch.device], Any]

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Compute the constants; they must not share memory with those of another dtype or device."""
        raise NotImplementedError

    def reset_constants(self) -> None:
        """Clear the cache, and compute the constants of float32 and float64 on the CPU."""
        self._cache = {}
        for dtype in (torch.float32, torch.float64):  # now, as tensors of torch.func's transforms cannot outlive them
            self.constants(dtype, torch.device("cpu"))

    def constants(self, dtype: torch.dtype, device: torch.device) -> Any:
        """The constants, from the cache if possible."""
        if (dtype, device) not in self._cache:
            with torch.inference_mode(False):  # cached tensors must work with autograd later
                self._cache[dtype, device] = self.make_constants(dtype, device)
        return self._cache[dtype, device]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.reset_constants()


class _Real(NamedTuple):  # a RealStage as tensors; its angles t are ``rows`` of all angles
    rows: slice
    signs: Tensor  # (gates,): 1 rotation, -1 reflection
    runs: list[tuple[int, int, bool]]  # from the lowest qubit up: number of qubits, first gate, whether there are gates
    batched: bool


class _Phase(NamedTuple):
    rows: slice
    signs: Tensor  # (angles, 2**n)
    batched: bool


class _Permutation(NamedTuple):
    order: Tensor
    inverse: Tensor


class TorchEngine(Constants):
    """A circuit as a torch function; torch.compile compiles it without graph breaks.

    Args:
        form: the circuit, with at most 12 qubits and without resets.
        amplitudes: whether to return amplitudes instead of probabilities.

    Raises:
        ValueError: if there are more qubits, or a reset.
    """

    def __init__(self, form: NormalForm, amplitudes: bool = False) -> None:
        n, columns = form.num_qubits, form.angles.num_columns
        if n > MAX_QUBITS:
            raise ValueError(f"Invalid ansatz: {n} qubits; the torch engine takes at most {MAX_QUBITS}")
        self.amplitudes = amplitudes
        group = 2 if n < 10 else 4  # qubits whose gates are applied as one matrix; the fastest in measurements
        forms: list[np.ndarray] = []

        def rows_of(own: list[np.ndarray]) -> tuple[slice, bool]:  # their rows, and whether they depend on inputs
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
        self.num_real = sum(isinstance(stage, _Real) for stage in self._plan)
        slopes = torch.from_numpy(np.stack(forms))  # (angles, 1 + P)
        self._slopes = slopes[:, 0], slopes[:, 1 : 1 + columns].T, slopes[:, 1 + columns :].T
        self.reset_constants()

    def __call__(self, inputs: Tensor, weights: Tensor, initial: Tensor | None = None) -> Tensor:
        """Compute outcome probabilities or amplitudes.

        Args:
            inputs: (B, I), float32 or float64; see :meth:`Angles.extend`.
            weights: (W,) or (B, W), same dtype.
            initial: (B, 2**n, 2), same dtype: real and imaginary parts of the state at the beginning. Default: 0 on all
                qubits.

        Returns:
            (B, 2**n).
        """
        batch = len(inputs)
        (constants, input_slopes, weight_slopes), plan = self.constants(inputs.dtype, inputs.device)
        fixed = torch.atleast_2d(constants + weights @ weight_slopes if len(weight_slopes) else constants)
        angles = fixed + inputs @ input_slopes  # (B, angles)

        def angles_of(stage: _Real | _Phase) -> Tensor:  # (B or 1, angles of the stage)
            return (angles if stage.batched else fixed)[:, stage.rows]

        # C, and whether it is the fastest axis of the state
        if initial is None:
            state, parts, parts_last = _product(angles_of(plan[0]), batch), 1, False  # (B, 2**n)
        else:
            state, parts, parts_last = initial.flatten(1), 2, True
        last = plan[-1] if isinstance(plan[-1], _Permutation) and not self.amplitudes else None  # permute probabilities
        for stage in plan[initial is None : None if last is None else -1]:
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
        if self.amplitudes:  # the last stage is a PhaseStage, so there are two parts
            axis = 2 if parts_last else 1
            real, imaginary = state.view(batch, *((-1, 2) if parts_last else (2, -1))).unbind(axis)
            return torch.complex(real, imaginary)
        probabilities = state.square()
        if parts == 2:
            probabilities = (
                probabilities.view(batch, -1, 2).sum(2) if parts_last else probabilities.view(batch, 2, -1).sum(1)
            )
        if last is not None:
            probabilities = _Permute.apply(probabilities, last.order, last.inverse, 1)
        return probabilities

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
        """The slopes of the angles, and the stages."""

        def move(stage: Any) -> Any:
            if isinstance(stage, _Permutation):
                return _Permutation(*(index.to(device) for index in stage))
            return stage._replace(signs=stage.signs.to(device, dtype))

        slopes = tuple(slope.to(device, dtype, copy=True) for slope in self._slopes)
        return slopes, [move(stage) for stage in self._plan]


def _runs(qubits: list[int], n: int, group: int) -> list[tuple[int, int, bool]]:
    """Divide qubits 0..n-1 into runs with gates, of at most ``group`` qubits, and runs without gates."""
    runs: list[tuple[int, int, bool]] = []
    for q in range(n):
        has_gate = q in qubits
        if runs and runs[-1][2] == has_gate and (not has_gate or runs[-1][0] < group):
            runs[-1] = runs[-1][0] + 1, runs[-1][1], has_gate
        else:
            runs.append((1, qubits.index(q) if has_gate else -1, has_gate))
    return runs


def _product(angles: Tensor, batch: int) -> Tensor:
    """The real product state (B, 2**n) of qubits (cos t, sin t) with angles t (B or 1, n)."""
    factors = list(torch.stack([angles.cos(), angles.sin()], -1).expand(batch, -1, 2).unbind(1))
    while len(factors) > 1:  # neighbours in pairs
        pairs = zip(factors[::2], factors[1::2], strict=False)
        odd = factors[-1:] if len(factors) % 2 else []
        factors = [(high.unsqueeze(2) * low.unsqueeze(1)).flatten(1) for low, high in pairs] + odd
    return factors[0]


def _apply_real(state: Tensor, angles: Tensor, stage: _Real, parts_last: bool) -> Tensor:
    """Multiply the matrix of each run into its axis of the state (B, C * 2**n), and move that axis to the other end.

    Each product writes the axis to its new place, so there are no other copies. In the end C, which was before or after
    the qubits, is on the other side of them.
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


def permuted(x: Tensor, index: Tensor, inverse: Tensor, axis: int) -> Tensor:
    """``x.index_select(axis, index)`` for a permutation and its inverse; differentiable."""
    return _Permute.apply(x, index, inverse, axis)


class _Permute(torch.autograd.Function):
    """index_select by a permutation. Its gradient is index_select by the inverse, where torch would use scatter."""

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
