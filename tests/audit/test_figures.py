"""Figures say in words what they show, and are there in odd cases."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest

from lightning_qsgd.audit import figures
from tests.audit.common import TENSORS, fake_findings, fake_shares

DRAW = (figures.power_over_time, figures.layers, figures.modulation)


@pytest.mark.parametrize("draw", DRAW)
def test_both_widths_are_pictures_and_the_same_each_time(draw):
    first, second = draw(fake_findings()), draw(fake_findings())
    assert first == second
    for svg in (first.svg, first.narrow):
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
    width = [float(re.search(r'width="([\d.]+)pt"', svg)[1]) for svg in (first.svg, first.narrow)]
    assert width[1] < 0.5 * width[0]


def test_power_is_said_at_both_ends():
    spans = {0: fake_shares(power=0.25), 50: fake_shares(0.2, 0.8, 0.0, 0.0, power=0.5)}
    alt = figures.power_over_time(fake_findings(over_time=spans)).alt
    assert alt == (
        "Power of the modulation over 2 spans of optimizer steps. First span: mean square 0.25, of which 90.00 % "
        "constant, 6.00 % single-angle, 3.00 % multi-angle and 1.00 % rest. Last span: 0.5, of which 20.00 % "
        "constant, 80.00 % single-angle, 0 % multi-angle and 0 % rest."
    )


def test_areas_are_as_high_as_the_parts():
    drawing = figures.power_over_time(fake_findings(over_time={0: fake_shares(0.5, 0.25, 0.15, 0.1)}))
    for svg in (drawing.svg, drawing.narrow):
        areas = re.findall(r'<g id="FillBetweenPolyCollection_\d">\s*<path d="([^"]*)"', svg)
        ys = [[float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", area)] for area in areas]
        heights = [max(y) - min(y) for y in ys]
        for panel in (heights[:4], heights[4:]):
            assert [height / sum(panel) for height in panel] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=1e-4)


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
