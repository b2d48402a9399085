import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lightning_qsgd.optim import CircuitPerturbation, LinearSchedule, LiveCircuitPerturbation, MeasuredDisplacement
from lightning_qsgd.optim.displacement import CHUNK
from tests.optim.common import assert_equal, make_params

SOURCES = ["circuit", "hadamard", "sign", "gaussian"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def directions(displacement, params, step=0, draw=0):
    """d of an absolute displacement of radius 1, flat, in float64."""
    before = [p.detach().clone() for p in params]
    displacement.displace(params, step, draw)
    moved = [(p.detach().double() - b.double()).flatten() for p, b in zip(params, before)]
    displacement.restore()
    return torch.cat(moved)


def absolute(source="sign", radius=1.0, **options):
    return MeasuredDisplacement(radius, relative=False, source=source, **options)


def weights(size, value=None, scale=0.3):
    values = torch.randn(size, dtype=torch.float64) * scale if value is None else torch.full((size,), value)
    return [values.double().requires_grad_()]


# ---- exact weights afterwards


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_weights_move_and_come_back_bit_for_bit(source, dtype):
    params = make_params(dtype)
    params.append(torch.randn(6, 4, dtype=dtype).t().requires_grad_())  # not contiguous
    frozen = torch.ones(3, dtype=dtype)
    before = [p.detach().clone() for p in params]
    displacement = MeasuredDisplacement(0.1, source=source)
    displacement.displace([*params, frozen], step=0)
    assert displacement.active
    assert [bool((p != b).any()) for p, b in zip(params, before)] == [p.numel() > 0 for p in params]
    assert frozen.eq(1).all()
    displacement.restore()
    assert not displacement.active
    assert_equal(params, before)


@given(
    arrays(np.float32, array_shapes(max_dims=2, max_side=9), elements=st.floats(width=32)),
    st.sampled_from(SOURCES),
    st.booleans(),
)
def test_any_value_comes_back_bit_for_bit(values, source, relative):
    params = [torch.from_numpy(values.copy()).requires_grad_()]
    displacement = MeasuredDisplacement(0.5, relative=relative, source=source)
    displacement.displace(params, step=0)
    displacement.restore()
    assert params[0].detach().numpy().tobytes() == values.tobytes()  # NaNs, -0.0 and denormals included


def test_undisplaced_shows_the_exact_weights_for_a_while():
    params = make_params()
    before = [p.detach().clone() for p in params]
    displacement = MeasuredDisplacement(0.1, source="sign")
    displacement.displace(params, step=0)
    displaced = [p.detach().clone() for p in params]
    with displacement.undisplaced():
        assert not displacement.active
        assert_equal(params, before)
    assert displacement.active
    assert_equal(params, displaced)
    displacement.restore()
    assert_equal(params, before)
    with displacement.undisplaced():
        assert_equal(params, before)
    assert not displacement.active


def test_a_second_displacement_is_refused_and_restoring_twice_does_nothing():
    params = make_params()
    displacement = absolute()
    displacement.displace(params, 0)
    with pytest.raises(RuntimeError, match="displaced already; restore"):
        displacement.displace(params, 0)
    displacement.restore()
    before = [p.detach().clone() for p in params]
    displacement.restore()
    assert_equal(params, before)


def test_a_failing_circuit_leaves_the_exact_weights():
    circuit = LiveCircuitPerturbation(max_circuits=2)
    displacement = MeasuredDisplacement(0.1, circuit=circuit)
    params = weights(40)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="live displacement would run 10 circuits, more than max_circuits=2"):
        displacement.displace(params, 0)
    assert not displacement.active
    assert_equal(params, before)


def test_copies_displace_like_their_original():
    params = weights(100)
    displacement = MeasuredDisplacement(0.1)
    for other in (copy.deepcopy(displacement), pickle.loads(pickle.dumps(displacement))):
        assert torch.equal(directions(other, params, 3), directions(displacement, params, 3))


# ---- how far


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_relative_radius_is_a_multiple_of_each_tensors_root_mean_square(dtype):
    params = [torch.tensor(300.0, dtype=dtype), torch.randn(7, 3, dtype=dtype) * 0.02, torch.zeros(5, dtype=dtype)]
    params = [p.requires_grad_() for p in params]
    moved = directions(MeasuredDisplacement(0.5, source="sign"), params).split([1, 21, 5])
    for p, change in zip(params, moved):
        expected = 0.5 * p.detach().double().square().mean().sqrt()
        torch.testing.assert_close(change.abs(), expected.expand_as(change), rtol=5e-3, atol=0)


