import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim.coordinates import add, alike, cuts, gather, write, write_pieces


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
