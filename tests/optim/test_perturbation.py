import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    Perturbation,
    SeriesTwin,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.perturbation import TWINS
from lightning_qsgd.quantum import AerSampler
from tests.optim.common import ask, assert_equal, make_params, random_angles, run, set_gradients, through_a_file

angle = st.floats(-7, 7, allow_nan=False)


def angles_of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# ---- closed forms


def test_sine_is_equation_2():
    theta = torch.linspace(-2, 2, 8).view(2, 4)
    torch.testing.assert_close(ask(SinePerturbation(), math.pi * theta), torch.sin(math.pi * theta))


def test_depth_1_without_entanglement_is_the_sine():
    angles = random_angles()
    s = ask(CircuitPerturbation(depth=1, entanglement="none", rotations="zero"), angles)
    torch.testing.assert_close(s, angles.sin(), atol=1e-11, rtol=0)


def test_depth_1_with_the_chain_is_an_alternating_product_of_sines_and_decoding_undoes_it():
    angles = random_angles()
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    s = ask(CircuitPerturbation(depth=1, rotations="zero"), angles)
    torch.testing.assert_close(s, sign * angles.sin().cumprod(-1), atol=1e-11, rtol=0)
    decoded = ask(CircuitPerturbation(depth=1, rotations="zero", decode_chain=True), angles)
    torch.testing.assert_close(decoded, angles.sin(), atol=1e-11, rtol=0)


@given(angle, st.floats(-3, 3))
def test_depth_2_without_entanglement(a, phi):
    s = ask(CircuitPerturbation(num_qubits=1, depth=2, entanglement="none", rotations=[0.0, 0.0, phi]), angles_of([a]))
    assert s.item() == pytest.approx(-(math.sin(a) ** 2 + math.cos(a) ** 2 * math.cos(phi)), abs=1e-10)
    half_sine = CircuitPerturbation(
        num_qubits=1, depth=2, entanglement="none", rotations=[0.0, -math.pi / 2, math.pi / 2]
    )
    assert ask(half_sine, angles_of([a])).item() == pytest.approx(math.sin(2 * a) / 2, abs=1e-10)


