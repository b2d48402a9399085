"""Samplers: where circuits run. Only this file, noise.py and hardware.py name a backend.

Every sampler is a ``qiskit.primitives.BaseSamplerV2``, and a network accepts any of them. In contrast to Qiskit's, the
noise of these is new in each call, but a function of (seed, step, call). They use one thread, build their simulator at
first use, and can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """Exact outcome probabilities from the statevector, without shots and noise. The error is at most 1e-14."""

    def __init__(self) -> None:
        super().__init__(shots=None)


class AerSampler(BaseSamplerV2):
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

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Run circuits with new noise; see ``BaseSamplerV2.run``."""
        from qiskit_aer.primitives import SamplerV2

        key = (self.seed, self._step, self._call, *([rank()] if rank() else []))
        # 31 bits, and not 0, which some primitives take for "no seed".
        seed = int(np.random.SeedSequence(key).generate_state(1)[0] >> 1) or 1
        self._call += 1
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
    0.175 s. Other backends are passed on, because only they know the transpiler stages of their device.
    """
    from qiskit_aer import AerSimulator

    if isinstance(backend, AerSimulator):
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
