"""The series behind CircuitPerturbation: calibrations, light cones, fresh shot noise."""

import copy
import math

import numpy as np
import pytest
import torch
from qiskit.primitives import BaseSamplerV2

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.quantum import (
    AerSampler,
    ExactSampler,
    FakeBackendSampler,
    FourierSurrogate,
    LightConeSurrogate,
    calibrate,
)
from tests.optim.common import ask, random_angles
from tests.quantum.wrong_samplers import Branching, Drifting, OverRotating


class NoCircuits(BaseSamplerV2):
    """A device that must not be asked."""

    def run(self, pubs, *, shots=None):
        raise AssertionError("a circuit ran")


@pytest.fixture(scope="module")
def manila(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrations") / "manila.npz"
    circuit = CircuitPerturbation(sampler=FakeBackendSampler(shots=256))
    calibrate(circuit.network, circuit.weights).save(path)
    return str(path)


# ---- calibration


def test_a_calibration_answers_without_a_circuit(manila):
    perturbation = CircuitPerturbation(calibration=manila, sampler=NoCircuits())
    assert manila in perturbation.prepare()
    angles = random_angles()
    noisy, exact = ask(perturbation, angles), ask(CircuitPerturbation(), angles)
    assert 0.01 < (noisy - exact).abs().mean() < 0.3
    assert perturbation.circuits == 0
    report = perturbation.report()
    assert set(report) >= {"circuit", "surrogate_clipped_mass", "calibration_fit_p", "calibration_drift_p"}
    assert report["surrogate_clipped_mass"] > 0


def test_a_calibration_of_another_circuit_is_refused(manila):
    for arguments in ({"depth": 1}, {"rotations": "zero"}, {"num_qubits": 3}):
        with pytest.raises(ValueError, match=r"manila\.npz is of another circuit"):
            CircuitPerturbation(calibration=manila, **arguments).prepare()
    with pytest.raises(FileNotFoundError, match=r"none\.npz not found"):
        CircuitPerturbation(calibration="none.npz").prepare()


def test_a_resumed_run_keeps_the_series_it_had(manila, caplog):
    first = CircuitPerturbation(calibration=manila)
    angles = random_angles()
    expected = ask(first, angles)
    resumed = CircuitPerturbation(calibration="gone.npz", sampler=NoCircuits())
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(ask(resumed, angles), expected)
    assert "surrogate_residual" not in resumed.report()
    assert "calibration gone.npz is not read" in caplog.text


def test_doubtful_calibrations_warn(tmp_path, caplog):
    circuit = CircuitPerturbation(num_qubits=2)
    calibration = calibrate(circuit.network, circuit.weights)
    calibration.provenance["results"]["fit_p"] = 1e-9
    calibration.save(tmp_path / "bad.npz")
    CircuitPerturbation(num_qubits=2, calibration=str(tmp_path / "bad.npz")).prepare()
    assert "does not fit held-out points" in caplog.text


def test_a_calibration_that_does_not_describe_its_device_warns_once(tmp_path, caplog):
    circuit = CircuitPerturbation(num_qubits=2, sampler=Branching())
    calibrate(circuit.network, circuit.weights).save(tmp_path / "x.npz")
    CircuitPerturbation(num_qubits=2, calibration=str(tmp_path / "x.npz")).prepare()
    (record,) = caplog.records
    assert "x.npz: the series does not describe the device: held-out points give a residual of 0." in record.message


# ---- the residual is judged


@pytest.mark.parametrize(
    ("sampler", "explained"),
    [
        (Branching(), "exact probabilities leave only rounding"),
        (OverRotating(shots=None), "exact probabilities leave only rounding"),
        (OverRotating(shots=1024, factor=1.05), "shots explain 0.017 (p < "),
        (Drifting(shots=20_000, rate=5), "shots explain 0.00"),
    ],
    ids=["branches", "exact, over-rotating", "over-rotating", "drifting"],
)
@pytest.mark.parametrize("entanglement", ["linear", "none"])
def test_a_series_that_does_not_describe_its_sampler_warns(sampler, explained, entanglement, caplog):
    sampler = copy.deepcopy(sampler)
    circuit = CircuitPerturbation(num_qubits=2, entanglement=entanglement, sampler=sampler)
    circuit.prepare()
    numbers = circuit.report()
    (record,) = caplog.records
    assert f"does not describe {type(sampler).__name__}: 32 fresh circuits give a residual of " in record.message
    assert f"residual of {numbers['surrogate_residual']:.2g}, where" in record.message
    if entanglement == "linear":
        assert explained in record.message
    live = LiveCircuitPerturbation(num_qubits=2, entanglement=entanglement, sampler=sampler)
    live.prepare()
    live.report()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("entanglement", ["linear", "none"])
@pytest.mark.parametrize("shots", [1, 8, 64, 1024])
@pytest.mark.parametrize("sampler", [AerSampler, FakeBackendSampler])
def test_a_series_with_shot_noise_or_fixed_errors_does_not_warn(sampler, shots, entanglement, caplog):
    circuit = CircuitPerturbation(num_qubits=2, entanglement=entanglement, sampler=sampler(shots=shots))
    circuit.prepare()
    circuit.report()
    assert not caplog.records


# ---- light cones


def test_without_entanglement_a_few_circuits_suffice():
    product = CircuitPerturbation(num_qubits=8, entanglement="none", rotations="random")
    line = product.prepare()
    assert product.circuits == 5
    assert "5 circuits" in line
    assert isinstance(product.surrogate, LightConeSurrogate)
    angles = random_angles(10, 8)
    live = LiveCircuitPerturbation(num_qubits=8, entanglement="none", rotations="random")
    torch.testing.assert_close(ask(product, angles), ask(live, angles), atol=1e-9, rtol=0)
    report = product.report()
    assert report["surrogate_residual"] < 1e-9
    resumed = CircuitPerturbation(num_qubits=8, entanglement="none", rotations="random", sampler=NoCircuits())
    resumed.load_state_dict(product.state_dict())
    assert torch.equal(ask(resumed, angles), ask(product, angles))


@pytest.mark.parametrize("center", ["zero", "odd"])
def test_centring_a_product_circuit(center):
    arguments = {"entanglement": "none", "rotations": "zero", "center": center}
    angles = random_angles()
    expected = ask(LiveCircuitPerturbation(**arguments), angles)
    torch.testing.assert_close(ask(CircuitPerturbation(**arguments), angles), expected, atol=1e-9, rtol=0)


def test_residual_of_a_sampled_product_circuit_is_what_shots_explain():
    report = CircuitPerturbation(entanglement="none", sampler=AerSampler(shots=200))
    report.prepare()
    numbers = report.report(num_points=400)
    assert numbers["surrogate_residual"] == pytest.approx(numbers["surrogate_residual_expected"], rel=0.25)


# ---- shot noise


def test_shot_noise_is_fresh_in_each_step_repeats_with_the_seed_and_has_the_variance_of_shots():
    shots, angles = 100, random_angles(1000, 2)
    exact = ask(CircuitPerturbation(num_qubits=2), angles)
    noisy = CircuitPerturbation(num_qubits=2, shot_noise=shots, sampler=ExactSampler())
    first, second = ask(noisy, angles, step=0), ask(noisy, angles, step=1)
    assert not torch.equal(first, second)
    assert torch.equal(ask(noisy, angles, step=0), first)
    other = CircuitPerturbation(num_qubits=2, shot_noise=shots, shot_noise_seed=1)
    assert not torch.equal(ask(other, angles, step=0), first)
    variance = (1 - exact**2) / shots
    assert ((first - exact) ** 2).mean().item() == pytest.approx(variance.mean().item(), rel=0.1)
    assert first.abs().max() <= 1
    live = LiveCircuitPerturbation(num_qubits=2, sampler=AerSampler(shots=shots))
    spread = ((ask(live, angles, step=0) - exact) ** 2).mean().item()
    assert ((first - exact) ** 2).mean().item() == pytest.approx(spread, rel=0.15)


def test_shot_noise_takes_the_series_of_all_outcomes():
    noisy = CircuitPerturbation(num_qubits=2, entanglement="none", shot_noise=50)
    noisy.prepare()
    assert isinstance(noisy.surrogate, FourierSurrogate)
    frozen = ControlPerturbation("frozen", noisy)
    assert torch.equal(ask(frozen, random_angles(2, 2), 0), ask(frozen, random_angles(2, 2), 5))


def test_shot_noise_after_a_checkpoint_without_it_measures_all_outcomes_anew():
    plain = CircuitPerturbation(entanglement="none", rotations="random")
    plain.prepare()
    noisy = CircuitPerturbation(entanglement="none", rotations="random", shot_noise=2)
    noisy.load_state_dict(plain.state_dict())
    assert len(ask(noisy, torch.full((50, 4), 0.3, dtype=torch.float64)).unique()) > 1
    assert isinstance(noisy.surrogate, FourierSurrogate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shot_noise_seed": -1}, "Invalid shot_noise_seed: -1"),
        ({"shot_noise": 0}, "Invalid shot_noise: 0"),
    ],
)
def test_invalid_shot_noise_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CircuitPerturbation(**arguments)


