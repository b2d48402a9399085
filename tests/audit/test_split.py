"""The split of power: known answers, brute force, noise, intervals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_qsgd.audit.split import Split
from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import ExactSampler

FIVE = [5, 5, 5, 5]


def uniform(rows, n=4, seed=0):
    return (torch.rand(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1) * torch.pi


def split_of(s, angles, sizes=FIVE, weights=None, **options):
    weights = torch.ones(len(angles)) if weights is None else weights
    return Split(angles, s, weights, sizes, **options)


def circuit(**options):
    return CircuitPerturbation(sampler=ExactSampler(), **options)


def test_a_product_circuit_has_nothing_of_several_angles():
    angles = uniform(2000)
    shares = split_of(circuit(entanglement="none", rotations="random")(angles, step=0), angles).shares()
    assert shares.multi == 0
    assert shares.single > 0.1
    assert shares.constant + shares.single == pytest.approx(1, abs=1e-9)


def test_zero_rotations_at_small_angles_are_constant():
    angles = 1e-4 * uniform(1000)
    shares = split_of(circuit(rotations="zero")(angles, step=0), angles).shares()
    assert shares.constant > 1 - 1e-6
    assert shares.power == pytest.approx(1, abs=1e-5)


def test_parities_are_all_of_several_angles_but_the_first():
    angles = uniform(40_000)
    split = split_of(circuit(depth=1, rotations="zero", decode_chain=False)(angles, step=0), angles, [3] * 4)
    first, *others = (split.shares(qubit=q) for q in range(4))
    assert first.single == pytest.approx(1, abs=1e-3)
    assert first.multi < 1e-9
    assert all(other.multi > 0.999 for other in others)
    assert others[0].power == pytest.approx(1 / 4, rel=0.05)  # the mean of sin^2 a sin^2 b


def test_sines_of_dependent_angles_are_of_one_angle():
    a = uniform(3000, 1)
    angles = torch.cat([a, 2 * a, 0.5 * a, a + 0.3], 1)  # all one angle in truth
    s = (angles[:, :1].sin() * angles[:, 1:2].cos()).expand(-1, 4)  # a series of one angle up to 3 a
    assert split_of(s, angles, [7] * 4).shares().multi < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3.0), st.integers(1, 3))
def test_agrees_with_brute_force(seed, width, n):
    rng = np.random.default_rng(seed)
    angles = rng.normal(0, width, (400, n)) @ rng.normal(0, 1, (n, n))  # dependent
    s = np.tanh(0.3 * angles.sum(1, keepdims=True) + np.cos(angles[:, :1]))
    s = np.broadcast_to(s, (400, n)).copy()
    weights = rng.uniform(0.5, 3, 400)
    columns = [np.ones(400)] + [f(k * angles[:, q]) for q in range(n) for k in (1, 2) for f in (np.cos, np.sin)]
    root = np.sqrt(weights)[:, None]
    design = np.stack(columns, 1)
    fit = design @ np.linalg.lstsq(root * design, root * s, rcond=1e-11)[0]
    share = weights[:, None] / weights.sum()
    total = (share * s**2).sum()
    constant = ((share * s).sum(0) ** 2).sum()
    expected = constant / total, ((share * fit**2).sum() - constant) / total
    shares = split_of(torch.tensor(s), torch.tensor(angles), [5] * n, torch.tensor(weights)).shares()
    assert (shares.constant, shares.single) == pytest.approx(expected, abs=1e-5)
    assert sum(shares.parts().values()) == pytest.approx(1, abs=1e-9)
    assert shares.power == pytest.approx(total / n)


def test_noise_is_rest_with_and_without_a_clean_answer():
    angles, rng = uniform(20_000), torch.Generator().manual_seed(1)
    clean = angles.sin()
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    known = split_of(noisy, angles, clean=clean).shares()
    told = split_of(noisy, angles, noise=torch.full((1, 4), 0.25)).shares()
    for shares in (known, told):
        assert shares.rest == pytest.approx(0.25 / 0.75, abs=0.01)
        assert shares.single == pytest.approx(0.5 / 0.75, abs=0.01)
        assert shares.multi < 0.01


def test_intervals_hold_the_noise_that_was_measured():
    """The variance of 1.0 comes from 50 repetitions: its estimates spread by 1/5, and so does the true share."""
    covered, held = 0, 0
    for seed in range(30):
        rng = torch.Generator().manual_seed(100 + seed)
        angles = uniform(2000, 1, seed)
        noisy = 2 * angles.sin() + torch.randn(2000, 1, generator=rng, dtype=torch.float64)
        repeats = torch.randn(50, 2, generator=rng, dtype=torch.float64).diff(dim=1).square() / 2
        groups, owners = np.zeros(200, dtype=int), np.repeat(np.arange(200), 10)
        low, high = split_of(noisy, angles, [3], noise=repeats).intervals(groups, owners)["rest"]
        covered += low <= 1 / 3 <= high
        low, high = split_of(noisy, angles, [3], noise=repeats.mean(0, keepdim=True)).intervals(groups, owners)["rest"]
        held += low <= 1 / 3 <= high
    assert covered >= 24
    assert held < covered


def test_pure_noise_has_no_single_angle_share():
    """16 waves fitted to 200 rows agree with noise by chance, with 8 % of its power: that is taken off."""
    shares = []
    for seed in range(20):
        rng = torch.Generator().manual_seed(200 + seed)
        noise = torch.randn(200, 4, generator=rng, dtype=torch.float64)
        shares.append(split_of(noise, uniform(200, seed=seed), noise=torch.ones(1, 4)).shares())
    assert np.mean([share.single for share in shares]) < 0.03
    assert np.mean([share.constant for share in shares]) < 0.01
    assert np.mean([share.rest for share in shares]) > 0.9


def test_a_table_is_no_function_of_the_angles():
    angles = uniform(5000)
    table = uniform(5000, seed=7)
    shares = split_of(table, angles, function=False).shares()
    assert shares.rest > 0.99
    assert shares.multi == 0


def test_padding_does_not_count():
    angles = uniform(3000)
    s = angles.sin()
    whole = split_of(s[:2000], angles[:2000]).shares(qubit=1)
    angles[2000:, 1:], s[2000:, 1:] = torch.nan, torch.nan
    padded = split_of(s, angles).shares(qubit=1)
    assert padded.power == pytest.approx(whole.power)
    assert padded.multi < 1e-9


def test_groups_have_their_own_projection():
    angles = uniform(4000)
    s = torch.cat([angles[:2000].sin(), 0 * angles[2000:] + 0.5])
    split = split_of(s, angles)
    assert split.shares(slice(0, 2000)).single == pytest.approx(1, abs=0.01)
    assert split.shares(torch.arange(2000, 4000)).constant == pytest.approx(1)
    assert split.shares().constant < 0.5


def test_nothing_is_nothing():
    angles = uniform(1000)
    shares = split_of(torch.zeros(1000, 4), angles).shares()
    assert shares.power == 0
    assert sum(shares.parts().values()) == 0


def test_intervals_hold_the_truth_and_shrink():
    covered, widths, shares = 0, [], []
    for seed in range(20):
        angles = 0.5 * uniform(600, seed=seed)
        split = split_of(angles.sin() + 0.5, angles)
        interval = split.intervals(np.zeros(60, dtype=int), np.repeat(np.arange(60), 10))["constant"]
        widths.append(interval[1] - interval[0])
        shares.append(split.shares().constant)
        truth = 0.25 / (0.25 + (1 - np.sin(np.pi) / np.pi) / 2)
        covered += interval[0] <= truth <= interval[1]
    assert covered >= 15
    assert np.median(widths) == pytest.approx(2 * 1.96 * np.std(shares, ddof=1), rel=0.35)
    angles = 0.5 * uniform(6000)
    wide = split_of(angles.sin() + 0.5, angles)
    low, high = wide.intervals(np.zeros(600, dtype=int), np.repeat(np.arange(600), 10))["constant"]
    assert high - low < 0.5 * np.median(widths)
