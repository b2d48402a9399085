"""Samplers: where circuits run. With noise.py and hardware.py the only files that name a backend.

Every sampler is a ``qiskit.primitives.BaseSamplerV2``; a network takes any of them. What these add to the stock ones:
noise that is fresh in each call, yet a function of (seed, step, call); one thread; lazy construction; pickling.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit.primitives import BasePrimitiveJob, BaseSamplerV2, StatevectorSampler
from qiskit.primitives.containers import PrimitiveResult, SamplerPubLike, SamplerPubResult
from qiskit_machine_learning.primitives import QMLSampler

from lightning_qsgd.distributed import rank
from lightning_qsgd.quantum.noise import check_noise, fake_backend, noise_model

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel

SamplerJob = BasePrimitiveJob[PrimitiveResult[SamplerPubResult], Any]


class ExactSampler(QMLSampler):
    """Exact outcome probabilities from the statevector; no shots, no noise. Agreement with the state: 1e-14."""

    def __init__(self) -> None:
        super().__init__(shots=None)


class AerSampler(BaseSamplerV2):
    """Qiskit Aer's simulator with shot noise that is fresh in each call and reproducible.

    The simulator's seed of a call is derived from (seed, step, number of the call within the step), so that repeated
    calls differ, a repeated run does not, and a resumed run continues as if it had never stopped. A plain Aer sampler
    with an integer seed repeats the same noise in every call.

    Args:
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.
        noise: a ``qiskit_aer.noise.NoiseModel``; or "depolarizing", "thermal" or "readout", the presets of noise.py;
            or the name of a fake backend whose noise alone is taken, such as "FakeManilaV2" (needs
            qiskit-ibm-runtime); or None for a perfect device. Default: None.
        device: "CPU" or "GPU" (needs a CUDA build of Aer). Default: "CPU".

    Raises:
        ValueError: for shots below 1, a negative seed, an unknown noise, or (at the first circuit) an unknown fake
            backend or a device that Aer does not have.
    """

    def __init__(
        self,
        shots: int = 1024,
        seed: int = 0,
        noise: NoiseModel | str | None = None,
        device: Literal["CPU", "GPU"] = "CPU",
    ) -> None:
        if not isinstance(shots, Integral) or shots < 1:
            raise ValueError(
                f"Invalid shots: {shots!r}; it must be a whole number, at least 1 (exact probabilities: ExactSampler)"
            )
        if seed < 0:
            raise ValueError(f"Invalid seed: {seed}; it must be at least 0")
        if isinstance(noise, str):
            check_noise(noise)
        self.shots, self.seed, self.noise, self.device = shots, seed, noise, device
        self._step, self._call = 0, 0
        self._backend: Any = None

    @property
    def backend(self) -> Any:
        """The ``AerSimulator``, built at first use: circuits are transpiled for it."""
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
        # One thread: on small circuits more threads make Aer 2 to 7 times slower.
        return AerSimulator(noise_model=noise, device=self.device, max_parallel_threads=1)

    def reseed(self, step: int) -> None:
        """Start the noise of training step ``step`` (at least 0; -1: before training); calls in it count from 0."""
        self._step, self._call = step + 1, 0  # 0 stands for calls outside of any step

    @property
    def noise_position(self) -> tuple[int, int]:
        """Where the sequence of noise is: (training step + 1 or 0, call in it). Set it to go on from there."""
        return self._step, self._call

    @noise_position.setter
    def noise_position(self, value: tuple[int, int]) -> None:
        self._step, self._call = value

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Run circuits with fresh noise; see ``BaseSamplerV2.run``."""
        from qiskit_aer.primitives import SamplerV2

        key = (self.seed, self._step, self._call, *([rank()] if rank() else []))
        # 31 bits, and never 0, which some primitives take for "no seed".
        seed = int(np.random.SeedSequence(key).generate_state(1)[0] >> 1) or 1
        self._call += 1
        sampler = SamplerV2.from_backend(self.backend, default_shots=self.shots, seed=seed)
        return sampler.run(pubs, shots=shots)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backend": None}  # the simulator itself is rebuilt where it is needed