def test_an_absolute_radius_is_in_units_of_the_weights():
    assert (
        directions(absolute(radius=0.25), [torch.zeros(50, dtype=torch.float64).requires_grad_()]).abs().eq(0.25).all()
    )


def test_a_schedule_anneals_the_radius_and_zero_moves_nothing():
    displacement = MeasuredDisplacement(LinearSchedule(0.4, 0.0, 4), relative=False, source="sign")
    params = weights(10)
    before = params[0].detach().clone()
    sizes = []
    for step in range(6):
        displacement.displace(params, step)
        assert displacement.active
        sizes.append(float((params[0].detach() - before).abs().max()))
        displacement.restore()
    assert sizes == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0])


def test_a_zero_radius_runs_no_circuit():
    displacement = MeasuredDisplacement(0.0, circuit=LiveCircuitPerturbation())
    displacement.displace(weights(8), 0)
    assert displacement.circuit.circuits == 0


# ---- the random numbers


@given(st.sampled_from(SOURCES), st.integers(0, 10**6), st.integers(0, 9), st.integers(0, 2**40))
def test_d_is_a_function_of_seed_step_and_draw(source, step, draw, seed):
    params = weights(64)
    first = directions(absolute(source, seed=seed), params, step, draw)
    torch.manual_seed(step)  # the global generator plays no part
    assert torch.equal(directions(absolute(source, seed=seed), params, step, draw), first)
    for other in ((seed, step + 1, draw), (seed, step, draw + 1), (seed + 1, step, draw)):
        assert not torch.equal(directions(absolute(source, seed=other[0]), params, *other[1:]), first)


def test_the_global_generator_is_left_alone():
    params, before = weights(20), torch.get_rng_state()
    for source in SOURCES:
        directions(absolute(source), params)
    assert torch.equal(torch.get_rng_state(), before)


def test_measured_hadamards_are_the_numbers_of_sign():
    params = make_params()
    for draw in range(3):
        assert torch.equal(
            directions(absolute("hadamard"), params, 5, draw), directions(absolute("sign"), params, 5, draw)
        )


def test_signs_are_fair_and_gaussians_normal():
    params = weights(100_000)
    signs, normal = (directions(absolute(source), params) for source in ("sign", "gaussian"))
    assert signs.abs().sub(1).abs().max() < 1e-12
    assert abs(signs.mean()) < 4 / math.sqrt(len(signs))
    assert abs((signs[1:] * signs[:-1]).mean()) < 4 / math.sqrt(len(signs))
    assert abs(normal.mean()) < 4 / math.sqrt(len(normal))
    assert normal.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / len(normal)))


@given(st.floats(-3, 3))
def test_centred_bits_have_mean_zero_and_variance_one_minus_s_squared(theta):
    size = 20_000
    d = directions(MeasuredDisplacement(1.0, relative=False), weights(size, theta))
    s = math.sin(math.pi * theta)
    sd = math.sqrt(max(1 - s**2, 0) / size)
    assert abs(d.mean()) <= 5 * sd + 1e-6
    assert d.var().item() == pytest.approx(1 - s**2, abs=8 * sd + 1e-6)


@given(st.floats(-3, 3))
def test_bits_that_are_not_centred_have_the_bias_minus_s(theta):
    size = 20_000
    d = directions(MeasuredDisplacement(1.0, relative=False, bias="none"), weights(size, theta))
    s = math.sin(math.pi * theta)
    assert abs(d.mean() + s) <= 5 * math.sqrt(max(1 - s**2, 0) / size) + 1e-6
    assert d.abs().sub(1).abs().max() < 1e-9


@pytest.mark.parametrize("source", SOURCES)
def test_antithetic_pairs_cancel(source):
    params = [torch.zeros(40, dtype=torch.float64).requires_grad_()]  # so that adding d rounds nothing
    displacement = absolute(source, bias="antithetic")
    draws = [directions(displacement, params, 2, draw) for draw in range(4)]
    assert torch.equal(draws[0], -draws[1])
    assert torch.equal(draws[2], -draws[3])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("source", ["sign", "hadamard", "gaussian"])
def test_centred_and_none_coincide_without_a_circuit(source):
    params = weights(30)
    assert torch.equal(
        directions(absolute(source, bias="centred"), params), directions(absolute(source, bias="none"), params)
    )


# ---- tensors


