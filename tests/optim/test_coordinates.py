import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim.coordinates import (
    Blocks,
    TouchedCoordinates,
    add,
    chunks,
    cuts,
    gather,
    write,
)
from lightning_qsgd.optim.displacement import alike, write_pieces
from tests.optim.common import SHAPES, make_params, set_gradients


@st.composite
def tensors_and_sizes(draw):
    tensors, sizes = [], []
    for _ in range(draw(st.integers(1, 4))):
        t = torch.randn(
            draw(st.lists(st.integers(1, 4), max_size=3)), dtype=draw(st.sampled_from([torch.float32, torch.float64]))
        )
        if t.ndim > 1 and draw(st.booleans()):
            t = t.transpose(0, -1)  # not contiguous
        tensors.append(t)
        sizes.append(draw(st.integers(1, t.numel())))
    return tensors, sizes


@given(tensors_and_sizes())
def test_first_means_c_order_whatever_the_strides(case):
    tensors, sizes = case
    before = [t.clone() for t in tensors]
    flat = gather(tensors, sizes)
    torch.testing.assert_close(flat, torch.cat([t.reshape(-1)[:n] for t, n in zip(before, sizes)]))
    add(tensors, sizes, torch.ones_like(flat))
    for t, old, n in zip(tensors, before, sizes):
        expected = old.reshape(-1).clone()
        expected[:n] += 1
        torch.testing.assert_close(t.reshape(-1), expected)
    write(tensors, sizes, flat)
    for t, old in zip(tensors, before):
        torch.testing.assert_close(t, old)


def test_low_precision_is_rounded_once():
    weight = torch.full((3,), 256.0, dtype=torch.bfloat16)  # next: 258
    add([weight], [3], torch.full((3,), 1.001))  # rounded first: 1, and 257 to even: 256
    assert weight.tolist() == [258.0] * 3


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 30))
def test_chunks_cover_all_coordinates_once_and_end_with_blocks(sizes, block, limit):
    parts = cuts(sizes, block, limit)
    pieces = [piece for part in parts for piece in part]
    covered = [(number, i) for number, start, length in pieces for i in range(start, start + length)]
    assert covered == [(number, i) for number, size in enumerate(sizes) for i in range(size)]
    assert all(start % block == 0 for _, start, _ in pieces)
    assert all(sum(-(-length // block) * block for *_, length in part) <= max(limit, block) for part in parts)


@given(tensors_and_sizes())
def test_pieces_are_written_in_c_order(case):
    tensors, sizes = case
    numbers = range(len(tensors))
    pieces = [(i, t.numel() - n, n) for i, t, n in zip(numbers, tensors, sizes)]  # the last coordinates of each
    expected = [t.reshape(-1).clone() for t in tensors]
    values = [torch.arange(n).to(t) for t, n in zip(tensors, sizes)]
    write_pieces(tensors, pieces, torch.cat(values))
    for t, e, n, value in zip(tensors, expected, sizes, values):
        e[e.numel() - n :] = value
        assert torch.equal(t.reshape(-1), e)


def test_alike_groups_by_dtype_in_order_of_appearance():
    tensors = [torch.zeros(1), torch.zeros(2, dtype=torch.float64), torch.zeros(3)]
    assert [[len(t) for t in group] for group in alike(tensors)] == [[1, 3], [2]]


# ---- which coordinates a step touches


def group(params, **options):
    return {"params": params, "scheduled": False, "quantum_weight": 0.5, **options}


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    n=st.integers(1, 9),
    limit=st.integers(1, 50),
)
def test_chunks_hold_each_coordinate_once_in_whole_blocks(sizes, n, limit):
    params = [torch.arange(1.0, size + 1).requires_grad_() for size in sizes]
    set_gradients(params, 0)
    pieces = TouchedCoordinates()([group(params)], "all", n).get(0, [])
    seen = [[] for _ in params]
    for chunk in chunks(pieces, n, limit):
        slots = sum(piece.slots for piece in chunk)
        assert slots % n == 0
        assert slots <= max(limit - limit % n, n)
        angles = Blocks(chunk).angles(n)
        assert angles.shape == (slots // n, n)
        theta = Blocks(chunk).own(angles.reshape(-1) / torch.pi).split([piece.size for piece in chunk])
        for piece, values in zip(chunk, theta):
            seen[piece.number] += values.round().tolist()
    assert seen == [p.tolist() for p in params]


def test_a_block_is_the_same_whatever_chunk_it_is_in():
    params = make_params(shapes=[(13,), (4,)])
    set_gradients(params, 0)
    pieces = TouchedCoordinates()([group(params)], "all", 4)[0]
    at_once = Blocks(pieces).angles(4)
    cut = torch.cat([Blocks(chunk).angles(4) for chunk in chunks(pieces, 4, 8)])
    assert torch.equal(at_once, cut)
    assert (at_once[3, 1:] == 0).all()  # 13 coordinates fill three blocks and a quarter


def test_groups_without_weight_and_parameters_without_gradient_have_none():
    params = make_params()
    set_gradients(params, 0)
    params[1].grad = None
    other = group(make_params(seed=1), quantum_weight=0.0)
    set_gradients(other["params"], 0)
    pieces = TouchedCoordinates()([group(params), other], "all", 4)
    assert list(pieces) == [0]
    with_gradient = [i for i, shape in enumerate(SHAPES) if i != 1 and torch.Size(shape).numel()]
    assert [piece.number for piece in pieces[0]] == with_gradient


def test_they_are_found_anew_where_a_parameter_changes():
    params = make_params(shapes=[(2, 3), (3,)])
    set_gradients(params, 0)
    find = TouchedCoordinates()

    def theta():
        return Blocks(find([group(params)], "first_of_tensor", 2)[0]).angles(2).flatten() / torch.pi

    first = params[0].detach().flatten()[:2]
    torch.testing.assert_close(theta()[:2], first)
    with torch.no_grad():
        params[0].mul_(2)
    torch.testing.assert_close(theta()[:2], params[0].detach().flatten()[:2])
    params[0].data = params[0].data.T  # the same memory
    params[0].grad = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(theta()[:2], params[0].detach().flatten()[:2])
    params[0].data = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    torch.testing.assert_close(theta()[:2], torch.tensor([0.0, 1.0], dtype=torch.float64))
    params[0].grad = None
    assert [piece.number for piece in find([group(params)], "first_of_tensor", 2)[0]] == [1]
