"""QuantumNetwork: a circuit on a sampler, through qiskit-machine-learning's SamplerQNN."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import BaseSamplerV2, BitArray
from qiskit_machine_learning.neural_networks import SamplerQNN
from qiskit_machine_learning.primitives.sampler import ExactProbNDArray

from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.samplers import ExactSampler, backend_of, statevector_sampler, transpiled

N = TypeVar("N", bound="QuantumNetwork")
MAX_BITS = 24  # one row of probabilities takes 128 MiB


class QuantumNetwork:
    """Computes the outcome probabilities of a circuit on any ``BaseSamplerV2``, through a ``SamplerQNN``.

    All qubits are measured, into a register ``meas``. If the sampler has a backend, the circuit is transpiled once,
    with its parameters unbound.

    Args:
        ansatz: the circuit, with at most 24 qubits.
        sampler: where the circuit runs. The samplers of this package draw fresh noise in each call. Default:
            :class:`ExactSampler`.
        optimization_level: level of the transpiler, 0 to 3. Default: 1.
        initial_layout: the physical qubit of each qubit of the ansatz. Default: the transpiler's choice.

    Attributes:
        qnn: the ``SamplerQNN``, for example for ``TorchConnector``. Its circuit is the one that runs.
        circuits: circuits run so far.
        shots: shots run so far.
        seconds: wall-clock seconds spent running circuits.
        on_run: called with (inputs, probabilities) after each batch. Default: None.

    Warns:
        UserWarning: on a device with a coupling map, if the transpiled circuit has parameters in other gates than the
            virtual rz. Their errors may depend on the angle; a Fourier surrogate is then approximate.

    Raises:
        ValueError: if the sampler has another type or too few qubits, the ansatz has more than 24 qubits, or it has a
            reset and the sampler computes with statevectors.
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
                f"Invalid sampler: {str(sampler)!r} ({type(sampler).__name__}); it must be a BaseSamplerV2. If YAML "
                "gives it to a class of yours, annotate the argument as BaseSamplerV2 | None"
            )
        if ansatz.num_qubits > MAX_BITS:
            raise ValueError(
                f"Invalid ansatz: {ansatz.num_qubits} qubits, whose 2**{ansatz.num_qubits} outcomes fit in no memory; "
                f"at most {MAX_BITS}. If the circuit was transpiled twice, it includes the idle qubits of a device: "
                "pass the circuit from before"
            )
        self.ansatz = ansatz
        self.sampler = ExactSampler() if sampler is None else sampler
        self.circuits, self.shots, self.seconds = 0, 0, 0.0
        self._owner: QuantumNetwork | None = None  # the network that counts, too
        if ansatz.normal_form.resets and (pure := statevector_sampler(self.sampler)):
            raise ValueError(
                f"The circuit has a reset, which {pure} cannot run: a statevector takes one branch of it at random; "
                "use AerSampler, FakeBackendSampler or a device"
            )
        layout, used = None if initial_layout is None else list(initial_layout), ansatz.normal_form.num_qubits
        if layout is not None and len(layout) != used:
            raise ValueError(
                f"Invalid initial_layout: {layout}; it must name a physical qubit for each of the {used} qubits that "
                "the circuit uses (including its router's ancillas, if it was transpiled for a device)"
            )
        self._transpiling = {"optimization_level": optimization_level, "initial_layout": layout}
        circuit = self._transpiled(ansatz.normal_form.circuit())
        self._shifted: QuantumNetwork | None = None
        self._by_row: QuantumNetwork | None = None
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
        circuit._layout = None  # bits are in the ansatz's order; SamplerQNN would permute them by the layout once more
        operations = [instruction.operation for instruction in circuit.data]
        parametrised = [each for each in operations if any(getattr(p, "parameters", ()) for p in each.params)]
        assert all(each.is_parameterized() for each in parametrised)  # Aer does not bind the others
        outside = {each.name for each in parametrised} - {"rz", "p", "u1"}
        if outside and getattr(backend, "coupling_map", None) is not None:
            warnings.warn(
                f"On {backend.name} parameters occur in {', '.join(sorted(outside))}, not only in the virtual rz: "
                "errors may depend on the angle, and a surrogate of this network is approximate (on IBM hardware, set "
                "use_fractional_gates=False)",
                stacklevel=3,
            )
        return circuit

    def probabilities(
        self, inputs: ArrayLike, weights: ArrayLike | None = None, *, step: int | None = None
    ) -> NDArray[np.float64]:
        """Run one circuit per row of ``inputs``, all in one job.

        Args:
            inputs: (batch, num_inputs), radians, finite.
            weights: (num_weights,), or (batch, num_weights) with weights of each row, radians, finite. Default: None,
                only for an ansatz without weights.
            step: training step, from which the noise is drawn: equal seeds and steps give equal noise. Samplers without
                a method ``reseed`` ignore it. Default: the next noise in the sampler's sequence.

        Returns:
            (batch, 2**num_qubits) float64 probabilities; each row sums to 1. Bit k of the column index is qubit k.

        Raises:
            ValueError: if a shape is wrong, or a value is not finite.
            RuntimeError: if the sampler returns the wrong number of rows, or rows that are not distributions.
        """
        inputs, weights = self._check(inputs, weights)
        num_outcomes = 2**self.ansatz.num_qubits
        if not len(inputs):
            return np.zeros((0, num_outcomes))
        if weights.ndim == 2:
            return self._network_by_row().probabilities(np.hstack([inputs, weights]), step=step)
        if step is not None and (reseed := getattr(self.sampler, "reseed", None)):
            reseed(step)
        start = time.perf_counter()
        angles = self.ansatz.normal_form.angles.encoded(torch.from_numpy(inputs)).detach().numpy()
        probabilities = np.asarray(self.qnn.forward(angles if angles.shape[1] else None, weights))
        seconds = time.perf_counter() - start
        for network in (self, self._owner) if self._owner else (self,):
            network.seconds += seconds
            network.circuits += len(inputs)
            network.shots += len(inputs) * (self.qnn.shots or 0)
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
        """Compute derivatives of the probabilities by the parameter-shift rule, all in one job.

        The angle of each gate with parameters is shifted separately (Schuld et al. 2019, arXiv 1811.11184): 2 circuits
        per row and gate, 4 for controlled rotations (Wierichs et al. 2022, arXiv 2107.12390). The chain rule through
        the expression of the angle needs no circuit.

        Args:
            inputs: (batch, num_inputs), radians, finite.
            weights: (num_weights,) or (batch, num_weights), radians, finite. Default: None, only for an ansatz without
                weights.
            of: "inputs", "weights" or "both": the derivatives to compute. Default: "both".

        Returns:
            Derivatives by inputs (batch, 2**n, num_inputs) and by weights (batch, 2**n, num_weights), float64. Those
            that were not requested are 0.

        Raises:
            ValueError: if a shape is wrong, or a value is not finite.
            RuntimeError: if the sampler returns the wrong number of rows, or rows that are not distributions.
        """
        inputs, weights = self._check(inputs, weights)
        form, split = self.ansatz.normal_form, self.ansatz.num_inputs
        if weights.ndim == 2:
            both, _ = self._network_by_row().jacobian(np.hstack([inputs, weights]), of="inputs")
            return both[..., :split] * float(of != "weights"), both[..., split:] * float(of != "inputs")
        if self._shifted is None:
            self._shifted = self._with(self.ansatz.separated())
        gates = self._gates(of)
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
            shifted = self._shifted.probabilities(rows.reshape(-1, rows.shape[-1]))
            plus, minus = np.split(shifted.reshape(len(inputs), -1, outcomes), 2, axis=1)
            terms = (plus - minus) * np.concatenate([factors for _, factors in rules])[:, None]
            by_angle = np.add.reduceat(terms, np.cumsum([0, *counts[:-1]]), axis=1).swapaxes(1, 2)
        by_inputs, by_weights = form.angles.jacobian(inputs, weights, np.array(gates, int))
        return by_angle @ (by_inputs * float(of != "weights")), by_angle @ (by_weights * float(of != "inputs"))

    def _gates(self, of: Literal["inputs", "weights", "both"]) -> list[int]:
        """The sources that derivatives depend on."""
        depends, split = self.ansatz.normal_form.angles.depends, self.ansatz.num_inputs
        asked = depends[:, split:] if of == "weights" else depends[:, :split] if of == "inputs" else depends
        return [int(g) for g in np.flatnonzero(asked.any(-1)) if self.ansatz.normal_form.sources[g].frequencies]

    def gradient_circuits(self, of: Literal["inputs", "weights", "both"] = "both") -> int:
        """Number of circuits that :meth:`jacobian` runs for a row."""
        return sum(2 * len(self.ansatz.normal_form.sources[g].frequencies) for g in self._gates(of))

    @contextmanager
    def counting_for(self, owner: Any) -> Iterator[None]:
        """Add circuits, shots and seconds of this block to those of ``owner``, too."""
        before = self.circuits, self.shots, self.seconds
        yield
        owner.circuits += self.circuits - before[0]
        owner.shots += self.shots - before[1]
        owner.seconds += self.seconds - before[2]

    def _network_by_row(self) -> QuantumNetwork:
        """The network whose weights are inputs, too: each row has its own."""
        if self._by_row is None:
            self._by_row = self._with(self.ansatz.by_row())
        return self._by_row

    def measuring(self, paulis: Mapping[int, str]) -> QuantumNetwork:
        """The network of :meth:`Ansatz.measuring`, on the same sampler. What it runs counts here, too."""
        return self._with(self.ansatz.measuring(paulis))

    def _with(self, ansatz: Ansatz) -> QuantumNetwork:
        """A network of another circuit on the same sampler, whose circuits, shots and seconds count here."""
        return self._counted(QuantumNetwork(ansatz, self.sampler, **self._transpiling))

    def for_circuit(self, ansatz: Ansatz) -> QuantumNetwork:
        """A network of another circuit with as many qubits, on the same sampler. It counts its circuits separately."""
        return QuantumNetwork(ansatz, self.sampler, **self._transpiling)

    def _counted(self, network: N) -> N:
        network._owner = self._owner or self
        return network

    def _check(self, inputs: ArrayLike, weights: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inputs, count = _checked("inputs", inputs, (None, self.ansatz.num_inputs)), self.ansatz.num_weights
        if weights is None and count:
            raise ValueError(f"This ansatz has {count} weights; got weights=None")
        weights = [] if weights is None else weights
        by_row = np.ndim(weights) == 2 or (not inputs.shape[1] and len(inputs) > 1)
        if not by_row:
            return inputs, _checked("weights", weights, (count,))
        if np.ndim(weights) == 1:  # an ansatz without inputs
            weights = np.tile(np.asarray(weights, np.float64), (len(inputs), 1))
        if not count and not inputs.shape[1]:
            raise ValueError(f"Invalid inputs: {len(inputs)} rows; a circuit without parameters has one row")
        return inputs, _checked("weights", weights, (len(inputs), count))


class SPSANetwork(QuantumNetwork):
    """A network whose derivatives are estimates from few circuits: simultaneous perturbation (Spall 1992).

    In each backward pass each row moves all of its inputs and weights at once, by ``step`` in a random direction of +1
    and -1 and back, whatever their number. The estimates are unbiased up to terms of the order step**2, and noisy: use
    smaller learning rates, or more ``repeats``. Directions are drawn from torch's global generator on the CPU.

    Args:
        ansatz, sampler, optimization_level, initial_layout: as in :class:`QuantumNetwork`.
        repeats: number of directions of each row, which are averaged, at least 1; each takes 2 circuits. Default: 1.
        step: radians, above 0. The noise of shots is divided by it. Default: 0.3.

    Raises:
        ValueError: as :class:`QuantumNetwork`; if ``repeats`` or ``step`` is out of range.

    Example:
        >>> ansatz = named_circuit("ring")
        >>> layer = QuantumLayer(ansatz, "expectations", SPSANetwork(ansatz, AerSampler(shots=128)))
    """

    def __init__(
        self,
        ansatz: Ansatz,
        sampler: BaseSamplerV2 | None = None,
        *,
        repeats: int = 1,
        step: float = 0.3,
        optimization_level: int = 1,
        initial_layout: Sequence[int] | None = None,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"Invalid repeats: {repeats}; it must be at least 1")
        if not step > 0:
            raise ValueError(f"Invalid step: {step}; it must be above 0 radians")
        super().__init__(ansatz, sampler, optimization_level=optimization_level, initial_layout=initial_layout)
        self.repeats, self.step = repeats, step

    def measuring(self, paulis: Mapping[int, str]) -> SPSANetwork:
        """The network of :meth:`Ansatz.measuring`, on the same sampler. What it runs counts here, too."""
        return self._counted(self.for_circuit(self.ansatz.measuring(paulis)))

    def for_circuit(self, ansatz: Ansatz) -> SPSANetwork:
        """A network of another circuit with as many qubits, on the same sampler. It counts its circuits separately."""
        options = {"repeats": self.repeats, "step": self.step} | self._transpiling
        return SPSANetwork(ansatz, self.sampler, **options)

    def gradient_circuits(self, of: Literal["inputs", "weights", "both"] = "both") -> int:
        """Number of circuits that :meth:`jacobian` runs for a row."""
        return 2 * self.repeats

    def jacobian(
        self, inputs: ArrayLike, weights: ArrayLike | None = None, *, of: Literal["inputs", "weights", "both"] = "both"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate derivatives of the probabilities; arguments and result as in :meth:`QuantumNetwork.jacobian`.

        Derivatives by weights have the shape (batch, 2**n, num_weights), since directions differ from row to row.
        """
        inputs, weights = self._check(inputs, weights)
        batch, split = inputs.shape
        rows = np.hstack([inputs, weights if weights.ndim == 2 else np.tile(weights, (batch, 1))])
        signs = 2 * torch.randint(2, (self.repeats, *rows.shape), device="cpu").numpy() - 1.0
        signs *= np.where(np.arange(rows.shape[1]) < split, of != "weights", of != "inputs")  # what is not asked stays
        moved = rows + self.step * np.stack([signs, -signs])  # (2, repeats, batch, I + W)
        found = self._network_by_row().probabilities(moved.reshape(-1, rows.shape[1]))
        plus, minus = found.reshape(2, self.repeats, batch, -1)
        both = np.einsum("rbo,rbp->bop", plus - minus, signs) / (2 * self.step * self.repeats)
        return both[..., :split], both[..., split:]


class _CountingSamplerQNN(SamplerQNN):
    """SamplerQNN that counts the shots of a whole batch at once, and does not round exact probabilities."""

    shots: int | None = None  # shots per circuit in the last forward call; None: exact probabilities

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
    """Shifts and factors of a gate: dP/d(angle) = sum of factor * (P(angle + shift) - P(angle - shift)).

    Args:
        frequencies: frequencies of P in the angle, ascending multiples of the first: (1,) for Pauli rotations, (1/2, 1)
            for controlled ones.

    Returns:
        Shifts, in radians, and factors, one for each frequency.
    """
    waves = np.array(frequencies)
    shifts = np.asarray((2 * np.arange(len(waves)) + 1) * np.pi / (2 * waves[-1]), np.float64)
    return shifts, np.linalg.solve(2 * np.sin(np.outer(waves, shifts)), waves)


def _identity(outcome: int) -> int:  # SamplerQNN's default is a lambda, which cannot be pickled
    return outcome


def _checked(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = tuple("batch" if size is None else size for size in shape)
        raise ValueError(f"Invalid {name}: shape {array.shape}; it must be {wanted}")
    if not np.isfinite(array).all():
        raise ValueError(f"Invalid {name}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array