def test_the_literal_circuit_is_a_constant_at_small_weights():
    circuit = CircuitPerturbation(rotations="zero")
    s = ask(circuit, random_angles(2000) * math.pi * 0.05)
    assert -0.995 < s.mean() < -0.95
    assert 0.01 < s.std() < 0.04
    at_zero = ask(circuit, torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(at_zero, -torch.ones(1, 4, dtype=torch.float64), atol=1e-11, rtol=0)


def test_aligned_is_the_default_and_contains_equation_2():
    angles = random_angles(2000) * math.pi * 0.05
    circuit = CircuitPerturbation()
    s = ask(circuit, angles)
    assert np.corrcoef(s.flatten(), angles.sin().flatten())[0, 1] > 0.985
    zero = torch.zeros(1, 4, dtype=torch.float64)
    assert ask(circuit, zero).abs().max() < 1e-11


# ---- the circuit: modes, centring, decoding, counts


@pytest.mark.parametrize("center", [None, "zero", "odd"])
@pytest.mark.parametrize("rotations", ["aligned", "zero", "random"])
def test_live_equals_surrogate(center, rotations):
    angles = random_angles(6, 3)
    options = {"num_qubits": 3, "center": center, "rotations": rotations, "rotation_seed": 3}
    live = ask(LiveCircuitPerturbation(**options), angles)
    torch.testing.assert_close(live, ask(CircuitPerturbation(**options), angles), atol=1e-9, rtol=0)


def test_centring_removes_the_constant():
    angles, options = random_angles(n=3), {"num_qubits": 3, "rotations": "random"}
    raw = CircuitPerturbation(**options)
    at_zero = ask(raw, torch.zeros_like(angles))
    torch.testing.assert_close(ask(CircuitPerturbation(**options, center="zero"), angles), ask(raw, angles) - at_zero)
    odd = ask(CircuitPerturbation(**options, center="odd"), angles)
    torch.testing.assert_close(odd, (ask(raw, angles) - ask(raw, -angles)) / 2)


def test_range_dtype_and_shots():
    perturbation = CircuitPerturbation(sampler=AerSampler(shots=16))
    s = ask(perturbation, 3 * random_angles(3000))
    assert s.abs().max() <= 1  # a noisy series is clamped
    assert s.dtype == torch.float64
    assert ask(perturbation, torch.zeros(1, 4)).dtype == torch.float32
    assert (perturbation.circuits, perturbation.shots) == (625, 625 * 16)
    assert perturbation.seconds > 0


def test_circuits_run_at_prepare_once_and_not_in_steps():
    perturbation = CircuitPerturbation()
    assert perturbation.circuits == 0  # never in the constructor
    assert perturbation.prepare().startswith("Circuit sampled on its grid: 625 circuits, 0 shots")
    assert perturbation.prepare() is None
    ask(perturbation, random_angles())
    assert perturbation.circuits == 625
    assert perturbation.surrogate.num_points == 625


def test_live_noise_is_a_function_of_seed_and_step():
    def run(step, seed=0):
        perturbation = LiveCircuitPerturbation(sampler=AerSampler(shots=64, seed=seed))
        return ask(perturbation, torch.ones(2, 4, dtype=torch.float64), step), perturbation

    s, perturbation = run(5)
    assert (perturbation.circuits, perturbation.shots) == (2, 128)
    assert torch.equal(s, run(5)[0])
    assert not torch.equal(s, run(6)[0])
    assert not torch.equal(s, run(5, seed=1)[0])
    assert not torch.equal(s[0], s[1])


def test_live_refuses_too_many_circuits():
    with pytest.raises(ValueError, match="run 1025 circuits, more than max_circuits=1024; use CircuitPerturbation"):
        ask(LiveCircuitPerturbation(), torch.zeros(1025, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_qubits": 0}, "Invalid num_qubits: 0"),
        ({"depth": 0}, "Invalid depth: 0"),
        ({"entanglement": "ring"}, "Invalid entanglement: 'ring'"),
        ({"rotations": "none"}, "Invalid rotations: 'none'"),
        ({"rotations": [0.0] * 5}, "Invalid rotations: 5 angles; this circuit takes 12"),
        ({"rotation_seed": -1}, "Invalid rotation_seed: -1"),
        ({"entanglement": "none", "decode_chain": True}, "no chain of CNOTs"),
        ({"center": "mean"}, "Invalid center: 'mean'"),
        ({"mode": "cached"}, "Invalid mode: 'cached'"),
        ({"mode": "live"}, r"Invalid mode: 'live'; .* class_path: lightning_qsgd\.optim\.LiveCircuitPerturbation"),
        ({"max_circuits": 2}, "Invalid max_circuits: 2; .*LiveCircuitPerturbation"),
        ({"on_failure": "series"}, "Invalid on_failure: 'series'; .*LiveCircuitPerturbation"),
    ],
)
def test_invalid_circuit_perturbations(arguments, message):
    with pytest.raises(ValueError, match=message):
        CircuitPerturbation(**arguments)


def test_too_large_a_grid_is_refused_before_it_runs():
    with pytest.raises(ValueError, match=r"78,125 grid points.*LiveCircuitPerturbation"):
        CircuitPerturbation(num_qubits=7, rotations="zero").prepare()


# ---- state


def test_state_brings_the_series_so_that_no_circuit_runs_again():
    angles = random_angles()
    first = CircuitPerturbation(sampler=AerSampler(shots=32), center="zero")
    expected = ask(first, angles)
    second = CircuitPerturbation(sampler=AerSampler(shots=32, seed=9), center="zero")
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(ask(second, angles), expected, atol=0, rtol=0)
    assert (second.circuits, second.shots) == (625, 625 * 32)
    assert second.prepare() is None
    assert second.surrogate.shots == 32


def test_centring_is_the_configs_not_the_checkpoints():
    options = {"num_qubits": 3, "rotations": "zero"}
    centred = CircuitPerturbation(**options, center="zero")
    centred.prepare()
    plain = CircuitPerturbation(**options)
    plain.load_state_dict(centred.state_dict())
    angles = random_angles(n=3)
    assert torch.equal(ask(plain, angles), ask(CircuitPerturbation(**options), angles))


@pytest.mark.parametrize(
    "other",
    [
        SinePerturbation(4),
        CircuitPerturbation(num_qubits=3),
        CircuitPerturbation(depth=1),
        CircuitPerturbation(rotations="zero"),
        CircuitPerturbation(rotations="random"),
        CircuitPerturbation(rotations="random", rotation_seed=1),
        CircuitPerturbation(rotations="zero", entanglement="none"),
        CircuitPerturbation(decode_chain=False),
        CircuitPerturbation(center="zero"),
        ControlPerturbation("frozen", CircuitPerturbation()),
        ControlPerturbation("frozen", CircuitPerturbation(center="odd")),
        ControlPerturbation("constant", CircuitPerturbation()),
    ],
)
def test_identities_differ_where_answers_do(other):
    assert other.identity() != CircuitPerturbation().identity()
    assert LiveCircuitPerturbation(sampler=AerSampler()).identity() == CircuitPerturbation().identity()


def test_pickles():
    angles = random_angles()
    perturbation = CircuitPerturbation(sampler=AerSampler(shots=32))
    expected = ask(perturbation, angles)
    assert torch.equal(ask(pickle.loads(pickle.dumps(perturbation)), angles), expected)


# ---- controls

RANDOM_KINDS = ["sign", "uniform", "matched", "shuffled"]


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_random_controls_are_fresh_in_each_step_and_repeat_with_the_seed(kind):
    angles = random_angles(50)
    s = ask(ControlPerturbation(kind), angles, step=1)
    assert s.abs().max() <= 1
    assert torch.equal(s, ask(ControlPerturbation(kind), angles, step=1))
    assert not torch.equal(s, ask(ControlPerturbation(kind), angles, step=2))
    assert not torch.equal(s, ask(ControlPerturbation(kind, seed=1), angles, step=1))
    torch.manual_seed(123)  # the global generator has no part in it
    assert torch.equal(s, ask(ControlPerturbation(kind), angles, step=1))


def test_what_each_control_keeps_of_its_reference():
    angles = random_angles(5000)
    reference = ask(SinePerturbation(), angles)
    sign, uniform, matched, shuffled = (ask(ControlPerturbation(kind), angles) for kind in RANDOM_KINDS)
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    assert abs(sign.mean()) < 4.5 / math.sqrt(sign.numel())
    assert abs(uniform.mean()) < 4.5 / math.sqrt(3 * uniform.numel())
    assert uniform.var() == pytest.approx(1 / 3, rel=0.03)
    torch.testing.assert_close(matched.abs(), reference.abs())
    assert abs(np.corrcoef(matched.flatten(), reference.flatten())[0, 1]) < 0.05
    torch.testing.assert_close(shuffled.flatten().sort()[0], reference.flatten().sort()[0])
    assert abs(np.corrcoef(shuffled.flatten(), reference.flatten())[0, 1]) < 0.05


def test_frozen_and_constant_are_tables_of_step_0():
    layout, angles = [(0, 3, 1), (1, 4, 0)], random_angles(2)
    frozen, constant = ControlPerturbation("frozen"), ControlPerturbation("constant")
    at_0 = ask(frozen, angles, 0, layout)
    torch.testing.assert_close(at_0, angles.sin())
    assert torch.equal(ask(frozen, random_angles(2), 1, layout), at_0)
    means = ask(constant, angles, 0, layout)
    torch.testing.assert_close(means[0, :3], angles.sin()[0, :3].mean().expand(3))  # the pad slot has no part in it
    torch.testing.assert_close(means[1], angles.sin()[1].mean().expand(4))
    assert torch.equal(ask(constant, random_angles(2), 1, layout), means)
    with pytest.raises(RuntimeError, match="gradients of the same parameters"):
        ask(frozen, random_angles(3), 2, [(0, 12, 0)])
    with pytest.raises(RuntimeError, match=r"that differ: \[\(1, 4, 0\), \(2, 4, 0\)\]"):
        ask(frozen, random_angles(2), 3, [(0, 3, 1), (2, 4, 0)])  # as many, but others


def test_scalar_is_one_number_of_step_0():
    layout, angles = [(0, 3, 1), (1, 4, 0)], random_angles(2)
    scalar = ControlPerturbation("scalar")
    expected = torch.cat([angles[0, :3], angles[1]]).sin().mean()
    torch.testing.assert_close(ask(scalar, angles, 0, layout), expected.expand(2, 4))
    torch.testing.assert_close(ask(scalar, random_angles(2), 1, layout), expected.expand(2, 4))


def test_series_has_the_circuits_spectrum_and_other_values():
    circuit, angles = CircuitPerturbation(rotations="random"), random_angles(400)
    twin = ControlPerturbation("series", circuit, seed=3)
    s, original = ask(twin, angles), ask(circuit, angles)
    assert s.abs().max() <= 1
    assert abs(np.corrcoef(s.flatten(), original.flatten())[0, 1]) < 0.6
    assert torch.equal(ask(ControlPerturbation("series", circuit, seed=3), angles), s)
    assert not torch.equal(ask(ControlPerturbation("series", circuit, seed=4), angles), s)
    random, own = twin._series.coefficients, circuit.series.coefficients
    assert torch.equal(random.abs(), own.abs())
    assert torch.equal(random[0, 0, 0, 0], own[0, 0, 0, 0])  # the same learning-rate factor
    assert (random[own != 0] != own[own != 0]).double().mean() > 0.4
    again = ControlPerturbation("series", CircuitPerturbation(rotations="random"), seed=3)
    again.load_state_dict(twin.state_dict())
    assert torch.equal(ask(again, angles), s)


@pytest.mark.parametrize(
    "reference",
    [
        LiveCircuitPerturbation(num_qubits=2),
        LiveCircuitPerturbation(num_qubits=2, on_failure="series"),
        CircuitPerturbation(num_qubits=2, center="odd"),
        CircuitPerturbation(entanglement="none"),
        SinePerturbation(),
    ],
)
def test_series_needs_one(reference):
    with pytest.raises(ValueError, match=r"Invalid reference: '(Sine|(Live)?Circuit)Perturbation'; it must be a Circ"):
        ask(SeriesTwin(reference), random_angles(2, reference.num_qubits))


def test_shuffled_leaves_padding_alone():
    layout = [(0, 1, 3), (1, 2, 2)]
    angles = torch.zeros(2, 4, dtype=torch.float64)
    angles[0, 0], angles[1, :2] = 0.1, torch.tensor([0.2, 0.3], dtype=torch.float64)
    for step in range(5):
        s = ask(ControlPerturbation("shuffled"), angles, step, layout).flatten()
        real = s[[0, 4, 5]]
        torch.testing.assert_close(real.sort()[0], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).sin())


