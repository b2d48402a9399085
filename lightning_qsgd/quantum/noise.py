"""Noise models: three presets, and those of the fake backends of qiskit-ibm-runtime.

Circuits for the presets are transpiled to the basis rz, sx, x, cx, so every parameter is in an rz. Hardware implements
rz by changing the phase of the drive, which takes no time and makes no error; nor does it here. The default rates are
rounded medians of ibmq_kolkata, a 27-qubit device with this basis (``FakeKolkataV2`` has its calibration).

In YAML, each of the three functions can be the ``class_path`` of a sampler's ``noise``, with its rates as
``init_args``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_qsgd.files import close

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel

BASIS = ("rz", "sx", "x", "cx")


def depolarizing_noise(one_qubit: float = 2e-4, two_qubit: float = 7.5e-3) -> NoiseModel:
    """Depolarizing errors after each gate, which move expectations towards those of the fully mixed state.

    Args:
        one_qubit: average infidelity of sx and x, 0 to 1/2. Default: 2e-4.
        two_qubit: average infidelity of cx, 0 to 3/4. Default: 7.5e-3.

    Raises:
        ValueError: if a rate is out of range.
    """
    from qiskit_aer.noise import NoiseModel, depolarizing_error

    model = NoiseModel(basis_gates=list(BASIS))
    for name, rate, qubits, gates in (
        ("one_qubit", one_qubit, 1, ["sx", "x"]),
        ("two_qubit", two_qubit, 2, ["cx"]),
    ):
        highest = 1 - 0.5**qubits  # of the fully depolarizing channel
        _check(name, rate, highest)
        model.add_all_qubit_quantum_error(depolarizing_error(rate / highest, qubits), gates)
    return model


def thermal_noise(
    t1: float = 110.0, t2: float = 80.0, one_qubit_time: float = 0.035, two_qubit_time: float = 0.4
) -> NoiseModel:
    """Relaxation to 0 (t1) and dephasing (t2) during each gate. Idle qubits and the readout have no errors.

    Args:
        t1: relaxation time, microseconds, above 0. Default: 110.
        t2: coherence time, microseconds, above 0 and at most 2 * t1. Default: 80.
        one_qubit_time: duration of sx and x, microseconds, at least 0. Default: 0.035.
        two_qubit_time: duration of cx, microseconds, at least 0. Default: 0.4.

    Raises:
        ValueError: if a time is out of range.
    """
    from qiskit_aer.noise import NoiseModel, thermal_relaxation_error

    if t1 <= 0:
        raise ValueError(f"Invalid t1: {t1}; it must be above 0 microseconds")
    if not 0 < t2 <= 2 * t1:
        raise ValueError(f"Invalid t2: {t2}; it must be above 0 and at most 2 * t1 = {2 * t1} microseconds")
    _check("one_qubit_time", one_qubit_time, float("inf"))
    _check("two_qubit_time", two_qubit_time, float("inf"))
    model = NoiseModel(basis_gates=list(BASIS))
    model.add_all_qubit_quantum_error(thermal_relaxation_error(t1, t2, one_qubit_time), ["sx", "x"])
    single = thermal_relaxation_error(t1, t2, two_qubit_time)
    model.add_all_qubit_quantum_error(single.tensor(single), ["cx"])
    return model


def readout_noise(e01: float = 0.008, e10: float = 0.01) -> NoiseModel:
    """Flipped bits at the readout; gates have no errors.

    For a qubit with s = P(1) - P(0), the readout gives (1 - e01 - e10) * s + (e01 - e10).

    Args:
        e01: probability to read 1 if the qubit is 0, 0 to 1. Default: 0.008.
        e10: probability to read 0 if the qubit is 1, 0 to 1. Default: 0.01.

    Raises:
        ValueError: if a probability is out of range.
    """
    from qiskit_aer.noise import NoiseModel, ReadoutError

    _check("e01", e01, 1.0)
    _check("e10", e10, 1.0)
    model = NoiseModel(basis_gates=list(BASIS))
    model.add_all_qubit_readout_error(ReadoutError([[1 - e01, e01], [e10, 1 - e10]]))
    return model


PRESETS = {"depolarizing": depolarizing_noise, "thermal": thermal_noise, "readout": readout_noise}


def noise_model(name: str) -> NoiseModel:
    """The noise model of a preset with its default rates, or of a fake backend such as "FakeManilaV2".

    The noise of a fake backend belongs to its physical qubits and couplings, and gates elsewhere have no errors.
    ``FakeBackendSampler`` transpiles circuits to them.

    Raises:
        ValueError: if the name is unknown.
        ModuleNotFoundError: if a fake backend needs qiskit-ibm-runtime and it is not installed.
    """
    from qiskit_aer.noise import NoiseModel

    check_noise(name)
    return PRESETS[name]() if name in PRESETS else NoiseModel.from_backend(fake_backend(name))


def check_noise(name: str) -> None:
    """Raise ValueError unless ``name`` is a preset or looks like a fake backend."""
    if name not in PRESETS and not name.startswith("Fake"):
        raise ValueError(
            f"Invalid noise: {name!r}; it must be one of {', '.join(PRESETS)}, the name of a fake backend such as "
            "FakeManilaV2, or a noise model"
        )


def fake_backend(name: str) -> Any:
    """The fake backend of qiskit-ibm-runtime with this class name, such as "FakeManilaV2".

    Raises:
        ValueError: if the name is unknown.
        ModuleNotFoundError: if qiskit-ibm-runtime is not installed.
    """
    try:
        from qiskit_ibm_runtime import fake_provider
        from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
    except ModuleNotFoundError as error:
        raise missing_runtime(error) from error
    known = [
        key
        for key, value in vars(fake_provider).items()
        if isinstance(value, type) and issubclass(value, FakeBackendV2)
    ]
    if name not in known:
        near = close(name, known, 0.5, otherwise=sorted(known)[:3])
        raise ValueError(f"Invalid name: no fake backend {name!r} among {len(known)}{near}")
    return getattr(fake_provider, name)()


def missing_runtime(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error to raise if qiskit-ibm-runtime is not installed. The error of another missing module is returned."""
    if error.name is None or error.name.split(".")[0] != "qiskit_ibm_runtime":
        return error
    return ModuleNotFoundError("qiskit-ibm-runtime is not installed; pip install qiskit-ibm-runtime")


def _check(name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        limit = "at least 0" if highest == float("inf") else f"between 0 and {highest:g}"
        raise ValueError(f"Invalid {name}: {value}; it must be {limit}")