class FakeBackendSampler(AerSampler):
    """A fake backend of qiskit-ibm-runtime on Aer: a device's qubits, couplings, basis gates and calibrated noise.

    Circuits are transpiled for the device, as for the real one. Noise is fresh and reproducible as in
    :class:`AerSampler`. The simulator is built once: for 127 qubits that takes seconds.

    Args:
        name: class name in ``qiskit_ibm_runtime.fake_provider``. Default: "FakeManilaV2" (5 qubits in a line).
        shots: shots per circuit, at least 1. Default: 1024.
        seed: base seed, at least 0. Default: 0.

    Raises:
        ValueError: for shots below 1, a negative seed, or (at the first circuit) an unknown name.
        ModuleNotFoundError: at the first circuit, without qiskit-ibm-runtime.
    """

    def __init__(self, name: str = "FakeManilaV2", shots: int = 1024, seed: int = 0) -> None:
        super().__init__(shots, seed)
        self.name = name

    def _build(self) -> Any:
        from qiskit_aer import AerSimulator

        return AerSimulator.from_backend(fake_backend(self.name), max_parallel_threads=1)

    @property
    def calibrated(self) -> Any:
        """Date of the device's calibration that the noise is taken from."""
        return fake_backend(self.name).properties().last_update_date


def available_devices() -> list[str]:
    """Devices that this build of Qiskit Aer can use, such as "CPU" and "GPU"."""
    from qiskit_aer import AerSimulator

    return list(AerSimulator().available_devices() or [])


def backend_of(sampler: BaseSamplerV2) -> Any:
    """The backend that circuits must be transpiled for, or None where the sampler runs any circuit."""
    backend = getattr(sampler, "backend", None)  # a property in Qiskit and here, a method in qiskit-ibm-runtime
    return backend() if callable(backend) else backend


def transpiled(circuit: QuantumCircuit, backend: Any, **options: Any) -> QuantumCircuit:
    """``qiskit.transpile(circuit, backend, **options)``, 40 times faster for an ``AerSimulator``.

    Qiskit asks the backend for its target some 160 times, and qiskit-aer 0.18 builds that anew each time: 0.17 of 0.175 s.
    Devices' own transpiler stages are known to the backend alone, so that other backends are passed as they are.
    """
    from qiskit_aer import AerSimulator

    if isinstance(backend, AerSimulator):
        return transpile(circuit, target=backend.target, **options)
    return transpile(circuit, backend, **options)


def statevector_sampler(sampler: BaseSamplerV2) -> str | None:
    """The name of the sampler, or of the one it wraps, that computes with a pure state alone; None for others."""
    inner: Any = sampler
    while inner is not None and not isinstance(inner, StatevectorSampler):
        inner = getattr(inner, "sampler", None)
    return None if inner is None else type(inner).__name__


def described(sampler: BaseSamplerV2) -> str:
    """A sampler in words, without connecting to anything: "FakeBackendSampler on FakeManilaV2, 1,024 shots"."""
    inner: Any = getattr(sampler, "sampler", sampler)  # what a ReliableSampler wraps
    device, noise, shots = (getattr(inner, name, None) for name in ("name", "noise", "shots"))
    if device in (None, "least_busy"):
        device = getattr(getattr(inner, "_backend", None), "name", device)
    where = f" on {device}" if device and device != "aer_simulator" else ""
    said = f", noise {noise if isinstance(noise, str) else 'of its own'}" if noise is not None else ""
    return f"{type(sampler).__name__}{where}{said}{f', {shots:,} shots' if isinstance(shots, int) else ''}"


def with_noise_position(sampler: Any) -> Any:
    """The sampler, or the one it wraps, whose noise has a place to go on from (``noise_position``); None without."""
    while sampler is not None and not hasattr(sampler, "noise_position"):
        sampler = getattr(sampler, "sampler", None)
    return sampler


def calibration_date(sampler: BaseSamplerV2) -> str | None:
    """When the device behind a sampler was last calibrated by its provider; None where it does not say."""
    date = getattr(sampler, "calibrated", None)
    if date is None and callable(properties := getattr(backend_of(sampler), "properties", None)):
        date = getattr(properties(), "last_update_date", None)
    return None if date is None else str(date)