def test_controls_of_a_circuit_count_its_circuits_and_keep_its_state():
    circuit = CircuitPerturbation(rotations="random")
    control = ControlPerturbation("frozen", circuit)
    assert control.num_qubits == 4
    expected = ask(control, random_angles())
    assert control.circuits == 625
    resumed = ControlPerturbation("frozen", CircuitPerturbation(rotations="random"))
    resumed.load_state_dict(control.state_dict())
    assert torch.equal(ask(resumed, random_angles(), 7), expected)
    assert resumed.reference.surrogate is not None
    assert ControlPerturbation("sign", CircuitPerturbation()).prepare() is None  # asks no circuit


@pytest.mark.parametrize(
    ("arguments", "message"), [(("noise",), "Invalid kind: 'noise'"), (("sign", None, -1), "Invalid seed")]
)
def test_invalid_controls(arguments, message):
    with pytest.raises(ValueError, match=message):
        ControlPerturbation(*arguments)


# ---- controls and their optimizers

TABLES = ["frozen", "constant", "scalar"]
CONSTANT = pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")


def trained(perturbation, seed, steps=3):
    params = make_params(seed=seed)
    return params, run(params, steps, perturbation=perturbation, scope="all", scale="adam", lr=0.05)


@CONSTANT
@pytest.mark.parametrize("reference", [None, CircuitPerturbation(num_qubits=2, rotations="random")])
@pytest.mark.parametrize("kind", list(TWINS))
def test_a_used_control_starts_anew_with_each_optimizer(kind, reference):
    if kind == "series" and reference is None:
        reference = CircuitPerturbation(num_qubits=2)
    used = ControlPerturbation(kind, reference)
    trained(used, seed=1)
    for seed in (1, 2):  # a restart of the same model, and another one
        params, optimizer = trained(used, seed)
        fresh, _ = trained(ControlPerturbation(kind, reference), seed)
        assert_equal(params, fresh)
        assert optimizer.perturbation.reference is used.reference  # whose circuits have been run


