"""Comparisons of a model with the classical twins of its circuit layers."""

import pytest
import yaml

from lightning_qsgd.comparison.pairing import level_of_contrast
from lightning_qsgd.comparison.report import write_report
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds
from lightning_qsgd.twin_names import LAYER_TWINS

BASE = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "checkpoint": {"monitor": "val/mse", "mode": "min"},
    "model": {"class_path": "tests.own.Regression", "init_args": {}},
    "data": {"class_path": "tests.own.Points"},
}
PLAIN = {"class_path": "tests.comparison.mine.Net", "init_args": {"optimizer": {"class_path": "torch.optim.SGD"}}}


def runner(folder, arms, base=BASE, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    metric = Metric(0.01, "val/mse", "min")
    seeds = Seeds([1], [11], ["seed_everything"])
    options = {"baseline": next(iter(arms)), "seeds": seeds, "root": str(folder)} | settings
    return Runner(Comparison("twins", [str(folder / "base.yaml")], metric, arms, **options), workers=1)


@pytest.mark.slow  # ten runs, and as many that are tried first
def test_a_circuit_is_compared_with_all_of_its_twins(tmp_path):
    settings = {
        "baseline": "circuit/linear",
        "contrasts": [Contrast("circuit", f"circuit/{twin}", "shared") for twin in LAYER_TWINS],
        "claims": {"circuit": ["circuit/linear"]},
    }
    results = runner(tmp_path, {"circuit": Arm(twins=["layers"])}, **settings).run()
    assert {run.status for run in results.runs} == {"finished"}, [run.error for run in results.runs]
    for twin in LAYER_TWINS:
        assert level_of_contrast(results, "circuit", f"circuit/{twin}")[0] == "shared", twin
    parameters = {arm: results.of(arm)[1].cost["parameters"] for arm in results.comparison.all_arms()}
    whole = parameters["circuit"]  # 2 of them in the circuit
    assert parameters == {
        "circuit": whole,
        "circuit/untrained": whole - 2,
        "circuit/product": whole,
        "circuit/linear": whole + 4,
        "circuit/tanh": whole + 4,
        "circuit/mlp": whole + 5,
        "circuit/fitted_series": whole + 16,
        "circuit/bypass": whole - 2,
        "circuit/shuffled_inputs": whole,
    }
    write_report([results], tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"| circuit/mlp | 1/0/0 | {whole + 5} |" in page
    assert "lower is better" in page
    assert "circuit: circuit-specific effect" not in page


def test_twins_are_tried_before_the_first_run_also_if_they_are_added_later(tmp_path):
    plain = Arm(set={"model": PLAIN}, twins=["linear"])
    with pytest.raises(ValueError, match=r"Invalid replace_circuits: 'linear'; Net has no QuantumLayer.*arm e/linear"):
        runner(tmp_path, {"e": plain}).run()
    assert not list(tmp_path.glob("twins/runs/**/result.json"))
    runner(tmp_path, {"c": Arm()}).run()
    with pytest.raises(ValueError, match="Net has no QuantumLayer"):
        runner(tmp_path, {"c": Arm(), "e": plain}).run()
    results = runner(tmp_path, {"c": Arm(twins=["mlp"])}).run()
    assert {run.status for run in results.runs} == {"finished"}
    assert len(results.of("c/mlp")) == 1
