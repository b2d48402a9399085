from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_qsgd.comparison.statistics import holm, paired, seeds_needed, smallest_p

pytestmark = pytest.mark.filterwarnings("error")
# Accuracies of 2000 examples: many ties, which rounding must not hide
counts = st.lists(st.tuples(st.integers(1790, 1810), st.integers(1790, 1810)), min_size=2, max_size=7)


def drawn(n, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.normal(0, 1, n)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 17])
def test_agrees_with_scipy(n, alpha):
    a, b = drawn(n, 0.7)
    found, theirs = paired(a, b, 0.5, alpha), stats.ttest_rel(a, b)
    assert found.p_t == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(1 - alpha), rel=1e-9)
    assert (found.tost_low, found.tost_high) == pytest.approx(theirs.confidence_interval(1 - 2 * alpha), rel=1e-9)
    assert found.probability == pytest.approx(stats.mannwhitneyu(a, b).statistic / n**2)
    below = stats.ttest_1samp(a - b, -0.5, alternative="greater").pvalue
    above = stats.ttest_1samp(a - b, 0.5, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(below, above), rel=1e-9)
    assert (found.n, found.alpha, found.differences) == (n, alpha, tuple(a - b))


def test_three_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, standard error 1 / sqrt(3). With 2 degrees of freedom P(T > t) has the closed
    # form (1 - t / sqrt(2 + t**2)) / 2, and the quantiles 4.30265 (0.975) and 2.91999 (0.95)
    found = paired([2, 2, 5], [1, 0, 2], margin=4)
    assert (found.mean, found.sd, found.d_z) == (2, 1, 2)
    assert (found.low, found.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert (found.tost_low, found.tost_high) == pytest.approx((2 - 1.68585, 2 + 1.68585), abs=2e-5)
    assert found.p_equivalence == pytest.approx((1 - np.sqrt(12) / np.sqrt(14)) / 2)
    assert found.p_sign_flip == 2 / 8
    assert (found.wins, found.ties, found.losses) == (3, 0, 0)
    # 2 > 1, 0 and = 2, twice; 5 > 1, 0, 2
    assert found.probability == (2.5 + 2.5 + 3) / 9


def test_equal_values_are_ties():
    found = paired([1, 2, 3, 4], [1, 1, 5, 4], 1)
    assert (found.wins, found.ties, found.losses) == (1, 2, 1)


@pytest.mark.parametrize("n", range(2, 21))
def test_sign_flips_of_differences_of_one_sign(n):
    a, b = np.linspace(0.5, 0.9, n), np.linspace(0.1, 0.2, n)
    assert paired(a, b, 0.1).p_sign_flip == 2 / 2**n
    assert paired(b, a, 0.1).p_sign_flip == 2 / 2**n


@given(counts)
def test_sign_flips_are_exact_in_spite_of_ties(rows):
    a, b = np.array(rows).T
    sums = [abs(sum(sign * x for sign, x in zip(signs, (a - b).tolist()))) for signs in product((1, -1), repeat=len(a))]
    expected = np.mean([total >= abs(sum((a - b).tolist())) for total in sums])
    assert paired(a / 2000, b / 2000, 0.01).p_sign_flip == pytest.approx(expected, abs=1e-12)


def test_many_pairs_are_flipped_at_random():
    a, b = drawn(20, 0.9)
    exact = paired(a, b, 0.1).p_sign_flip
    # A pair without difference changes no mean, and takes the number of pairs above what is enumerated
    sampled = paired([*a, 0], [*b, 0], 0.1).p_sign_flip
    assert 0.01 < exact < 0.5
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact / 1e5))
    assert paired([*a, 0], [*b, 0], 0.1).p_sign_flip == sampled
    assert paired(np.linspace(1, 2, 40), np.zeros(40), 0.1).p_sign_flip == 1e-5


# Cohen's and G*Power's sizes of paired samples for power 0.8 at 5 %, two-sided
@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_detectable_effect_has_the_published_sample_size(effect, n):
    a, b = drawn(n)
    enough, too_few = paired(a, b, 1), paired(a[1:], b[1:], 1)
    assert enough.detectable <= effect * enough.sd
    assert too_few.detectable > effect * too_few.sd


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 17])
def test_detectable_effect_is_found_with_power_0_8(n, alpha):
    found = paired(*drawn(n), 1, alpha)
    rng = np.random.default_rng(1)
    d = rng.normal(found.detectable / found.sd, 1, (20_000, n))
    t = d.mean(axis=1) / d.std(axis=1, ddof=1) * np.sqrt(n)
    assert (t > stats.t.isf(alpha / 2, n - 1)).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 10, 25])
def test_arms_that_agree_bit_for_bit(n):
    values = np.linspace(0.6, 0.9, n)
    found = paired(values, values, 0.01)
    assert (found.mean, found.sd, found.low, found.high, found.d_z) == (0, 0, 0, 0, 0)
    assert (found.p_t, found.p_sign_flip, found.p_equivalence) == (1, 1, 0)
    assert (found.ties, found.probability, found.detectable) == (n, 0.5, 0)
    assert found.bca == ((0, 0) if n >= 10 else None)


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("values", [lambda n: np.full(n, 0.7), lambda n: np.linspace(0.1, 0.7, n)])
def test_constant_difference(n, values):
    base = values(n)
    for difference in (0.05, -0.05):  # rounding spreads the differences of the second
        found = paired(base + difference, base, 0.1)
        ends = (found.low, found.high, found.tost_low, found.tost_high, *(found.bca or ()))
        assert ends == pytest.approx([difference] * len(ends))
        assert (found.sd, found.p_t, found.d_z) == (0, 0, np.copysign(np.inf, difference))
        assert (found.p_sign_flip, found.p_equivalence) == (2 / 2**n, 0)
        assert paired(base + difference, base, 0.01).p_equivalence == 1