@CONSTANT
@pytest.mark.parametrize("kind", TABLES)
def test_two_optimizers_that_take_turns_have_a_table_each(kind):
    shared = ControlPerturbation(kind)
    both = [make_params(seed=seed) for seed in (1, 2)]
    optimizers = [SuperpositionalGradientDescent(p, perturbation=shared, scale="adam") for p in both]
    for step in range(3):
        for params, optimizer in zip(both, optimizers):
            set_gradients(params, step)
            optimizer.step()
    for seed, params in zip((1, 2), both):
        alone = make_params(seed=seed)
        run(alone, 3, perturbation=ControlPerturbation(kind), scale="adam")
        assert_equal(params, alone)


def test_a_control_that_was_asked_before_starts_anew():
    asked = ControlPerturbation("frozen")
    ask(asked, random_angles(2))
    params, optimizer = trained(asked, 1)
    fresh, own = trained(new := ControlPerturbation("frozen"), 1)
    assert_equal(params, fresh)
    assert optimizer.perturbation is not asked  # which keeps its table
    assert own.perturbation is new


def test_a_control_of_a_control_starts_anew():
    frozen = ControlPerturbation("frozen")
    trained(ControlPerturbation("shuffled", frozen), 1)
    params, _ = trained(ControlPerturbation("shuffled", frozen), 2)
    fresh, _ = trained(ControlPerturbation("shuffled", ControlPerturbation("frozen")), 2)
    assert_equal(params, fresh)


