import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim.blocks import TouchedCoordinates, chunks
from lightning_qsgd.optim.modulation import Question
from tests.optim.common import SHAPES, make_params, set_gradients


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
        angles = Question(chunk).angles(n)
        assert angles.shape == (slots // n, n)
        theta = Question(chunk).own(angles.reshape(-1) / torch.pi).split([piece.size for piece in chunk])
        for piece, values in zip(chunk, theta):
            seen[piece.number] += values.round().tolist()
    assert seen == [p.tolist() for p in params]


def test_a_block_is_the_same_whatever_chunk_it_is_in():
    params = make_params(shapes=[(13,), (4,)])
    set_gradients(params, 0)
    pieces = TouchedCoordinates()([group(params)], "all", 4)[0]
    at_once = Question(pieces).angles(4)
    cut = torch.cat([Question(chunk).angles(4) for chunk in chunks(pieces, 4, 8)])
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
        return Question(find([group(params)], "first_of_tensor", 2)[0]).angles(2).flatten() / torch.pi

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
