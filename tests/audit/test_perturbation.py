"""Audits of perturbations along made-up trajectories with known answers."""

import copy
import functools

import numpy as np
import pytest
import torch

from lightning_qsgd.audit.perturbation import audit_perturbation, terms_of
from lightning_qsgd.audit.recording import Trajectory
from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    Perturbation,
    SinePerturbation,
)
from lightning_qsgd.quantum import AerSampler, ExactSampler, FakeBackendSampler, calibrate


def audit(perturbation, width=0.3, times=6, blocks=150, seed=0, stands_for=1.0):
    n = perturbation.num_qubits
    rng = np.random.default_rng(seed)
    start, step = rng.normal(0, width, (blocks, n)), rng.normal(0, width / 10, (times, blocks, n))
    angles = torch.from_numpy(start + step.cumsum(0)).float()
    s = []
    for t in range(times):
        perturbation.layout = [(0, blocks // 2 * n, 0), (1, (blocks - blocks // 2) * n, 0)]
        s.append(perturbation(angles[t], step=t))
    numbers = np.repeat([0, 1], [blocks // 2, blocks - blocks // 2])
    settings = {
        "quantum_weight": 0.5,
        "scale": "adam",
        "target": "update",
        "coupling": "lr",
        "scope": "all",
        "lr": 1e-3,
    }
    row = {"norm_ratio": 0.2, "norm_ratio_touched": 0.2, "effective": 5.0, "touched": 10.0, "quantum_weight": 0.5}
    trajectory = Trajectory(
        ["a", "b"],
        np.arange(times),
        angles,
        torch.stack(s),
        numbers,
        np.full(blocks, stands_for),
        [row],
        blocks * n,
        settings,
    )
    return audit_perturbation(trajectory, perturbation)


@functools.cache
def fitted(**options):
    perturbation = CircuitPerturbation(**({"sampler": ExactSampler()} | options))
    perturbation.prepare()
    return perturbation


def circuit(**options):
    return copy.deepcopy(fitted(**options))


def test_the_sine_is_a_sine():
    found = audit(SinePerturbation())
    assert found.maps["sine"] == pytest.approx(1)
    assert found.sine_amplitude == pytest.approx(1, abs=1e-6)
    assert found.shares.multi < 1e-6
    assert found.truncation.terms == 4
    assert found.uniform is None
    assert found.device_error is None
    assert (found.norm_ratio, found.effective) == (0.2, 0.5)
    assert found.coordinates == (600, 600)
    assert found.intervals == {}


def test_zero_rotations_are_a_learning_rate():
    found = audit(circuit(rotations="zero"), width=0.1, blocks=400)
    assert found.shares.constant > 0.999
    assert found.maps["one number"] > 0.999
    assert found.learning_rate_factor == pytest.approx(1 + 0.5 * found.offset)
    assert found.offset < -0.95
    assert found.device_error == pytest.approx(0, abs=1e-9)
    assert found.per_tensor.keys() == {"a", "b"}
    assert len(found.per_qubit) == 4


def test_a_product_circuit_has_nothing_of_several_angles_and_another_has():
    product = audit(circuit(rotations="random", entanglement="none"), width=2.0)
    assert product.shares.multi < 1e-6
    assert product.uniform is None  # its series is of each qubit's own
    chained = audit(circuit(rotations="random"), width=2.0)
    assert chained.shares.multi > 0.1
    assert chained.uniform.multi > 0.1


def test_shot_noise_is_rest():
    shots = 16
    found = audit(circuit(rotations="zero", shot_noise=shots), width=1.0)
    exact = audit(circuit(rotations="zero"), width=1.0)
    expected = exact.shares.power + (1 - exact.shares.power) / shots  # E s^2 of a mean of +-1
    assert found.shares.power == pytest.approx(expected, rel=0.02)
    assert found.shares.rest == pytest.approx((1 - exact.shares.power) / shots / expected, rel=0.1)
    assert found.shares.multi == pytest.approx(exact.shares.multi * exact.shares.power / expected, rel=0.1)
    assert not found.sampled
    assert found.truncation is not None


def test_live_shots_are_measured_by_repeating():
    live = LiveCircuitPerturbation(rotations="zero", sampler=AerSampler(shots=64, seed=1), max_circuits=200)
    found = audit(live, width=1.0, blocks=100, times=4)
    exact = audit(circuit(rotations="zero"), width=1.0, blocks=100, times=4)
    assert found.sampled
    assert found.circuits == 800
    assert found.shots == 800 * 64
    noise = (1 - exact.shares.power) / 64
    assert found.shares.rest == pytest.approx(noise / (exact.shares.power + noise), rel=0.3)
    assert found.intervals["rest"][0] <= found.shares.rest <= found.intervals["rest"][1]
    assert found.device_error == pytest.approx(0, abs=0.02)
    assert found.truncation is None


def test_a_surrogate_from_shots_has_a_frozen_error():
    found = audit(circuit(sampler=AerSampler(shots=256, seed=1)))
    assert found.shares.rest == 0
    assert found.device_error > 1e-3
    assert found.circuits == 0


@pytest.mark.parametrize("kind", ["frozen", "constant", "scalar", "shuffled", "matched", "sign", "uniform", "series"])
def test_controls(kind):
    found = audit(ControlPerturbation(kind, circuit(rotations="random")), width=1.0)
    if kind in ("frozen", "constant", "scalar"):
        assert found.maps["frozen at step 0"] == pytest.approx(1, abs=1e-6)
    if kind in ("sign", "uniform", "matched"):
        assert found.shares.rest > 0.95
    if kind == "scalar":
        assert found.shares.constant == pytest.approx(1)
    if kind == "series":
        assert found.shares.rest == 0
        assert found.shares.multi > 0.1
    assert sum(found.shares.parts().values()) == pytest.approx(1)


class Difference(Perturbation):
    """A user's own, of two angles."""

    def forward(self, angles, *, step):
        return (angles - angles.roll(1, 1)).sin()


def test_an_unknown_perturbation():
    found = audit(Difference(), width=1.5)
    assert terms_of(Difference()) == [9] * 4
    assert found.shares.rest == 0
    assert found.shares.multi > 0.1
    assert found.truncation is None or found.truncation.largest >= 1


def test_sampled_blocks_have_intervals():
    found = audit(circuit(rotations="random"), width=1.0, stands_for=3.0)
    for name, share in found.shares.parts().items():
        low, high = found.intervals[name]
        assert low <= share + 1e-9
        assert share <= high + 1e-9
    assert found.intervals["constant"][1] > found.intervals["constant"][0]


def test_over_time_and_spans():
    found = audit(SinePerturbation(), times=30, blocks=20)
    assert [*found.over_time] == sorted(found.over_time)
    assert all(shares.rows >= 90 for shares in found.over_time.values())


def test_too_little_is_refused():
    with pytest.raises(ValueError, match=r"20 blocks of angles in 2 recorded steps; this circuit's split needs 170"):
        audit(circuit(), times=2, blocks=10)


def test_nothing():
    class Nothing(Perturbation):
        def forward(self, angles, *, step):
            return 0 * angles

    found = audit(Nothing())
    assert found.shares.power == 0
    assert found.device_error is None


class Table(Perturbation):
    """A user's frozen table, which no name gives away."""

    def forward(self, angles, *, step):
        return torch.rand(angles.shape, generator=torch.Generator().manual_seed(5)) - 0.5


class Fading(Perturbation):
    """Depends on the step."""

    def forward(self, angles, *, step):
        return angles.sin() / (1 + step)


def test_what_is_no_function_of_the_angles_is_not_taken_for_several_angles():
    assert audit(Table()).shares.rest > 0.7
    assert audit(Table()).shares.multi == 0
    assert audit(Fading()).shares.multi == 0


def test_few_blocks_are_said_to_be_few():
    assert audit(circuit(rotations="zero"), blocks=28, times=40).few
    assert not audit(circuit(rotations="zero"), blocks=180).few


def test_it_says_what_ran_the_circuits(tmp_path):
    device = FakeBackendSampler("FakeManilaV2", shots=64)
    assert audit(SinePerturbation()).ran_on == ""
    assert audit(CircuitPerturbation()).ran_on == "ExactSampler"
    for kind in (
        CircuitPerturbation(sampler=device, num_qubits=2),
        ControlPerturbation("frozen", CircuitPerturbation(sampler=device, num_qubits=2)),
    ):
        assert audit(kind).ran_on == "FakeBackendSampler on FakeManilaV2, 64 shots"
    measured, path = CircuitPerturbation(sampler=device, num_qubits=2), str(tmp_path / "manila.npz")
    calibrate(measured.network, measured.weights).save(path)
    calibrated = CircuitPerturbation(num_qubits=2, calibration=path)
    assert audit(calibrated).ran_on == f"calibration {path} of FakeBackendSampler on fake_manila"
    (tmp_path / "manila.npz").unlink()  # the series is kept by checkpoints
    assert audit(calibrated).ran_on == f"calibration {path}"
