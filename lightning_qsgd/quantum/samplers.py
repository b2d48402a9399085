"""Samplers: where circuits run. Only this file, noise.py and hardware.py name a backend.

Every sampler is a ``qiskit.primitives.BaseSamplerV2``, and a network accepts any of them. In contrast to Qiskit's, the
noise of these is new in each call, but a function of (seed, step, call). They use one thread, build their simulator at
first use, and can be pickled.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit, transpile
from qiskit.primitives import BasePrimitiveJob, BaseSamplerV2, BitArray, StatevectorSampler
from qiskit.primitives.containers import DataBin, PrimitiveResult, SamplerPubLike, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers import JobStatus
from qiskit_machine_learning.primitives import QMLSampler

from lightning_qsgd.distributed import rank
from lightning_qsgd.quantum.noise import check_noise, fake_backend, noise_model

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel

MAX_NUMBERS = 2**22  # probabilities that are computed at once: 32 MiB
SamplerJob = BasePrimitiveJob[PrimitiveResult[SamplerPubResult], Any]


class ExactSampler(QMLSampler):
    """Exact outcome probabilities from the statevector, without shots and noise. The error is at most 1e-14."""

    def __init__(self) -> None:
        super().__init__(shots=None)


class SeededSampler(BaseSamplerV2):
    """A sampler whose noise is a function of (seed, step, number of the call in the step).

    Args:
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.

    Raises:
        ValueError: if ``shots`` is below 1 or ``seed`` is negative.
    """

    def __init__(self, shots: int = 1024, seed: int = 0) -> None:
        if not isinstance(shots, Integral) or shots < 1:
            raise ValueError(
                f"Invalid shots: {shots!r}; it must be a whole number, at least 1 (exact probabilities: ExactSampler)"
            )
        if seed < 0:
            raise ValueError(f"Invalid seed: {seed}; it must be at least 0")
        self.shots, self.seed = shots, seed
        self._step, self._call = 0, 0

    def reseed(self, step: int) -> None:
        """Start the noise of training step ``step``: at least 0, or -1 before training. Its calls count from 0."""
        self._step, self._call = step + 1, 0  # 0 stands for calls outside any step

    @property
    def noise_position(self) -> tuple[int, int]:
        """The position in the sequence of noise, (training step + 1 or 0, call in it). Set it to continue there."""
        return self._step, self._call

    @noise_position.setter
    def noise_position(self, value: tuple[int, int]) -> None:
        self._step, self._call = value

    def next_seed(self) -> np.random.SeedSequence:
        """The seed of the next call."""
        key = (self.seed, self._step, self._call, *([rank()] if rank() else []))
        self._call += 1
        return np.random.SeedSequence(key)


class AerSampler(SeededSampler):
    """Qiskit Aer's simulator, with shot noise that is new in each call and reproducible.

    The simulator's seed in a call is derived from (seed, step, number of the call in the step). Repeated calls thus
    differ, a repeated run does not, and a resumed run continues like an uninterrupted one. (Qiskit's Aer sampler with
    an integer seed repeats the same noise in every call.)

    Args:
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.
        noise: None for a perfect device; a ``qiskit_aer.noise.NoiseModel``; a preset, "depolarizing", "thermal" or
            "readout"; or the name of a fake backend, such as "FakeManilaV2", whose noise model is used (needs
            qiskit-ibm-runtime). Default: None.
        device: "CPU", or "GPU", which needs a CUDA build of Aer. Default: "CPU".

    Raises:
        ValueError: if ``shots`` is below 1, ``seed`` is negative, or ``noise`` is unknown; at the first circuit, if the
            fake backend is unknown, or Aer lacks the device.
    """

    def __init__(
        self,
        shots: int = 1024,
        seed: int = 0,
        noise: NoiseModel | str | None = None,
        device: Literal["CPU", "GPU"] = "CPU",
    ) -> None:
        super().__init__(shots, seed)
        if isinstance(noise, str):
            check_noise(noise)
        self.noise, self.device = noise, device
        self._backend: Any = None

    @property
    def backend(self) -> Any:
        """The ``AerSimulator`` that circuits are transpiled for; built at first use."""
        if self._backend is None:
            self._backend = self._build()
        return self._backend

    def _build(self) -> Any:
        from qiskit_aer import AerSimulator

        available = available_devices()
        if self.device not in available:
            raise ValueError(
                f"Invalid device: {self.device!r}; this build of Qiskit Aer has {available}. "
                "Use device='CPU', or install qiskit-aer-gpu"
            )
        noise = noise_model(self.noise) if isinstance(self.noise, str) else self.noise
        # One thread, because on small circuits more threads make Aer 2 to 7 times slower.
        return AerSimulator(noise_model=noise, device=self.device, max_parallel_threads=1)

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Run circuits with new noise; see ``BaseSamplerV2.run``."""
        from qiskit_aer.primitives import SamplerV2

        # 31 bits, and not 0, which some primitives take for "no seed".
        seed = int(self.next_seed().generate_state(1)[0] >> 1) or 1
        sampler = SamplerV2.from_backend(self.backend, default_shots=self.shots, seed=seed)
        return sampler.run(pubs, shots=shots)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backend": None}  # the simulator is built again at first use


