"""Contrasts and claims: what is named, what is refused, what is exploratory."""

import pytest

from lightning_qsgd.comparison.analysis import hints, judge_claim, judge_contrasts, sine_control
from lightning_qsgd.twin_names import LAYER_TWINS
from tests.comparison.common import fake_results

CONTROLS = ["a", "b/frozen", "b/shuffled", "sine"]


def said(others=CONTROLS, frozen=0.0, sine=True, trials=3, change=None):
    """The sentence of a claim of arm b, which is 3 points better than all but its frozen twin."""
    effects = {"a": 0.0, "b": 0.03, "b/frozen": frozen, "b/shuffled": 0.0, "sine": 0.0}
    results = fake_results(effects, twins={"b": ["frozen", "shuffled"]}, claims={"b": others}, trials=trials)
    results.arms["sine"] = {"sine": sine}
    if change is not None:
        change(results)
    return judge_claim(results, "b", others, [])


def test_an_effect_is_named_only_where_the_controls_were_beaten_and_tuned():
    assert said().sentence == "circuit-specific effect: better than each of a, b/frozen, b/shuffled, sine"
    assert said(frozen=0.03).sentence == "no circuit-specific effect shown: not clearly better than b/frozen"
    assert said(["a", "b/frozen"]).sentence == "better than each of a, b/frozen, b/shuffled"
    assert said(sine=False).sentence == "better than each of a, b/frozen, b/shuffled, sine"
    assert said(trials=0).sentence.endswith("sine; nothing was tuned, so this is no circuit-specific effect")
    assert said(trials=0, frozen=0.03).sentence == "not clearly better than b/frozen"


SINE = {"class_path": "lightning_qsgd.optim.SinePerturbation", "init_args": {"num_qubits": 2}}
FROZEN_SINE = {"kind": "frozen", "reference": SINE}
PERTURBATION = "model.init_args.optimizer.init_args.perturbation"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer.perturbation": SINE}, True),
        ({PERTURBATION: {"class_path": "SinePerturbation", "init_args": {"num_qubits": 2}}}, True),
        ({"optimizer.perturbation": None}, True),  # the optimizer's default
        ({"model.init_args.scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR"}}, False),
        ({"optimizer.perturbation": SINE, "optimizer.quantum_weight": 0.0}, False),
        ({"optimizer.perturbation": SINE, "optimizer.twin": "frozen"}, False),
        ({"optimizer.perturbation": {"class_path": "ControlPerturbation", "init_args": FROZEN_SINE}}, False),
        ({}, False),
        ("configs/overlay/sine.yaml", True),
        ("configs/overlay/cosine.yaml", False),
    ],
)
def test_a_sine_control_is_one_by_its_configuration(settings, expected):
    results = fake_results({"a": 0.0, "sine": 0.0}, seeds=1)
    arm = results.comparison.arms["sine"]
    arm.set, arm.overlays = (settings, []) if isinstance(settings, dict) else ({}, [settings])
    assert sine_control(results, "sine") == expected


def test_what_the_runner_noted_of_a_sine_control_counts():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=1)
    results.comparison.base = ["a file that is gone.yaml"]
    assert not sine_control(results, "b")
    results.arms["b"] = {"sine": True}
    assert sine_control(results, "b")
    results.arms["b"] = {"sine": False}
    results.comparison.arms["b"].overlays = ["configs/overlay/sine.yaml"]
    assert not sine_control(results, "b")
    assert not sine_control(results, "not there")


def test_a_twin_that_was_trained_cannot_be_left_out_of_a_claim():
    assert said(["a", "sine"], frozen=0.03).fails == ("b/frozen",)
    assert said(["a", "sine"]).sentence == "circuit-specific effect: better than each of a, sine, b/frozen, b/shuffled"


def said_of_layers(worse=(), left_out=(), trials=3, others=("a",), more=()):
    """The sentence of a claim of arm b, which is 3 points better than a and than its twins but ``worse`` ones."""
    twins = [*(twin for twin in LAYER_TWINS if twin not in left_out), *more]
    effects = {"a": 0.0, "b": 0.03} | {f"b/{twin}": 0.03 if twin in worse else 0.0 for twin in twins}
    results = fake_results(effects, twins={"b": twins}, claims={"b": list(others)}, trials=trials)
    return judge_claim(results, "b", list(others), []).sentence


def test_an_effect_of_circuit_layers_needs_all_eight_twins_and_tuning():
    each = ", ".join(f"b/{twin}" for twin in LAYER_TWINS)
    assert said_of_layers() == f"circuit-specific effect: better than each of a, {each}"
    assert said_of_layers(["mlp"]) == "no circuit-specific effect shown: not clearly better than b/mlp"
    assert said_of_layers(trials=0).endswith("; nothing was tuned, so this is no circuit-specific effect")
    assert said_of_layers(left_out=["mlp", "tanh"]).endswith(
        "b/shuffled_inputs; it was not compared with tanh, mlp, so this is no circuit-specific effect"
    )
    assert said_of_layers(["linear"], left_out=["mlp"]) == "not clearly better than b/linear"
    both = said_of_layers(more=["frozen", "shuffled"])  # and no sine: the perturbation's controls are missing
    assert both == f"better than each of a, {each}, b/frozen, b/shuffled"


def test_claims_of_runs_that_share_nothing_are_refused():
    def other_batches(results):
        results.of("sine")[4].hashes["batches"] = ["other"]

    found = said(change=other_batches)
    assert not found.holds
    assert found.sentence.endswith("not paired: b and sine share nothing (other batches from epoch 1 on)")


def test_claims_of_an_arm_that_diverges_more_often_fail():
    def diverge(results):
        results.of("b")[1].status = "diverged"

    assert "1 of 10 runs of b diverged" in said(change=diverge).sentence


@pytest.mark.parametrize("arm", ["a", "b"])
def test_diverged_runs_are_counted(arm):
    results = fake_results({"a": 0.0, "b": 0.03}, ["b - a"])
    results.of(arm)[1].status = "diverged"
    (item,) = judge_contrasts(results, [])
    assert item.judgement.diverged == f"1 of 10 runs of {arm} diverged"
    assert item.judgement.verdict == "inconclusive"


def test_what_is_incomplete_or_declared_otherwise_is_exploratory():
    results = fake_results({"a": 0.0, "b": 0.03}, ["b - a"])
    assert hints(results, so_far=False) == []
    assert hints(results, so_far=True) == ["runs are missing"]
    results.provenance["declared"] = {"at": "2026-01-01T00:00:00+00:00", "changes": ["metric.margin: 0.02"]}
    (why,) = hints(results, so_far=False)
    assert why == "declared otherwise before the runs: metric.margin: 0.02"
    assert judge_contrasts(results, [why])[0].judgement.why_exploratory == why
