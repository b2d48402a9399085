"""The comparison that an audit proposes."""

import pytest
import yaml
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from torch import nn

from lightning_qsgd.audit.command import comparison_of, layer_twins_of
from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.comparison.spec import to_comparison
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.models import QuantumAttention
from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, SinePerturbation
from lightning_qsgd.quantum import Ansatz, ExactSampler, QuantumLayer, replace_circuits
from lightning_qsgd.twin_names import LAYER_TWINS
from tests.own import RUN, Regression

WHOLE = ["--model.optimizer.scale=adam", "--model.optimizer.scope=all"]


def proposed(tmp_path, perturbation, arguments=(), seeds=10, config="configs/seqcls.yaml"):
    settings = Experiment.typed(["--config", config, *arguments]).settings
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(settings))
    return comparison_of(base, settings, perturbation, seeds, 0.01, tmp_path)


def fitted(**options):
    circuit = CircuitPerturbation(sampler=ExactSampler(), **options)
    circuit.prepare()
    return circuit


def test_a_circuit_has_all_its_twins_and_they_can_be_built(tmp_path):
    comparison = proposed(tmp_path, fitted(), WHOLE)
    names = ["frozen", "constant", "shuffled", "scalar", "series"]
    assert comparison.all_arms() == ["adamw", "circuit", *(f"circuit/{name}" for name in names), "sine", "product"]
    assert {contrast.against for contrast in comparison.contrasts} == set(comparison.all_arms()) - {"circuit"}
    arms = Arms(comparison)
    plans = {name: arms.plan(name, 501, "evaluation", {}) for name in comparison.all_arms()}
    optimizers = {name: plan.config["model"]["init_args"]["optimizer"]["init_args"] for name, plan in plans.items()}
    assert optimizers["adamw"]["quantum_weight"] == 0
    assert optimizers["circuit"]["scale"] == "adam"
    assert optimizers["sine"]["perturbation"]["class_path"].endswith("SinePerturbation")
    assert optimizers["product"]["perturbation"]["init_args"]["entanglement"] == "none"
    assert optimizers["circuit/frozen"]["perturbation"]["init_args"]["kind"] == "frozen"
    assert len({plan.digest for plan in plans.values()}) == len(plans)
    assert to_comparison(comparison.to_dict()) == comparison
    assert comparison.seeds.evaluation == list(range(501, 511))


def test_twins_that_mean_nothing_are_left_out(tmp_path):
    assert "circuit/scalar" not in proposed(tmp_path, fitted()).all_arms()  # scope first_of_tensor
    centred = proposed(tmp_path, fitted(center="zero"), [*WHOLE, "--model.optimizer.perturbation.center=zero"])
    assert "circuit/series" not in centred.all_arms()
    product = proposed(tmp_path, fitted(entanglement="none"), ["--model.optimizer.perturbation.entanglement=none"])
    assert "product" not in product.all_arms()
    control = ["--model.optimizer.perturbation=lightning_qsgd.optim.ControlPerturbation"]
    control.append("--model.optimizer.perturbation.kind=sign")
    assert "product" not in proposed(tmp_path, ControlPerturbation("sign"), control).all_arms()


def test_the_run_of_a_twin_has_twins_and_a_sine(tmp_path):
    twin = ["--config=configs/overlay/matched.yaml", "--config=configs/overlay/zero_rotations.yaml"]
    comparison = proposed(tmp_path, ControlPerturbation("matched", fitted(rotations="zero")), twin)
    twins = ["circuit/frozen", "circuit/constant", "circuit/shuffled"]
    assert comparison.all_arms() == ["adamw", "circuit", *twins, "sine"]
    arms = Arms(comparison)
    found = {}
    for name in comparison.all_arms():
        optimizer = arms.plan(name, 501, "evaluation", {}).config["model"]["init_args"]["optimizer"]["init_args"]
        assert optimizer.get("twin") is None
        found[name] = optimizer["perturbation"]
    assert found["circuit"]["init_args"]["kind"] == "matched"
    assert found["circuit"]["init_args"]["reference"]["init_args"]["rotations"] == "zero"
    assert found["circuit/frozen"]["init_args"]["reference"] == found["circuit"]
    assert found["sine"]["class_path"].endswith("SinePerturbation")


def test_the_default_sine_has_no_twins_of_its_own(tmp_path):
    settings = ["--config", "configs/overlay/sine.yaml"]
    comparison = proposed(tmp_path, SinePerturbation(), settings)
    assert "sine" not in comparison.all_arms()
    assert "circuit/frozen" in comparison.all_arms()
    Arms(comparison)


def test_a_model_with_circuit_layers_has_their_twins_with_any_optimizer(tmp_path):
    arguments = ["--checkpoint.monitor=val/mse", "--checkpoint.mode=min", "--model=tests.own.Regression", *RUN]
    settings = Experiment((), arguments).settings
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(settings))
    layers = layer_twins_of(Regression())
    assert layers == [*LAYER_TWINS]
    comparison = comparison_of(base, settings, None, 2, 0.01, tmp_path, layers)
    assert comparison.all_arms() == ["circuit", *(f"circuit/{twin}" for twin in LAYER_TWINS)]
    assert (comparison.baseline, comparison.metric.name, comparison.metric.mode) == ("circuit/linear", "val/mse", "min")
    assert {(contrast.arm, contrast.level) for contrast in comparison.contrasts} == {("circuit", "shared")}
    assert comparison.claims == {"circuit": comparison.all_arms()[1:]}
    Arms(comparison)


def test_a_perturbed_run_of_a_hybrid_model_has_both_families(tmp_path):
    settings = Experiment((), ["--config", "configs/seqcls.yaml", *WHOLE]).settings
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(settings))
    comparison = comparison_of(base, settings, fitted(), 10, 0.01, tmp_path, ["linear", "mlp"])
    assert comparison.arms["circuit"].twins[-2:] == ["linear", "mlp"]
    levels = {contrast.against: contrast.level for contrast in comparison.contrasts}
    assert levels["circuit/mlp"] == levels["circuit/linear"] == "shared"
    assert levels["circuit/frozen"] == levels["sine"] == "full"
    assert comparison.gatekeeper == "circuit - adamw"
    assert {"circuit/linear", "circuit/mlp", "adamw", "sine"} <= set(comparison.claims["circuit"])


def test_twins_that_a_layer_does_not_have_are_left_out_and_named(capsys):
    x = ParameterVector("x", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(x[0] * x[1], 0)
    circuit.cx(0, 1)
    module = nn.Sequential(QuantumLayer(Ansatz(circuit, list(x)), engine="torch"))
    assert layer_twins_of(module) == [twin for twin in LAYER_TWINS if twin != "fitted_series"]
    assert "Without the twin fitted_series: Invalid replace_circuits" in capsys.readouterr().out
    assert layer_twins_of(nn.Sequential(QuantumAttention(4, 2), *module)) == []
    assert "No twins of circuit layers: 0.series (ScoreSeries) would stay" in capsys.readouterr().out
    replace_circuits(module, "linear")
    with pytest.raises(ValueError, match=r"this run trained with replace_circuits: linear; audit that of its circuit"):
        layer_twins_of(module)


def test_too_few_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Invalid seeds: 1; paired statistics need at least 2"):
        proposed(tmp_path, fitted(), seeds=1)
