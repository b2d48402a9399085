"""QuantumNetwork: qiskit-machine-learning's SamplerQNN, built so that its known traps cannot bite."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import BaseSamplerV2, BitArray
from qiskit_machine_learning.neural_networks import SamplerQNN
from qiskit_machine_learning.primitives.sampler import ExactProbNDArray

from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.samplers import ExactSampler, backend_of, statevector_sampler, transpiled

MAX_BITS = 24  # one row of probabilities is 128 MiB then


class QuantumNetwork:
    """Angles in, outcome probabilities out, through a :class:`SamplerQNN` on any ``BaseSamplerV2``.

    The circuit is measured in full (register ``meas``), transpiled once with unbound parameters where the sampler has
    a backend, and stripped of its layout: the classical bits already stand in the order of the ansatz's qubits, and a
    network that sees the layout would permute them a second time.

    Args:
        ansatz: the circuit.
        sampler: where it runs; None: :class:`ExactSampler`. Its noise is fresh per call if it is one of this package.
        optimization_level: of the transpiler, 0 to 3. Default: 1.
        initial_layout: physical qubit for each qubit of the ansatz. Default: the transpiler chooses.

    On a device with a coupling map it warns if, after transpiling, parameters sit in other gates than the virtual rz:
    errors that depend on the angle then make a Fourier surrogate of it approximate.

    Raises:
        ValueError: for a sampler of another type or of a smaller device, more than 24 qubits, or a reset on a sampler
            that computes with statevectors.

    Attributes:
        qnn: the ``SamplerQNN``, for example for ``TorchConnector``; its circuit is the one that runs.
        circuits, shots, seconds: circuits and shots run so far, and wall-clock seconds in them.
        on_run: called with (inputs, probabilities) of each batch that ran. Default: None.
    """

    on_run: Callable[[NDArray[np.float64], NDArray[np.float64]], None] | None = None

    def __init__(
        self,
        ansatz: Ansatz,
        sampler: BaseSamplerV2 | None = None,
        *,
        optimization_level: int = 1,
        initial_layout: Sequence[int] | None = None,
    ) -> None:
        if sampler is not None and not isinstance(sampler, BaseSamplerV2):
            raise ValueError(
                f"Invalid sampler: {str(sampler)!r} ({type(sampler).__name__}); it must be a BaseSamplerV2: in a class "
                "of your own, give the argument the type BaseSamplerV2 | None"
            )
        if ansatz.num_qubits > MAX_BITS:
            raise ValueError(
                f"Invalid ansatz: {ansatz.num_qubits} qubits, whose 2**{ansatz.num_qubits} outcomes fit in no memory; "
                f"at most {MAX_BITS}. If the circuit was transpiled twice, its idle qubits are those of a device: pass "
                "the circuit from before"
            )
        self.ansatz = ansatz
        self.sampler = ExactSampler() if sampler is None else sampler
        self.circuits, self.shots, self.seconds = 0, 0, 0.0
        if ansatz.normal_form.resets and (pure := statevector_sampler(self.sampler)):
            raise ValueError(
                f"The circuit has a reset, which {pure} cannot run: a statevector takes one branch of it at random; "
                "use AerSampler, FakeBackendSampler or a device"
            )
        layout, used = None if initial_layout is None else list(initial_layout), ansatz.normal_form.num_qubits
        if layout is not None and len(layout) != used:
            raise ValueError(
                f"Invalid initial_layout: {layout}; it must be a physical qubit for each of the {used} qubits that the "
                "circuit uses (with the ancillas that its router used, if it was transpiled for a device)"
            )
        self._transpiling = {"optimization_level": optimization_level, "initial_layout": layout}
        circuit = self._transpiled(ansatz.normal_form.circuit())
        self._shifted: QuantumNetwork | None = None
        self.qnn = _CountingSamplerQNN(
            circuit=circuit,
            sampler=self.sampler,
            input_params=ansatz.inputs,
            weight_params=ansatz.weights,
            interpret=_identity,
            output_shape=2**ansatz.num_qubits,
            input_gradients=True,
        )

    def _transpiled(self, circuit: QuantumCircuit) -> QuantumCircuit:
        backend = backend_of(self.sampler)
        if backend is None:
            return circuit
        size = getattr(backend, "num_qubits", None)
        if size is not None and circuit.num_qubits > size:
            raise ValueError(
                f"Invalid sampler: {backend.name} has {size} qubits, and the circuit uses {circuit.num_qubits}; take a "
                "larger device, such as FakeBackendSampler with name='FakeJakartaV2' (7) or 'FakeGuadalupeV2' (16)"
            )
        circuit = transpiled(circuit, backend, seed_transpiler=0, **self._transpiling)
        circuit._layout = None
        operations = [instruction.operation for instruction in circuit.data]
        parametrised = [each for each in operations if any(getattr(p, "parameters", ()) for p in each.params)]
        assert all(each.is_parameterized() for each in parametrised)  # Aer does not bind the others
        outside = {each.name for each in parametrised} - {"rz", "p", "u1"}
        if outside and getattr(backend, "coupling_map", None) is not None:
            warnings.warn(
                f"On {backend.name} parameters sit in {', '.join(sorted(outside))}, not in the virtual rz alone: "
                "errors may depend on the angle, and a surrogate of this network is approximate (on IBM hardware: "
                "use_fractional_gates=False)",
                stacklevel=3,
            )
        return circuit

    def probabilities(
        self, inputs: ArrayLike, weights: ArrayLike | None = None, *, step: int | None = None
    ) -> NDArray[np.float64]:
        """Outcome probabilities: one circuit per row of ``inputs``, all in one job.

        Args:
            inputs: (batch, num_inputs), radians, finite.
            weights: (num_weights,), radians, finite; None only where the ansatz has no weights.
            step: training step that the noise belongs to: equal (seed, step) give equal noise. Default: the next
                call in the sampler's own sequence. Samplers that cannot be reseeded ignore it.

        Returns:
            (batch, 2**num_qubits), float64, rows summing to 1; bit ``k`` of the column index is qubit ``k``.

        Raises:
            ValueError: for a wrong shape or a value that is not finite.
            RuntimeError: if the sampler returns too few rows, or rows that are no probability distributions.
        """
        inputs, weights = self._check(inputs, weights)
        num_outcomes = 2**self.ansatz.num_qubits
        if not len(inputs):
            return np.zeros((0, num_outcomes))
        if step is not None and (reseed := getattr(self.sampler, "reseed", None)):
            reseed(step)
        start = time.perf_counter()
        probabilities = np.asarray(self.qnn.forward(inputs, weights))
        self.seconds += time.perf_counter() - start
        self.circuits += len(inputs)
        self.shots += len(inputs) * (self.qnn.shots or 0)
        total = probabilities.sum(-1)
        wrong = ~((np.abs(total - 1) < 1e-6) & (probabilities >= -1e-9).all(-1))  # true for NaN as well
        if wrong.any():
            row = int(wrong.argmax())
            raise RuntimeError(
                f"The sampler {type(self.sampler).__name__} returned no probability distribution in {wrong.sum()} of "
                f"{len(inputs)} rows; row {row} sums to {total[row]}"
            )
        if self.on_run is not None:
            self.on_run(inputs, probabilities)
        return probabilities

    def jacobian(
        self, inputs: ArrayLike, weights: ArrayLike | None = None, *, of: Literal["inputs", "weights", "both"] = "both"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Derivatives of the probabilities by the parameter-shift rule, in one job of one PUB.

        Each gate with parameters is shifted on its own (Schuld et al. 2019, arXiv 1811.11184), once for all the
        parameters in its angle: 2 circuits per row and gate, 4 for controlled rotations (Wierichs et al. 2022, arXiv
        2107.12390). The chain rule through the angle, whatever its expression, needs no circuit.

        Args:
            inputs, weights: as in :meth:`probabilities`.
            of: leave out gates that only inputs, or only weights, would need. Default: "both".

        Returns:
            (batch, 2^n, num_inputs) and (batch, 2^n, num_weights) of n qubits, float64; zeros where not asked.

        Raises:
            ValueError: as :meth:`probabilities`.
        """
        inputs, weights = self._check(inputs, weights)
        form, split = self.ansatz.normal_form, self.ansatz.num_inputs
        if self._shifted is None:
            self._shifted = QuantumNetwork(self.ansatz.separated(), self.sampler, **self._transpiling)
        depends = form.angles.depends
        asked = depends[:, split:] if of == "weights" else depends[:, :split] if of == "inputs" else depends
        gates = [g for g in np.flatnonzero(asked.any(-1)) if form.sources[g].frequencies]
        rules = [shift_rule(form.sources[g].frequencies) for g in gates]
        counts = [len(shifts) for shifts, _ in rules]
        outcomes = 2**self.ansatz.num_qubits
        if not len(inputs) or not gates:
            by_angle = np.zeros((len(inputs), outcomes, len(gates)))
        else:
            directions = np.eye(len(form.sources))[np.repeat(gates, counts)]  # (shifts, G)
            shifts = np.concatenate([shifts for shifts, _ in rules])[:, None] * directions
            angles = form.angles.values(inputs, weights)
            rows = angles[:, None] + np.concatenate([shifts, -shifts])  # (batch, 2 shifts, G)
            with self._shifted.counting_for(self):
                shifted = self._shifted.probabilities(rows.reshape(-1, rows.shape[-1]))
            plus, minus = np.split(shifted.reshape(len(inputs), -1, outcomes), 2, axis=1)
            terms = (plus - minus) * np.concatenate([factors for _, factors in rules])[:, None]
            by_angle = np.add.reduceat(terms, np.cumsum([0, *counts[:-1]]), axis=1).swapaxes(1, 2)
        by_inputs, by_weights = form.angles.jacobian(inputs, weights, np.array(gates, int))
        return by_angle @ (by_inputs * float(of != "weights")), by_angle @ (by_weights * float(of != "inputs"))

    @contextmanager
    def counting_for(self, owner: Any) -> Iterator[None]:
        """Add what runs in the block to ``owner``'s circuits, shots and seconds as well."""
        before = self.circuits, self.shots, self.seconds
        yield
        owner.circuits += self.circuits - before[0]
        owner.shots += self.shots - before[1]
        owner.seconds += self.seconds - before[2]

    def _check(self, inputs: ArrayLike, weights: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inputs = _checked("inputs", inputs, (None, self.ansatz.num_inputs))
        if weights is None and self.ansatz.num_weights:
            raise ValueError(f"This ansatz has {self.ansatz.num_weights} weights; got weights=None")
        return inputs, _checked("weights", [] if weights is None else weights, (self.ansatz.num_weights,))


class _CountingSamplerQNN(SamplerQNN):
    """SamplerQNN that turns a whole batch's shots into frequencies at once, and takes exact probabilities unrounded."""

    shots: int | None = None  # shots per circuit in the last forward call; None: exact

    def _postprocess(self, num_samples: int, result: Any) -> Any:
        bits = getattr(result[0].data, "meas", None)
        if bits is None:
            raise RuntimeError("The sampler's result has no register 'meas'; it did not run the circuit it was given")
        rows = result[0].data.shape
        if rows != (num_samples,):
            raise RuntimeError(f"The sampler returned rows of shape {rows} instead of {(num_samples,)}")
        self.shots, outcomes = None, self._output_shape[0]
        if isinstance(bits, ExactProbNDArray):  # its counts, which SamplerQNN would take, are rounded to 1e-12
            probabilities = np.zeros((num_samples, outcomes))
            for row, found in zip(probabilities, bits.get_probabilities(), strict=True):
                row[[int(outcome, 2) for outcome in found]] = list(found.values())
            return probabilities
        if not isinstance(bits, BitArray):
            return super()._postprocess(num_samples, result)
        self.shots = bits.num_shots
        rows = bits.array  # (batch, shots, bytes), big-endian bytes
        index = np.zeros(rows.shape[:2], dtype=np.int64)
        for byte in range(rows.shape[-1]):
            index = (index << 8) | rows[..., byte]
        index += outcomes * np.arange(len(rows))[:, None]
        counts = np.bincount(index.ravel(), minlength=outcomes * len(rows))
        return counts.reshape(len(rows), outcomes) / max(bits.num_shots, 1)


@cache
def shift_rule(frequencies: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shifts and factors of a gate: the derivative is the sum of factor * (P(angle + shift) - P(angle - shift)).

    Args:
        frequencies: of the probabilities in the angle, ascending, multiples of the first: (1,) for Pauli rotations,
            (1/2, 1) under controls.

    Returns:
        As many shifts, in radians, and factors as there are frequencies.
    """
    waves = np.array(frequencies)
    shifts = np.asarray((2 * np.arange(len(waves)) + 1) * np.pi / (2 * waves[-1]), np.float64)
    return shifts, np.linalg.solve(2 * np.sin(np.outer(waves, shifts)), waves)


def _identity(outcome: int) -> int:  # SamplerQNN's own default is a lambda, which cannot be pickled
    return outcome


def _checked(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = tuple("batch" if size is None else size for size in shape)
        raise ValueError(f"Invalid {name}: shape {array.shape}; it must be {wanted}")
    if not np.isfinite(array).all():
        raise ValueError(f"Invalid {name}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array
