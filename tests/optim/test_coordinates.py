import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim.coordinates import add, gather, write


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
