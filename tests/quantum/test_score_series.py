import itertools

import numpy as np
import pytest
import torch
from qiskit.quantum_info import Statevector
from torch import nn

from lightning_qsgd.quantum import AerSampler, ExactSampler, ScoreSeries, score_circuit
from lightning_qsgd.quantum.fourier import basis
from tests.ranks import on_two_ranks

READOUTS = ("probability", "expectation", "amplitude")
SIZES = [(4, 2), (3, 1), (3, 3), (2, 2), (1, 1)]


def evaluate(series, scores):
    """(N,) to (H, N)."""
    coefficients = series()
    return coefficients @ basis(series.angle_factor * scores, coefficients.shape[1]).T


def by_one_circuit_per_score(series, scores):
    """The definition, on Qiskit's statevector: (H, N)."""
    n = series.ansatz.num_qubits
    out = np.zeros((series.count, len(scores)))
    for h, weights in enumerate(series.weights.detach().double().expand(series.count, -1).tolist()):
        for i, score in enumerate(scores.tolist()):
            values = dict(zip(series.ansatz.inputs + series.ansatz.weights, [score, *weights], strict=True))
            state = Statevector(series.ansatz.circuit.assign_parameters(values))
            if series.readout == "amplitude":
                out[h, i] = state.data[1 : n + 1].real.sum()
            elif series.readout == "probability":
                out[h, i] = state.probabilities()[1 : n + 1].sum()
            else:
                p = state.probabilities()
                out[h, i] = sum(p[k] * (1 - 2 * ((k >> q) & 1)) for k in range(2**n) for q in range(n))
    return torch.from_numpy(out)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_one_circuit_per_score(readout, size):
    scores = torch.tensor([-7.3, -1.0, 0.0, 0.4, 2.0, 9.1], dtype=torch.float64)
    for entanglement, shared in (("linear", False), ("none", True)):
        series = ScoreSeries(2, *size, entanglement, readout=readout, shared=shared)
        expected = by_one_circuit_per_score(series, scores)
        torch.testing.assert_close(evaluate(series, scores.float()), expected.float(), atol=2e-6, rtol=0)
        torch.testing.assert_close(evaluate(series.double(), scores), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_reach_every_angle_and_are_right(readout):
    series = ScoreSeries(2, 2, 2, readout=readout).double()
    scores = torch.linspace(-4, 4, 5, dtype=torch.float64)
    names = [name for name, _ in series.named_parameters()]

    def of(*values):
        coefficients = torch.func.functional_call(series, dict(zip(names, values, strict=True)))
        return coefficients @ basis(series.angle_factor * scores, coefficients.shape[1]).T

    assert torch.autograd.gradcheck(of, tuple(series.parameters()))
    evaluate(series, scores).square().sum().backward()
    assert (series.weights.grad.abs() > 1e-9).all()  # each of them is observable


def test_no_unobservable_angle_is_a_weight():
    assert ScoreSeries(4).weights.shape == (4, 12)
    assert ScoreSeries(4, readout="amplitude").weights.shape == (4, 16)  # where the last phases show
    assert ScoreSeries(4, shared=True).weights.shape == (1, 12)
    assert score_circuit(4, 2).num_inputs == 1
    parity = ScoreSeries(1, 2, 2)  # outcomes 1 and 2 are an odd parity, which the last CNOT moves to one qubit
    assert [p.name for p in parity.ansatz.weights] == ["theta[0]", "theta[1]", "theta[3]", "phi[1]"]


def test_samplerqnn_gives_the_same_values_and_gradients_by_parameter_shift():
    series, run = ScoreSeries(2, 2, 2), ScoreSeries(2, 2, 2, sampler=ExactSampler())
    run.load_state_dict(series.state_dict())
    series, run = series.double(), run.double()
    functional = torch.randn_like(series())
    torch.testing.assert_close(run(), series(), atol=1e-10, rtol=0)
    for module in (series, run):
        (module() * functional).sum().backward()
    torch.testing.assert_close(run.weights.grad, series.weights.grad, atol=1e-10, rtol=0)
    assert float(run.error().max()) < 1e-10


def test_circuits_per_head_are_17_and_for_the_gradient_408_more():
    series = ScoreSeries(3, sampler=AerSampler(shots=16))
    assert series.circuits_per_evaluation == 3 * 17
    assert series.circuits_per_gradient == 3 * 408
    with torch.no_grad():
        series()
    assert (series.circuits, series.shots) == (3 * 17, 3 * 17 * 16)
    with torch.no_grad():
        series()  # the angles are what they were
    assert series.circuits == 3 * 17
    series().sum().backward()
    assert series.circuits == 3 * (17 + 17 + 408)
    assert ScoreSeries(3, source="series").circuits_per_evaluation == 0


def test_refreshed_every_third_pass_and_first_order_in_between():
    series = ScoreSeries(1, 2, 2, sampler=ExactSampler(), refresh_every=3).double()
    exact = ScoreSeries(1, 2, 2).double()
    exact.load_state_dict(series.state_dict())
    functional = torch.randn(1, 9, dtype=torch.float64)
    one_run, step = series.circuits_per_evaluation + series.circuits_per_gradient, 1e-4
    counts, evaluated = [], 0
    for i in range(6):
        series.weights.grad = exact.weights.grad = None
        values = [module() for module in (series, exact)]
        for value in values:
            (value * functional).sum().backward()
        counts.append(series.circuits - evaluated)
        measured = i % 3 == 0  # otherwise values are off by the second order, gradients by the first
        torch.testing.assert_close(*values, atol=1e-10 if measured else 1e-6, rtol=0)
        torch.testing.assert_close(series.weights.grad, exact.weights.grad, atol=1e-10 if measured else 1e-2, rtol=0)
        with torch.no_grad():  # an evaluation asks the circuits as they are now, and leaves the order of training
            before = series.circuits
            torch.testing.assert_close(series(), exact(), atol=1e-10, rtol=0)
            evaluated += series.circuits - before
            for module in (series, exact):
                module.weights += step
    assert counts == [one_run] * 3 + [2 * one_run] * 3
    assert evaluated == 6 * series.circuits_per_evaluation


def test_shot_noise_propagates_and_falls_with_the_shots():
    exact = ScoreSeries(2, 2, 1)
    errors = []
    for shots in (100, 10_000):
        series = ScoreSeries(2, 2, 1, sampler=AerSampler(shots=shots))
        series.load_state_dict(exact.state_dict())
        errors.append(float(series.error().mean()))
        gradient = torch.autograd.grad(series()[:, 1].sum(), series.weights)[0]
        expected = torch.autograd.grad(exact()[:, 1].sum(), exact.weights)[0]
        assert 0 < float((gradient - expected).abs().max()) < 5 / shots**0.5
    # sqrt(p (1 - p) / shots) at each node is that of the series
    assert 0.1 * 0.5 / 10 < errors[0] < 2 * 0.5 / 10
    assert errors[1] < errors[0] / 4
    series.exact = True
    torch.testing.assert_close(series(), exact())


def test_controls_start_where_the_circuit_does_and_draw_nothing_from_the_global_generator():
    modules = {}
    for source in ("circuit", "series", "random"):
        torch.manual_seed(3)
        modules[source] = ScoreSeries(2, source=source)
        after = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(after, torch.rand(1))
    circuit, free, random = modules.values()
    torch.testing.assert_close(free()[:, 1:], circuit()[:, 1:])
    torch.testing.assert_close(random.spread(), circuit.spread())
    assert not torch.allclose(random(), circuit())
    assert [p.requires_grad for m in (free, random) for p in m.parameters()] == [True, False]
    assert not ScoreSeries(2, trainable=False).weights.requires_grad


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.combinations([{}, {"entanglement": "none"}, {"readout": "expectation"}, {"source": "series"}], 2)),
)
def test_weights_of_another_circuit_are_refused(one, other):
    with pytest.raises(RuntimeError, match="the weights belong to another circuit, readout or phi"):
        nn.ModuleDict({"s": ScoreSeries(2, **one)}).load_state_dict(
            nn.ModuleDict({"s": ScoreSeries(2, **other)}).state_dict()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"readout": "phase"}, "Invalid readout: 'phase'; it must be one of probability, expectation, amplitude"),
        ({"source": "noise"}, "Invalid source: 'noise'"),
        ({"count": 0}, "Invalid count: 0"),
        ({"refresh_every": 0}, "Invalid refresh_every: 0"),
        ({"depth": 0}, "Invalid depth: 0"),
        ({"readout": "amplitude", "sampler": AerSampler()}, "readout 'amplitude' runs on no device"),
        ({"source": "series", "sampler": AerSampler()}, "phi from source 'series' runs on no device"),
        ({"num_qubits": 13}, "Invalid num_qubits: 13; it must be at most 12"),
        ({"refresh_every": 2}, "Invalid refresh_every: 2; it needs a sampler"),
    ],
)
def test_invalid_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScoreSeries(**{"count": 2} | arguments)


