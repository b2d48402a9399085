"""Pages about parts of a model, from made-up findings."""

import dataclasses
from xml.etree import ElementTree

import pytest

from lightning_qsgd.audit.findings import Shares
from lightning_qsgd.audit.model_findings import AttentionFindings, LayerFindings, Metric
from lightning_qsgd.audit.model_sections import attention_task, layer_task
from lightning_qsgd.audit.page import write_page
from lightning_qsgd.audit.saved import load_findings
from lightning_qsgd.comparison.drawing import Drawing
from lightning_qsgd.comparison.tables import Table
from tests.audit.model_findings import attention_findings, layer_findings, replacement

ACCURACY = Metric("val/accuracy", "max", 0.953, 2000)
LAYER = layer_findings(
    ACCURACY, [replacement("constant", 0.5, 920, 14), replacement("single-angle part", 0.952, 10, 8)], outputs=20
)
ATTENTION = attention_findings(ACCURACY, [replacement("no Phi", 0.9, 120, 14), replacement("linear part", 0.953, 2, 2)])


def blocks(task, kind):
    return [block for section in task.sections for block in section.blocks if isinstance(block, kind)]


def test_a_layers_page():
    task = layer_task(LAYER, "head")
    assert task.verdict[0].endswith("what several angles do together is not used.")
    (table,), (picture,) = blocks(task, Table), blocks(task, Drawing)
    assert [len(row) for row in table.rows] == [len(table.columns)] * 3
    assert table.rows[0][:4] == ("the layer itself", "625", "100 %", "95.30")
    assert table.rows[1][:5] == ("constant", "1", "50.00 %", "50.00", "+45.30")
    assert [row[-3:] for row in table.rows[1:]] == [("920", "14", "no"), ("10", "8", "yes")]
    assert "20.00 % constant, 30.00 % single-angle, 40.00 % multi-angle and 10.00 % rest" in picture.alt
    assert "The 16 outputs with the most power are shown." in picture.caption
    assert "asked 2,000 times over the validation data" in task.subject
    assert "3,000 circuits of this layer with 3,072,000 shots" in str(task.sections)
    assert task.sections[-1].warnings


def test_an_attentions_page():
    task = attention_task(ATTENTION, "attention")
    (table,), (picture,) = blocks(task, Table), blocks(task, Drawing)
    assert [row[0] for row in table.rows] == ["Phi of each head", "no Phi", "linear part"]
    assert "in one angle" in str(task.sections[0].blocks[0])
    assert "head 1: 30.00 % linear, 20.00 % curved, 50.00 % constant" in picture.alt
    assert "adds 0.2 (root mean square) to scores with a standard deviation of 1.5" in task.sections[0].details[0]


@pytest.mark.parametrize(
    "task",
    [
        layer_task(layer_findings(ACCURACY, []), "a"),
        layer_task(layer_findings(ACCURACY, [replacement("constant", 0.5)], shares=None), "b"),
        layer_task(layer_findings(Metric("val/loss", "min", 0.3, 0), [replacement("constant", 0.5)]), "c"),
        layer_task(layer_findings(ACCURACY, [replacement("constant", 0.5)], Shares(0, 0, 0, 0, 0, 99), 1), "d"),
        attention_task(attention_findings(ACCURACY, []), "e"),
        attention_task(attention_findings(ACCURACY, ATTENTION.replacements * 2, heads=9), "f"),
    ],
)
def test_what_is_missing_is_left_out(task, tmp_path):
    assert task.sections
    for section in task.sections:
        assert all(block is not None for block in section.blocks)
    for picture in blocks(task, Drawing):
        for svg in (picture.svg, picture.narrow):
            ElementTree.fromstring(svg)
    write_page("Audit", [task], {"part": LAYER}, tmp_path)


def test_findings_come_back_from_their_file(tmp_path):
    write_page(
        "Audit",
        [layer_task(LAYER, "head"), attention_task(ATTENTION, "attention")],
        {"head": LAYER, "attention": ATTENTION},
        tmp_path,
    )
    assert load_findings(tmp_path / "findings.json", "head", LayerFindings) == LAYER
    assert load_findings(tmp_path / "findings.json", "attention", AttentionFindings) == ATTENTION
    bare = dataclasses.replace(LAYER, shares=None, per_output=[], circuits=None, shots=None)
    write_page("Audit", [layer_task(bare, "head")], {"head": bare}, tmp_path)
    assert load_findings(tmp_path / "findings.json", "head", LayerFindings) == bare