@pytest.mark.parametrize("source", SOURCES)
def test_strides_do_not_matter(source):
    values = torch.randn(6, 5, dtype=torch.float64)
    plain, strided = values.clone().requires_grad_(), values.t().contiguous().t().requires_grad_()
    assert not strided.is_contiguous()
    displacement = absolute(source)
    displacement.displace([plain], 0)
    moved = plain.detach().clone()
    displacement.restore()
    displacement.displace([strided], 0)
    assert torch.equal(strided, moved)


def test_blocks_do_not_reach_into_the_next_tensor():
    displacement = MeasuredDisplacement(1.0, relative=False, circuit=CircuitPerturbation(num_qubits=3))
    first = torch.randn(4, dtype=torch.float64)  # a block, and one coordinate of the next
    moved = []
    for value in (-0.3, 0.1, 0.4):
        params = [first.clone().requires_grad_(), torch.full((3,), value, dtype=torch.float64).requires_grad_()]
        moved.append(directions(displacement, params))
    assert moved[0].shape == (7,)
    assert torch.equal(moved[0][:4], moved[1][:4])
    assert torch.equal(moved[0][:4], moved[2][:4])


@pytest.mark.parametrize("source", SOURCES)
def test_large_tensors_are_displaced_in_chunks(source):
    params = [torch.zeros(size).requires_grad_() for size in (CHUNK // 2 + 3, CHUNK + 5, 7)]
    d = directions(absolute(source), params)
    assert (d == 0).double().mean() < 1e-5  # a normal number in float32 may be 0
    assert abs(d.mean()) < 5 / math.sqrt(len(d))
    first, second = d[: CHUNK // 2], d[CHUNK : CHUNK + CHUNK // 2]
    assert abs((first * second).mean()) < 5 / math.sqrt(CHUNK // 2)  # no chunk repeats another


def test_complex_weights_are_refused():
    with pytest.raises(ValueError, match=r"Invalid parameter: torch\.complex64"):
        absolute().displace([torch.zeros(2, dtype=torch.complex64).requires_grad_()], 0)


def test_sharded_weights_are_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        sharded = torch.nn.Parameter(torch.distributed.tensor.distribute_tensor(torch.ones(4), mesh))
        with pytest.raises(ValueError, match="Invalid parameter: a DTensor"):
            absolute().displace([sharded], 0)
        assert len(directions(absolute(), weights(8))) == 8
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -0.1}, "Invalid radius: -0.1"),
        ({"radius": math.nan}, "Invalid radius: nan"),
        ({"radius": 1, "copies": 0}, "Invalid copies: 0"),
        ({"radius": 1, "source": "coin"}, "Invalid source: 'coin'"),
        ({"radius": 1, "bias": "odd"}, "Invalid bias: 'odd'"),
        ({"radius": 1, "seed": -1}, "Invalid seed: -1"),
        ({"radius": 1, "circuit": CircuitPerturbation(center="zero")}, r"Invalid circuit\.center: 'zero'"),
        ({"radius": 1, "circuit": CircuitPerturbation(), "source": "sign"}, "source='sign' measures none"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeasuredDisplacement(**arguments)


def test_a_schedule_that_turns_negative_is_refused():
    displacement = MeasuredDisplacement(LinearSchedule(1.0, -1.0, 2))
    with pytest.raises(ValueError, match=r"Invalid radius: -1\.0"):
        displacement.displace(weights(4), 2)
    assert not displacement.active


# ---- state


def test_the_circuits_series_travels_and_is_not_measured_again():
    circuit = CircuitPerturbation(num_qubits=2)
    displacement = MeasuredDisplacement(0.1, circuit=circuit)
    assert "25 circuits" in displacement.prepare()
    other = MeasuredDisplacement(0.1, circuit=CircuitPerturbation(num_qubits=2))
    other.load_state_dict(displacement.state_dict())
    params = weights(20)
    assert torch.equal(directions(other, params), directions(displacement, params))
    assert other.circuit.circuits == 25
    assert other.prepare() is None


def test_the_identity_tells_sources_apart():
    options = [{}, {"source": "sign"}, {"source": "hadamard"}, {"bias": "none"}, {"seed": 1}, {"relative": False}]
    options.append({"circuit": CircuitPerturbation(depth=3)})
    identities = {MeasuredDisplacement(0.1, **option).identity() for option in options}
    assert len(identities) == len(options)
    assert MeasuredDisplacement(0.2, copies=3).identity() in identities  # these may change in a run
