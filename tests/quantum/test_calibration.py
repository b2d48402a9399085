import json
import os
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from qiskit_aer.noise import NoiseModel, coherent_unitary_error, depolarizing_error

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    Calibration,
    ExactSampler,
    FakeBackendSampler,
    QuantumNetwork,
    ReliableSampler,
    calibrate,
    superposition_circuit,
)
from lightning_qsgd.quantum.calibration import design, num_circuits
from lightning_qsgd.quantum.goodness import drift_test
from tests.quantum.wrong_samplers import Branching, Drifting, OverRotating

ANSATZ = superposition_circuit(2, 2)
WEIGHTS = np.arange(6) / 3


def aer(seed=0, shots=1024, **arguments):
    return QuantumNetwork(ANSATZ, AerSampler(shots=shots, seed=seed, **arguments))


def test_the_plan_is_shuffled_with_reference_points_throughout():
    points, kinds = design((5, 5), np.array([1.0, 2.0]), held_out=10, references=6, seed=0)
    assert points.shape == (25 + 10 + 6, 2)
    assert np.bincount(kinds).tolist() == [25, 10, 6]
    places = np.flatnonzero(kinds == 2)
    assert (places[0], places[-1]) == (0, 40)
    assert np.diff(places).max() <= 9
    assert (points[places] == [1.0, 2.0]).all()
    grid = points[kinds == 0]
    assert len(np.unique(grid.round(9), axis=0)) == 25
    assert not np.array_equal(grid, design((5, 5), np.array([1.0, 2.0]), 10, 6, seed=1)[0][kinds == 0])
    assert num_circuits(ANSATZ, 10, 6) == 41


def test_an_exact_network_is_reproduced_whatever_the_order():
    calibration = calibrate(QuantumNetwork(ANSATZ, ExactSampler()), WEIGHTS)
    points = torch.randn(20, 2, dtype=torch.float64)
    exact = QuantumNetwork(ANSATZ).probabilities(points, WEIGHTS)
    np.testing.assert_allclose(calibration.surrogate(points), exact, atol=1e-10)
    assert calibration.results()["fit_largest_residual"] < 1e-10
    assert "fit_p" not in calibration.results()
    assert calibration.warnings() == []


def test_a_file_brings_everything_back(tmp_path):
    calibration = calibrate(aer(), WEIGHTS, max_age_days=3)
    calibration.save(tmp_path / "new" / "x.npz")
    loaded = Calibration.load(tmp_path / "new" / "x.npz")
    assert torch.equal(loaded.surrogate.coefficients, calibration.surrogate.coefficients)
    assert (loaded.surrogate.shots, loaded.provenance) == (1024, calibration.provenance)
    np.testing.assert_array_equal(loaded.frequencies, calibration.frequencies)
    loaded.check(ANSATZ, WEIGHTS, "x.npz")
    assert os.listdir(tmp_path / "new") == ["x.npz"]
    facts = loaded.provenance
    assert (facts["circuits"], facts["shots"], facts["sampler"]) == (25 + 64 + 16, 1024, "AerSampler")
    assert facts["versions"]["qiskit"]


def test_a_fake_device_names_its_calibration():
    calibration = calibrate(QuantumNetwork(ANSATZ, FakeBackendSampler("FakeManilaV2", shots=512)), WEIGHTS)
    assert calibration.provenance["backend_calibrated"].startswith("20")
    assert "manila" in calibration.provenance["backend"]
    assert calibration.results()["fit_p"] > 1e-3  # exact also for a noisy device


@pytest.mark.parametrize(
    ("ansatz", "weights"),
    [
        (superposition_circuit(2, 1), WEIGHTS[:2]),
        (superposition_circuit(2, 2, "none"), WEIGHTS),
        (ANSATZ, WEIGHTS + 1e-3),
    ],
)
def test_another_circuit_is_refused(ansatz, weights):
    calibration = calibrate(QuantumNetwork(ANSATZ), WEIGHTS)
    with pytest.raises(ValueError, match=r"Calibration x\.npz is of another circuit \(superposition, 2 qubits"):
        calibration.check(ansatz, weights, "x.npz")


def test_a_circuit_without_a_name_is_known_by_its_gates():
    x, circuit = Parameter("x"), QuantumCircuit(2)
    circuit.rx(x, 0)
    circuit.cz(0, 1)
    calibration = calibrate(QuantumNetwork(Ansatz(circuit, [x])))
    with pytest.raises(ValueError, match=r"of another circuit \(2 qubits, depth 2: 1 rx, 1 cz\)"):
        calibration.check(ANSATZ, WEIGHTS, "x.npz")