def test_what_was_measured_is_forgotten_with_its_angles_and_dtype():
    series = ScoreSeries(1, 2, 2, sampler=ExactSampler(), refresh_every=5)
    series()
    other = ScoreSeries(1, 2, 2)
    with torch.no_grad():
        other.weights += 1
    series.load_state_dict(other.state_dict())
    torch.testing.assert_close(series(), other(), atol=1e-6, rtol=0)
    with torch.no_grad():
        series()
    assert series.double()().dtype == torch.float64
    with torch.no_grad():
        assert series().dtype == torch.float64


def test_passes_with_the_same_angles_are_one_measurement():
    series = ScoreSeries(1, 2, 1, sampler=AerSampler(shots=16), refresh_every=2)
    once = series.circuits_per_evaluation + series.circuits_per_gradient
    counts = []
    for _ in range(4):
        for _ in range(3):  # accumulated batches, or recomputation under activation checkpointing
            series().sum().backward()
        counts.append(series.circuits // once)
        with torch.no_grad():
            series.weights += 0.1
    assert counts == [1, 1, 2, 2]


def test_measured_in_inference_mode_then_trained():
    series = ScoreSeries(1, 2, 1, sampler=ExactSampler())
    with torch.inference_mode():
        series()
    series().sum().backward()
    assert series.weights.grad is not None


def test_bfloat16_rounds_the_angles_only():
    for readout in READOUTS:
        series = ScoreSeries(2, readout=readout).bfloat16()
        exact = ScoreSeries(2, readout=readout).double()
        exact.load_state_dict(series.state_dict())
        assert series().dtype == torch.float32
        torch.testing.assert_close(series().double(), exact(), atol=2e-6, rtol=0)
        torch.testing.assert_close(series.float().double()(), exact(), atol=1e-10, rtol=0)


def test_constructed_for_another_device_or_dtype_by_default():
    torch.manual_seed(0)
    here = ScoreSeries(2)
    torch.manual_seed(0)
    with torch.device("meta"):  # as under a strategy that builds models on their device
        assert torch.equal(ScoreSeries(2).weights, here.weights)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        for source in ("circuit", "series", "random"):
            assert ScoreSeries(2, readout="amplitude", source=source)().dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_controls_have_the_frequencies_of_the_circuit():
    half = ScoreSeries(1, 3, 1, readout="amplitude", source="series")  # frequencies 1/2 and 3/2
    assert half.coefficients.shape == (1, 4)
    assert (half()[0, [0, 3, 4]] == 0).all()
    product = ScoreSeries(1, 4, 2, "none", readout="expectation")  # a sum of qubits: degree 2
    assert product.nodes == 5


def test_shared_circuits_are_counted_once():
    series = ScoreSeries(3, shared=True, sampler=AerSampler(shots=16))
    with torch.no_grad():
        assert series().shape == (3, 17)
    assert series.circuits == series.circuits_per_evaluation == 17


def test_random_series_differ_between_heads():
    coefficients = ScoreSeries(2, source="random")()
    assert not torch.allclose(coefficients[0], coefficients[1])


def test_a_resumed_series_measures_what_the_uninterrupted_one_would():
    def make():
        torch.manual_seed(2)
        return ScoreSeries(2, 2, 1, sampler=AerSampler(shots=30))

    def train(series, steps):
        optimizer = torch.optim.SGD(series.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            series().square().sum().backward()
            optimizer.step()
        return series.weights.detach().clone()

    first = make()
    train(first, 2)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    resumed = make()
    resumed.load_state_dict(state)
    assert torch.equal(train(resumed, 2), train(first, 2))


class CountingSampler(ExactSampler):
    jobs = 0

    def run(self, pubs, *, shots=None):
        self.jobs += 1
        return super().run(pubs, shots=shots)


class FailingSampler(ExactSampler):
    def run(self, pubs, *, shots=None):
        raise RuntimeError("the device is gone")


def train_on_sampler(sampler):
    torch.manual_seed(0)
    series = ScoreSeries(2, 2, 1, sampler=sampler)
    try:
        series().square().sum().backward()
        with torch.no_grad():
            evaluated = series()
    except RuntimeError as error:
        return str(error)
    return evaluated, series.weights.grad, series.circuits, sampler.jobs


def test_rank_0_alone_runs_circuits(tmp_path):
    first, second = on_two_ranks(train_on_sampler, tmp_path, CountingSampler())
    alone = train_on_sampler(CountingSampler())
    for a, b, c in zip(first[:3], second[:3], alone[:3], strict=True):
        torch.testing.assert_close(b, a, atol=0, rtol=0)
        torch.testing.assert_close(c, a, atol=0, rtol=0)
    assert (first[3], second[3], alone[3]) == (3, 0, 3)


def test_a_failure_on_rank_0_leaves_no_rank_waiting(tmp_path):
    first, second = on_two_ranks(train_on_sampler, tmp_path, FailingSampler())
    assert "the device is gone" in first
    assert second == first
