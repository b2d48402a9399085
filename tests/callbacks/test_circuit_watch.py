import pytest
import torch

from lightning_qsgd.callbacks.circuit_watch import CircuitWatch, total_variation
from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, LiveCircuitPerturbation, SinePerturbation
from lightning_qsgd.quantum import AerSampler, ExactSampler, FakeBackendSampler

ANGLES = torch.linspace(-1, 1, 80, dtype=torch.float64).view(40, 2)


def watched(perturbation, angles=ANGLES, layout=None):
    watch = CircuitWatch(perturbation)
    perturbation.layout = layout or [(0, angles.numel(), 0)]
    perturbation.prepare()
    watch.start()
    perturbation(angles, step=0)
    watch.stop()
    return watch


def test_total_variation():
    p, q = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])
    assert total_variation(p, q).tolist() == [0.25, 1]


@pytest.mark.parametrize("kind", [LiveCircuitPerturbation, CircuitPerturbation])
def test_exact_circuits_are_at_distance_0(kind):
    found = watched(kind(2, sampler=ExactSampler())).distances()
    assert found == {"error": pytest.approx(0, abs=1e-9), "total_variation": pytest.approx(0, abs=1e-9)}


def test_shots_alone_make_what_is_expected_and_a_device_makes_more():
    shots = {"sampler": AerSampler(shots=256, seed=1)}
    watch = watched(LiveCircuitPerturbation(2, **shots))
    found = watch.distances()
    assert found["error"] == pytest.approx(found["error_expected"], rel=0.3)
    assert found["total_variation"] == pytest.approx(found["total_variation_expected"], rel=0.3)
    measured = watch.outcomes().found["measured"]
    assert measured.shape == (32, 4)  # the first blocks only
    assert torch.equal((measured * 256).round(), measured * 256)
    noisy = {"sampler": FakeBackendSampler("FakeManilaV2", shots=4096)}
    found = watched(LiveCircuitPerturbation(2, **noisy)).distances()
    assert found["total_variation"] > 2 * found["total_variation_expected"]


def test_the_expected_distance_is_the_mean_over_many_samples():
    circuit = LiveCircuitPerturbation(2, sampler=AerSampler(shots=20))
    watch = CircuitWatch(circuit)
    values = []
    for step in range(40):
        watch.start()
        circuit.layout = [(0, 80, 0)]
        circuit(ANGLES, step=step)
        watch.stop()
        values.append(watch.distances())
    for name in ("error", "total_variation"):
        mean = sum(value[name] for value in values) / len(values)
        assert mean == pytest.approx(values[0][f"{name}_expected"], rel=0.05)


def test_angles_without_padding():
    angles = torch.arange(8, dtype=torch.float32).view(4, 2)
    watch = watched(SinePerturbation(2), angles, [(0, 3, 1), (1, 4, 0)])
    assert watch.angles.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert watch.outcomes() is None
    assert watch.distances() == {}


def test_the_series_of_single_qubits_has_an_error_but_no_outcomes():
    watch = watched(CircuitPerturbation(2, entanglement="none", sampler=AerSampler(shots=1000)))
    assert 0 < watch.distances().pop("error") < 0.1
    assert set(watch.distances()) == {"error"}


def test_a_report_gives_fresh_circuits_beside_the_series():
    circuit = CircuitPerturbation(2, sampler=AerSampler())
    circuit.prepare()
    watch = CircuitWatch(circuit)
    watch.start(reporting=True)
    circuit.report()
    watch.stop()
    outcomes = watch.outcomes()
    assert list(outcomes.found) == ["measured", "series"]
    assert all(total_variation(p, outcomes.exact).mean() < 0.1 for p in outcomes.found.values())
    assert circuit.network.on_run is None


def test_other_listeners_go_on_and_are_left_as_they_were():
    heard = []
    perturbation = ControlPerturbation("sign")
    perturbation.on_answer = lambda angles, s, step: heard.append(step)
    listener = perturbation.on_answer
    watched(perturbation)
    assert heard == [0]
    assert perturbation.on_answer is listener


def test_circuits_that_cannot_be_simulated_are_not_compared():
    circuit = CircuitPerturbation(13, depth=1, rotations="zero", entanglement="none", sampler=ExactSampler())
    assert watched(circuit, torch.zeros(1, 13)).distances() == {}