def test_too_old_is_refused():
    calibration = calibrate(QuantumNetwork(ANSATZ), WEIGHTS, max_age_days=2)
    calibration.check(ANSATZ, WEIGHTS, "x.npz")
    made = datetime.now(UTC) - timedelta(days=2.6)
    calibration.provenance["created"] = made.isoformat()
    with pytest.raises(ValueError, match=r"x\.npz is 2\.6 days old, more than its limit of 2; .*calibrate again"):
        calibration.check(ANSATZ, WEIGHTS, "x.npz")
    calibration.provenance["max_age_days"] = None
    calibration.check(ANSATZ, WEIGHTS, "x.npz")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="lightning-qsgd calibrate"):
        Calibration.load(path)
    calibrate(QuantumNetwork(ANSATZ), WEIGHTS).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    broken = [whole[: len(whole) // 2], bytes(flipped), b"", b"not an archive", pickle.dumps({"coefficients": 1})]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz cannot be read"):
            Calibration.load(path)
    np.savez(path, coefficients=np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read"):
        Calibration.load(path)
    np.savez(path, **{name: np.array([{}], dtype=object) for name in ("coefficients", "points")})
    with pytest.raises(ValueError, match="cannot be read"):  # objects would need pickle
        Calibration.load(path)


def test_another_format_is_refused(tmp_path):
    calibration = calibrate(QuantumNetwork(ANSATZ), WEIGHTS)
    calibration.provenance["format"] = 99
    calibration.save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="its format is 99"):
        Calibration.load(tmp_path / "x.npz")


# ---- the tests that it makes


@pytest.mark.parametrize(("num_qubits", "depth"), [(1, 1), (2, 2)])
def test_a_perfect_device_is_rarely_rejected(num_qubits, depth):
    """p-values of 60 calibrations: about 5 % below 0.05, none extreme; residuals are what is expected on average."""
    ansatz = superposition_circuit(num_qubits, depth)
    weights = np.random.default_rng(1).uniform(-3, 3, ansatz.num_weights)
    calibrations = [
        calibrate(QuantumNetwork(ansatz, AerSampler(shots=512, seed=seed)), weights, seed=seed, held_out=32)
        for seed in range(60)
    ]
    assert not any(calibration.misfit() for calibration in calibrations)
    squares = np.square([calibration.residual[:2] for calibration in calibrations]).mean(0)
    assert squares[0] == pytest.approx(squares[1], rel=0.1)
    results = [calibration.results() for calibration in calibrations]
    for name in ("fit_p", "drift_p"):
        p = np.array([r[name] for r in results if name in r])
        assert len(p) > 50
        assert (p < 0.05).sum() <= 9  # 99.9 % of Binomial(60, 0.05)
        assert p.min() > 1e-4
        assert 0.35 < p.mean() < 0.65
    assert 0.9 < np.mean([r["fit_chi_square_per_dof"] for r in results]) < 1.1


def test_errors_that_grow_with_the_angle_are_found():
    network = QuantumNetwork(superposition_circuit(2, 2), OverRotating(shots=20_000))
    calibration = calibrate(network, np.arange(6) / 3)
    assert calibration.results()["fit_p"] < 1e-6
    (warning,) = calibration.warnings()
    assert warning == calibration.misfit()
    found, expected = calibration.residual.found, calibration.residual.expected
    assert f"a residual of {found:.2g}, where shots explain {expected:.2g} (p < 1e-99)" in warning
    assert "repeats of one point show no drift: its errors depend on the angles. Use another sampler" in warning


def test_errors_below_shot_noise_are_warned_of_but_no_misfit():
    network = QuantumNetwork(superposition_circuit(2, 2), OverRotating(shots=8000, factor=1.005))
    calibration = calibrate(network, np.arange(6) / 3)
    assert 1 < calibration.residual.found / calibration.residual.expected < 2
    assert calibration.results()["fit_p"] < 0.01
    assert calibration.misfit() is None
    assert "does not fit held-out points" in calibration.warnings()[0]


@pytest.mark.parametrize(("p", "warned"), [(0.0101, False), (0.0099, True)])
def test_the_level_of_warnings_is_one_percent(p, warned):
    calibration = calibrate(aer(shots=2000), WEIGHTS)
    calibration.provenance["results"] |= {"fit_p": p, "drift_p": 0.5}
    assert calibration.misfit() is None
    assert len(calibration.warnings()) == warned
    calibration.provenance["results"] |= {"fit_p": 0.5, "drift_p": p}
    assert len(calibration.warnings()) == warned


@pytest.mark.parametrize("sampler", [Branching(), OverRotating(shots=None)])
def test_an_exact_sampler_without_a_series_is_found(sampler, tmp_path):
    calibrate(QuantumNetwork(ANSATZ, sampler), WEIGHTS).save(tmp_path / "x.npz")
    calibration = Calibration.load(tmp_path / "x.npz")  # as version 0.1.0 wrote it: nothing judged, p-values none
    assert calibration.results().keys() == {"fit_largest_residual", "drift_largest"}
    assert calibration.residual.found > 0.01
    assert calibration.residual.expected == 0
    state = isinstance(sampler, Branching)
    assert ("keeps a state" if state else "depend on the angles") in calibration.misfit()
    assert "exact probabilities leave only rounding" in calibration.misfit()


class InFloat32(QuantumNetwork):
    def probabilities(self, inputs, weights=None, *, step=None):
        return super().probabilities(np.float32(inputs), weights, step=step).astype(np.float32).astype(np.float64)


def test_rounding_in_float32_is_no_misfit():
    calibration = calibrate(InFloat32(ANSATZ), WEIGHTS)
    assert 1e-9 < calibration.residual.found < 1e-6
    assert calibration.warnings() == []


@pytest.mark.parametrize("shots", [1, 10, 30, 100])
def test_a_few_shots_are_no_misfit(shots):
    assert calibrate(aer(shots=shots), WEIGHTS).warnings() == []
    assert calibrate(QuantumNetwork(ANSATZ, FakeBackendSampler(shots=shots)), WEIGHTS).misfit() is None


def test_coherent_errors_of_fixed_gates_are_part_of_the_surrogate():
    noise = NoiseModel()
    angle = 0.1
    tilt = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    noise.add_all_qubit_quantum_error(coherent_unitary_error(np.array(tilt)), ["h"])
    noise.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), ["cx"])
    assert calibrate(aer(shots=20_000, noise=noise), WEIGHTS).results()["fit_p"] > 1e-3


