"""Rows of a map: few, in the model's order, and with names that can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.audit.grouping import MOST_ROWS, common_prefix, grouped, short_names, together
from tests.audit.common import fake_shares

NAMES = st.lists(st.lists(st.sampled_from("ab01"), min_size=1, max_size=4).map(".".join), min_size=1, unique=True)


def test_power_counts_when_tensors_are_put_together():
    small = fake_shares(1, 0, 0, 0, power=0.3, rows=20, weight=10)
    both = together([small, fake_shares(0, 0, 1, 0, power=0.1, rows=20, weight=30)])
    assert both.power == pytest.approx(0.15)
    assert (both.rows, both.weight) == (40, 40)
    assert list(both.parts().values()) == pytest.approx([0.5, 0, 0.5, 0])


def test_nothing_together_is_nothing():
    both = together([fake_shares(0, 0, 0, 0, power=0), fake_shares(0, 0, 0, 0, power=0)])
    assert (both.power, sum(both.parts().values())) == (0, 0)


def test_few_tensors_have_a_row_each():
    assert list(grouped({f"a.{i}": fake_shares() for i in range(MOST_ROWS)})) == [f"a.{i}" for i in range(MOST_ROWS)]


@pytest.mark.parametrize(
    ("names", "first", "rows"),
    [
        ([f"m.layers.{i}.{part}" for i in range(12) for part in "abcde"], "m.layers.0", 12),
        ([f"m.layers.{i}.{part}.w" for i in range(90) for part in "ab"], "m.layers.0 to m.layers.2", 30),
        ([f"parameter {i}" for i in range(100)], "parameter 0 to parameter 2", 34),
    ],
    ids=["modules", "many layers", "flat"],
)
def test_many_tensors_become_modules_or_runs_of_them(names, first, rows):
    found = grouped({name: fake_shares() for name in names})
    assert next(iter(found)) == first
    assert len(found) == rows


@given(NAMES, st.integers(1, 30))
def test_no_tensor_is_lost_and_none_counts_twice(names, times):
    tensors = {f"{name}.{i}": fake_shares(rows=1) for name in names for i in range(times)}
    found = grouped(tensors)
    assert len(found) <= MOST_ROWS
    assert sum(map(len, found.values())) == len(tensors)


def test_names_lose_what_all_begin_with():
    assert short_names(["net.a.weight", "net.a.bias"]) == ["weight", "bias"]
    assert short_names(["net.0.weight", "net.head.weight"]) == ["net.0.weight", "net.head.weight"]
    assert short_names(["net.weight"]) == ["net.weight"]
    assert common_prefix(["net.layers.0", "net.layers.1"]) == "net."


@given(NAMES)
def test_the_prefix_begins_all_names(names):
    prefix = common_prefix(names)
    assert all(name.startswith(prefix) and len(name) > len(prefix) for name in names)


def test_long_names_keep_both_ends():
    (short, _) = short_names(["first." + "x" * 80 + ".last", "other"])
    assert len(short) <= 52
    assert (short[:6], short[-5:]) == ("first.", ".last")