def test_one_pair_and_none_say_nothing_about_the_spread():
    for n in (0, 1):
        found = paired([0.9] * n, [0.8] * n, 0.1)
        assert (found.n, found.wins, found.p_sign_flip, found.bca) == (n, n, 1, None)
        unknown = (found.sd, found.low, found.high, found.tost_low, found.tost_high, found.d_z, found.p_t)
        assert np.isnan([*unknown, found.p_equivalence, found.detectable]).all()
    assert paired([0.9], [0.8], 0.1).mean == pytest.approx(0.1)
    assert np.isnan(paired([], [], 0.1).mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, np.nan], [1, 2], 0.1), "Invalid a: 1 of 2 values are not finite"),
        (([1, 2], [np.inf, -np.inf], 0.1), "Invalid b: 2 of 2 values are not finite"),
        (([1, 2], [1], 0.1), "Invalid b: 1 values, but a has 2"),
        (([[1, 2]], [1], 0.1), r"Invalid a: shape \(1, 2\)"),
        (([1, 2], [1, 2], -0.1), "Invalid margin: -0.1"),
        (([1, 2], [1, 2], np.nan), "Invalid margin: nan"),
        (([1, 2], [1, 2], 0.1, 0.5), "Invalid alpha: 0.5"),
        (([1, 2], [1, 2], 0.1, 0), "Invalid alpha: 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired(*arguments)


@given(counts, st.integers(-500, 500))
def test_a_shift_of_both_arms_changes_nothing(rows, shift):
    a, b = np.array(rows, dtype=float).T
    one, other = paired(a, b, 3), paired(a + shift, b + shift, 3)
    assert one == other


@given(counts)
def test_swapped_arms_mirror_everything(rows):
    a, b = np.array(rows).T / 2000
    one, other = paired(a, b, 0.002), paired(b, a, 0.002)
    assert (one.mean, one.low, one.high, one.tost_low) == (-other.mean, -other.high, -other.low, -other.tost_high)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert one.probability == pytest.approx(1 - other.probability)
    assert (one.d_z, one.sd, one.detectable) == (-other.d_z, other.sd, other.detectable)
    assert (one.p_t, one.p_sign_flip, one.p_equivalence) == (other.p_t, other.p_sign_flip, other.p_equivalence)


@given(counts, st.floats(0.001, 0.4), st.floats(0, 0.01))
def test_intervals_and_p_values_agree(rows, alpha, margin):
    a, b = np.array(rows).T / 2000
    found = paired(a, b, margin, alpha)
    assert found.low <= found.tost_low <= found.mean <= found.tost_high <= found.high
    assert all(0 <= p <= 1 for p in (found.p_t, found.p_sign_flip, found.p_equivalence, found.probability))
    if abs(found.p_t - alpha) > 1e-9:
        assert (found.p_t < alpha) == (not found.low <= 0 <= found.high)
    if abs(found.p_equivalence - alpha) > 1e-9:
        assert (found.p_equivalence < alpha) == (-margin < found.tost_low and found.tost_high < margin)


def test_bootstrap_interval_needs_ten_pairs():
    assert paired(*drawn(9), 1).bca is None
    low, high = paired(*drawn(10), 1).bca
    assert low < paired(*drawn(10), 1).mean < high
    assert paired(*drawn(10), 1).bca == (low, high)


def test_bootstrap_interval_of_many_normal_differences_is_the_normal_one():
    found = paired(*drawn(400), 1, 0.1)
    low, high = found.bca
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.1 * (found.high - found.low))


def test_bootstrap_interval_follows_the_skew():
    skewed = np.random.default_rng(0).exponential(size=100)
    found = paired(skewed, np.zeros(100), 1)
    low, high = found.bca
    assert high - found.mean > 1.1 * (found.mean - low)


def test_bootstrap_interval_of_nearly_constant_differences():
    low, high = paired([0.5] * 9 + [0.5005], [0.5] * 10, 0.1, 0.05 / 17).bca
    assert 0 <= low < 5e-5 < high <= 5e-4


def test_holm_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not be below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9, 0.5]) == pytest.approx([1, 1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = holm(p)
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(len(p) * np.array(p), 1)).all()
    assert adjusted[np.argmin(p)] == min(1, len(p) * min(p))


@pytest.mark.parametrize("p", [[0.1, np.nan], [1.1], [-0.1]])
def test_holm_refuses(p):
    with pytest.raises(ValueError, match="Invalid p_values"):
        holm(p)


def test_seeds_needed():
    assert [seeds_needed(m) for m in (1, 2, 3, 8, 12, 13, 17)] == [6, 7, 7, 9, 9, 10, 10]
    assert seeds_needed(1, 0.2) == 6


@given(st.integers(1, 100), st.floats(0.001, 0.3))
def test_smallest_p_reaches_alpha_just_with_the_seeds_needed(contrasts, alpha):
    n = seeds_needed(contrasts, alpha)
    assert smallest_p(n, contrasts) <= alpha
    assert n == 6 or smallest_p(n - 1, contrasts) > alpha


@pytest.mark.parametrize(("n", "contrasts"), [(3, 2), (6, 3), (10, 17), (2, 5)])
def test_smallest_p_is_what_holm_makes_of_the_clearest_result(n, contrasts):
    clearest = paired(np.arange(n) + 1.0, np.zeros(n), 1).p_sign_flip
    assert holm([clearest, *[1.0] * (contrasts - 1)])[0] == smallest_p(n, contrasts)
