import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_qsgd.audit.split import Series, shares
from lightning_qsgd.quantum.fourier import count_terms, design


@settings(max_examples=20)
@given(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 100))
def test_a_series_is_found_again(sizes, together, seed):
    generator = torch.Generator().manual_seed(seed)
    terms = count_terms(sizes, together)
    inputs = 6.3 * torch.rand(12 * terms + 20, len(sizes), dtype=torch.float64, generator=generator)
    assert design(inputs, sizes, together).shape == (len(inputs), terms)
    coefficients = torch.randn(terms, 2, dtype=torch.float64, generator=generator)
    true = Series(sizes, together, coefficients)
    found = Series.fit(inputs, true(inputs), sizes, together)
    torch.testing.assert_close(found(inputs), true(inputs), atol=1e-6, rtol=1e-6)


def test_series_with_too_many_terms():
    with pytest.raises(ValueError, match="1,083 terms are more than 1,000"):
        Series.fit(torch.zeros(30_000, 2), torch.zeros(30_000, 1), (57, 19), 2)


def test_shares_by_hand():
    """1 + cos a + cos a cos b over whole periods: mean squares 1, 1/2 and 1/4; and an output of nothing."""
    grid = torch.cartesian_prod(*[torch.arange(12, dtype=torch.float64) * torch.pi / 6] * 2)
    a, b = grid.cos().T
    outputs = torch.stack([1 + a + a * b, 0 * a], 1)
    whole, (first, second) = shares(grid, outputs, (3, 3), torch.tensor([0.07, 0.0], dtype=torch.float64))
    assert list(first.parts().values()) == pytest.approx([1 / 1.75, 0.5 / 1.75, 0.18 / 1.75, 0.07 / 1.75])
    assert first.parts() == whole.parts()
    assert (first.power, whole.power, first.rows) == (pytest.approx(1.75), pytest.approx(1.75 / 2), 144)
    assert list(second.parts().values()) == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="40 rows"):
        shares(grid[:40], outputs[:40], (3, 3), torch.zeros(2))