def test_drift_is_found():
    calibration = calibrate(QuantumNetwork(superposition_circuit(3, 2), Drifting(shots=4000)), np.zeros(9))
    assert calibration.results()["drift_p"] < 1e-6
    assert calibration.residual.found > 3 * calibration.residual.expected
    assert "repeats of one point differ: it drifted" in calibration.misfit()
    assert "Calibrate again" in calibration.misfit()


def test_drift_of_a_certain_outcome_cannot_be_tested():
    assert drift_test(np.tile([1.0, 0.0], (5, 1)), 100).p is None


# ---- running it


def test_progress_reaches_the_end_and_the_job_splitter_reports_it():
    seen = []
    calibrate(aer(), WEIGHTS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (105, 105)
    assert len(seen) > 1
    seen.clear()
    network = QuantumNetwork(ANSATZ, ReliableSampler(AerSampler(), max_circuits=50))
    calibrate(network, WEIGHTS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(50, 105), (100, 105), (105, 105)]
    network.probabilities(np.zeros((1, 2)), WEIGHTS)
    assert len(seen) == 3
    assert calibrate(network, WEIGHTS).provenance["circuits"] == 105  # of this calibration alone


INVALID = [{"held_out": 0}, {"references": 2}, {"seed": -1}, {"max_age_days": 0}, {"max_age_days": float("nan")}]


@pytest.mark.parametrize("arguments", INVALID)
def test_invalid_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=f"Invalid .*{next(iter(arguments))}"):
        calibrate(QuantumNetwork(ANSATZ), WEIGHTS, **arguments)


def test_provenance_is_plain_json():
    provenance = calibrate(aer(shots=64), WEIGHTS).provenance
    assert json.loads(json.dumps(provenance)) == provenance


def test_circuits_that_the_simulator_does_not_take_are_calibrated_too():
    x = ParameterVector("x", 2)
    circuit = QuantumCircuit(2)
    circuit.rx(x[0], 0)
    circuit.ryy(x[1], 0, 1)
    ansatz = Ansatz(circuit, list(x))
    calibration = calibrate(QuantumNetwork(ansatz))
    assert calibration.results()["fit_largest_residual"] < 1e-10