@CONSTANT
@pytest.mark.parametrize("kind", TABLES)
def test_a_state_brings_its_table_to_an_optimizer_with_a_used_control(kind):
    used = ControlPerturbation(kind)
    straight, _ = trained(used, 1, steps=6)
    params, old = trained(used, 1)
    new = SuperpositionalGradientDescent(params, perturbation=used, scope="all", scale="adam", lr=0.05)
    new.load_state_dict(through_a_file(old.state_dict()))
    copied = copy.deepcopy(old)
    for optimizer in (new, copied):
        params = optimizer.param_groups[0]["params"]
        for step in range(3, 6):
            set_gradients(params, step)
            optimizer.step()
        assert_equal(params, straight)


def test_a_loaded_state_brings_its_random_series():
    first, second = (
        ControlPerturbation("series", CircuitPerturbation(num_qubits=2, sampler=AerSampler(16, seed)))
        for seed in (1, 2)
    )
    angles = random_angles(5, 2)
    expected = ask(first, angles)
    assert not torch.equal(ask(second, angles), expected)
    second.load_state_dict(first.state_dict())
    assert torch.equal(ask(second, angles), expected)


@CONSTANT
@pytest.mark.parametrize("kind", list(TWINS))
def test_an_optimizers_twin_is_a_control_of_its_perturbation(kind):
    circuit = CircuitPerturbation(num_qubits=2, rotations="random")
    options = {"scope": "all", "scale": "adam", "lr": 0.05}
    first, second = make_params(), make_params()
    optimizer = run(first, perturbation=circuit, twin=kind, **options)
    run(second, perturbation=ControlPerturbation(kind, circuit), **options)
    assert_equal(first, second)
    assert optimizer.perturbation.reference is circuit


def test_an_invalid_twin_and_the_twin_of_the_default():
    with pytest.raises(ValueError, match="Invalid twin: 'icy'; it must be one of sign, uniform, "):
        SuperpositionalGradientDescent(make_params(), twin="icy")
    optimizer = SuperpositionalGradientDescent(make_params(), twin="sign")
    assert isinstance(optimizer.perturbation.reference, SinePerturbation)


def test_own_perturbations_need_only_forward():
    class Half(Perturbation):
        def forward(self, angles, *, step):
            return torch.full_like(angles, 0.5)

    assert ask(Half(num_qubits=2), torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]
    one, other = Half(2), Half(2)
    one.slope, other.slope = 1.0, 2.0
    assert one.identity() == "Half(num_qubits=2, slope=1.0)" != other.identity()