class FakeBackendSampler(AerSampler):
    """A fake backend of qiskit-ibm-runtime on Aer, with a device's qubits, couplings, basis gates and calibrated noise.

    Circuits are transpiled for the device, as for the real one. Noise is new in each call and reproducible as in
    :class:`AerSampler`. The simulator is built once, which takes seconds for 127 qubits.

    Args:
        name: class name in ``qiskit_ibm_runtime.fake_provider``. Default: "FakeManilaV2" (5 qubits in a line).
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.

    Raises:
        ValueError: if ``shots`` is below 1 or ``seed`` is negative; at the first circuit, if the name is unknown.
        ModuleNotFoundError: at the first circuit, if qiskit-ibm-runtime is not installed.
    """

    def __init__(self, name: str = "FakeManilaV2", shots: int = 1024, seed: int = 0) -> None:
        super().__init__(shots, seed)
        self.name = name

    def _build(self) -> Any:
        from qiskit_aer import AerSimulator

        return AerSimulator.from_backend(fake_backend(self.name), max_parallel_threads=1)

    @property
    def calibrated(self) -> Any:
        """Date of the device's calibration that the noise comes from."""
        return fake_backend(self.name).properties().last_update_date


class ShotSampler(SeededSampler):
    """Shots of a perfect device, drawn from exact probabilities: Aer's distribution in a fraction of its time.

    Noise is new in each call and reproducible as in :class:`AerSampler`, but other numbers than Aer's. Circuits may
    have measurements at their end only, and no reset. Nothing is transpiled.

    Args:
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.

    Raises:
        ValueError: if ``shots`` is below 1 or ``seed`` is negative; from :meth:`run`, for a circuit that the simulator
            does not take.
    """

    def __init__(self, shots: int = 1024, seed: int = 0) -> None:
        super().__init__(shots, seed)
        self._last: tuple[QuantumCircuit, Any, dict[str, list[int]]] | None = None

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Run circuits with new noise; see ``BaseSamplerV2.run``."""
        generator = np.random.default_rng(self.next_seed())
        coerced = [SamplerPub.coerce(pub, self.shots if shots is None else shots) for pub in pubs]
        return _Done(PrimitiveResult([self._drawn(pub, generator) for pub in coerced]))

    def _drawn(self, pub: SamplerPub, generator: np.random.Generator) -> SamplerPubResult:
        import torch

        circuit, shots = pub.circuit, pub.shots or self.shots
        if self._last is None or self._last[0] is not circuit:
            self._last = circuit, *_simulated(circuit)
        _, simulate, registers = self._last
        rows = pub.parameter_values.as_array(circuit.parameters).reshape(math.prod(pub.shape), -1)
        size = 2**simulate.ansatz.num_qubits
        kind = np.min_scalar_type(size - 1)
        outcomes = np.empty((len(rows), shots), kind)
        with torch.inference_mode():
            for start in range(0, len(rows), step := max(1, MAX_NUMBERS // size)):
                chunk = torch.from_numpy(rows[start : start + step])
                probabilities = simulate(chunk).clamp_min(0).numpy()
                counts = generator.multinomial(shots, probabilities / probabilities.sum(-1, keepdims=True))
                drawn = np.repeat(np.tile(np.arange(size, dtype=kind), len(chunk)), counts.ravel())
                generator.permuted(drawn.reshape(len(chunk), shots), axis=1, out=outcomes[start : start + step])
        data = {name: _bits(outcomes, qubits).reshape(pub.shape) for name, qubits in registers.items()}
        return SamplerPubResult(DataBin(**data, shape=pub.shape), {"shots": shots})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}


def _simulated(circuit: QuantumCircuit) -> tuple[Any, dict[str, list[int]]]:
    """The simulator of a measured circuit, and for each register the qubit of each bit (-1: none was measured)."""
    from lightning_qsgd.quantum.circuits import Ansatz
    from lightning_qsgd.quantum.simulator import CircuitSimulator

    measured = {}
    for instruction in circuit.data:
        if instruction.operation.name == "measure":
            measured[instruction.clbits[0]] = circuit.find_bit(instruction.qubits[0]).index
    registers = {register.name: [measured.get(bit, -1) for bit in register] for register in circuit.cregs}
    if not registers:
        raise ValueError("The circuit measures nothing: call circuit.measure_all()")
    return CircuitSimulator(Ansatz(circuit, list(circuit.parameters))), registers


def _bits(outcomes: NDArray[np.unsignedinteger[Any]], qubits: list[int]) -> BitArray:
    """Outcomes (rows, shots) as the bits of a register."""
    if qubits == list(range(len(qubits))):
        numbers = outcomes & np.array(2 ** len(qubits) - 1, outcomes.dtype) if len(qubits) < 24 else outcomes
    else:
        numbers = np.zeros(outcomes.shape, np.uint64)
        for bit, qubit in enumerate(qubits):
            if qubit >= 0:
                numbers |= ((outcomes >> np.array(qubit, outcomes.dtype)) & 1).astype(np.uint64) << np.uint64(bit)
    count = -(-len(qubits) // 8)
    big = numbers.astype(numbers.dtype.newbyteorder(">"), copy=False)
    places = np.ascontiguousarray(big)[..., None].view(np.uint8)
    if places.shape[-1] < count:
        places = np.concatenate([np.zeros((*places.shape[:-1], count - places.shape[-1]), np.uint8), places], -1)
    return BitArray(np.ascontiguousarray(places[..., places.shape[-1] - count :]), len(qubits))


class _Done(BasePrimitiveJob[PrimitiveResult[SamplerPubResult], JobStatus]):
    """A job that has ended."""

    def __init__(self, result: PrimitiveResult[SamplerPubResult]) -> None:
        super().__init__(str(uuid.uuid4()))
        self._result = result

    def result(self) -> PrimitiveResult[SamplerPubResult]:
        return self._result

    def status(self) -> JobStatus:
        return JobStatus.DONE

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def in_final_state(self) -> bool:
        return True

    def cancel(self) -> None:
        pass


def available_devices() -> list[str]:
    """The devices that this build of Qiskit Aer can use, such as "CPU" and "GPU"."""
    from qiskit_aer import AerSimulator

    return list(AerSimulator().available_devices() or [])


def backend_of(sampler: BaseSamplerV2) -> Any:
    """The backend that circuits must be transpiled for; None if the sampler runs any circuit."""
    backend = getattr(sampler, "backend", None)  # a property in Qiskit and here, a method in qiskit-ibm-runtime
    return backend() if callable(backend) else backend


def transpiled(circuit: QuantumCircuit, backend: Any, **options: Any) -> QuantumCircuit:
    """``qiskit.transpile(circuit, backend, **options)``, 40 times faster for an ``AerSimulator``.

    Qiskit reads the target of the backend about 160 times, and qiskit-aer 0.18 builds it each time, which takes 0.17 of
    0.175 s. A perfect Aer device runs all gates that it has without transpiling, which would import all of Qiskit's
    plugins, with qiskit-ibm-runtime among them (0.5 s). Other backends are passed on, because only they know the
    transpiler stages of their device.
    """
    from qiskit_aer import AerSimulator

    if isinstance(backend, AerSimulator):
        noise = getattr(backend.options, "noise_model", None)
        perfect = noise is None and backend.coupling_map is None
        own = circuit.count_ops().keys() <= {*backend.operation_names, "barrier"}
        if perfect and own and options.get("initial_layout") is None:
            return circuit.copy()
        return transpile(circuit, target=backend.target, **options)
    return transpile(circuit, backend, **options)


def wrapped(sampler: Any) -> Iterator[Any]:
    """The sampler, the one that it wraps, the one that this wraps, and so on."""
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None)


def statevector_sampler(sampler: BaseSamplerV2) -> str | None:
    """The name of the wrapped sampler that computes with a pure state; None for other samplers."""
    return next((type(each).__name__ for each in wrapped(sampler) if isinstance(each, StatevectorSampler)), None)


def described(sampler: BaseSamplerV2) -> str:
    """Describe a sampler without connecting to anything: "FakeBackendSampler on FakeManilaV2, 1,024 shots"."""
    inner: Any = getattr(sampler, "sampler", sampler)  # the one that a ReliableSampler wraps
    device, noise, shots = (getattr(inner, name, None) for name in ("name", "noise", "shots"))
    if device in (None, "least_busy"):
        device = getattr(getattr(inner, "_backend", None), "name", device)
    where = f" on {device}" if device and device != "aer_simulator" else ""
    said = "" if noise is None else f", noise {noise}" if isinstance(noise, str) else ", custom noise"
    return f"{type(sampler).__name__}{where}{said}{f', {shots:,} shots' if isinstance(shots, int) else ''}"


def with_noise_position(sampler: Any) -> Any:
    """The wrapped sampler whose sequence of noise can be continued (it has ``noise_position``); None for others."""
    return next((each for each in wrapped(sampler) if hasattr(each, "noise_position")), None)


def calibration_date(sampler: BaseSamplerV2) -> str | None:
    """The date of the provider's last calibration of the device; None if it is unknown."""
    date = getattr(sampler, "calibrated", None)
    if date is None and callable(properties := getattr(backend_of(sampler), "properties", None)):
        date = getattr(properties(), "last_update_date", None)
    return None if date is None else str(date)