# ---- noise


def test_readout_error_becomes_a_learning_rate_factor():
    """s is mapped to (1 - e01 - e10) s + (e01 - e10) by readout: the offset is logged as such."""
    perturbation = CircuitPerturbation(
        num_qubits=2, sampler=AerSampler(shots=200_000, noise="readout"), decode_chain=False, depth=1
    )
    exact = CircuitPerturbation(num_qubits=2, decode_chain=False, depth=1)
    angles = random_angles(30, 2)
    fit = np.polyfit(ask(exact, angles)[:, 0], ask(perturbation, angles)[:, 0], 1)
    assert fit[0] == pytest.approx(1 - 0.008 - 0.01, abs=0.005)
    assert abs(fit[1]) == pytest.approx(0.002, abs=0.003)


@pytest.mark.parametrize("noise", ["depolarizing", "thermal", "readout", "FakeManilaV2"])
def test_it_trains_on_noisy_devices(noise):
    circuit = CircuitPerturbation(num_qubits=2, sampler=AerSampler(shots=256, noise=noise))
    weight = torch.nn.Parameter(torch.full((4,), 0.2))
    optimizer = SuperpositionalGradientDescent([weight], lr=0.05, perturbation=circuit)
    for _ in range(60):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    assert math.isclose(weight.mean().item(), 1, abs_tol=0.1)
