"""Figures say in words what they show, and are there in odd cases."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.audit import figures
from lightning_qsgd.audit.figures import MOST_ROWS, common_prefix, grouped, short_names, together
from tests.audit.common import TENSORS, fake_findings, fake_shares

NAMES = st.lists(st.lists(st.sampled_from("ab01"), min_size=1, max_size=4).map(".".join), min_size=1, unique=True)
DRAW = (figures.power_over_time, figures.layers, figures.modulation)


@pytest.mark.parametrize("draw", DRAW)
def test_a_figure_is_a_picture_and_the_same_each_time(draw):
    first, second = draw(fake_findings()), draw(fake_findings())
    assert first == second
    assert ElementTree.fromstring(first.svg).tag.endswith("svg")


def test_areas_are_as_high_as_the_parts():
    drawing = figures.power_over_time(fake_findings(over_time={0: fake_shares(0.5, 0.25, 0.15, 0.1)}))
    areas = re.findall(r'<g id="FillBetweenPolyCollection_\d">\s*<path d="([^"]*)"', drawing.svg)
    ys = [[float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", area)] for area in areas]
    heights = [max(y) - min(y) for y in ys]
    assert [height / sum(heights) for height in heights] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=1e-4)


def test_layers_name_where_each_part_is_largest():
    tensors = {
        "net.embedding.weight": fake_shares(1.0, 0.0, 0.0, 0.0),
        "net.<b>&$x_$.weight": fake_shares(0.1, 0.2, 0.7, 0.0),
    }
    drawing = figures.layers(fake_findings(per_tensor=tensors, shares=fake_shares(rows=2000)))
    assert drawing.alt == (
        "Shares of power of 2 rows, for 2 tensors in the model's order. Most constant: embedding.weight, 100 %. Most "
        "single-angle: <b>&$x_$.weight, 20.00 %. Most multi-angle: <b>&$x_$.weight, 70.00 %. Nothing is rest."
    )
    assert "begin with \u201cnet.\u201d" in drawing.caption
    assert "left out." not in drawing.caption
    assert "0 tensor" not in drawing.caption


def test_layers_say_what_is_not_there():
    tensors = {name: fake_shares() for name in TENSORS[:3]} | {TENSORS[3]: fake_shares(0, 0, 0, 0, power=0)}
    drawing = figures.layers(fake_findings(per_tensor=tensors, shares=fake_shares(rows=5000)))
    assert "Not shown: 1 tensor on which s is 0." in drawing.caption
    assert "(20.00 % of all blocks) are left out." in drawing.caption


def test_many_tensors_are_put_together_by_module():
    names = [f"layers.{i}.{part}" for i in range(12) for part in "abcde"]
    drawing = figures.layers(fake_findings(tensors=names))
    assert "12 rows, for 60 tensors" in drawing.alt
    assert "put together by module" in drawing.caption
    assert "(5)" in drawing.alt


def test_modulation_says_what_the_best_map_reproduces():
    drawing = figures.modulation(fake_findings())
    assert "\u201cone per coordinate\u201d reproduces 97.00 % of the power." in drawing.alt
    assert "sine \u221235.00 %" in drawing.alt
    assert "one per coordinate 97" not in drawing.alt


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "spans": 1},
        {"qubits": 1, "tensors": TENSORS[:1]},
        {"shares": fake_shares(0.0, 0.0, 0.0, 1.0)},
        {"points": ("sine", [(0.5, 0.5)])},
        {"points": ("one number", [(-1.0, -1.0), (-1.0, -1.0)])},
        {"maps": {"sine": -3.0, "one number": -1e9}},
        {"maps": {}},
    ],
    ids=["one step", "one qubit", "rest", "one point", "equal points", "bad maps", "no maps"],
)
def test_odd_findings_are_drawn(changes):
    findings = fake_findings(**changes)
    for draw in DRAW:
        drawing = draw(findings)
        assert not re.search(r"\b(nan|inf|None)\b", drawing.alt + drawing.caption)


def test_without_power_nothing_is_drawn():
    nothing = fake_shares(0, 0, 0, 0, power=0)
    findings = dataclasses.replace(
        fake_findings(), shares=nothing, over_time={0: nothing}, per_tensor=dict.fromkeys(TENSORS, nothing)
    )
    assert [draw(findings) for draw in DRAW] == [None, None, None]


def test_without_tensors_there_is_no_map():
    assert figures.layers(fake_findings(per_tensor={})) is None


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
