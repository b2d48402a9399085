"""Comparisons that are run for real, with small models: interrupted, repeated, spread, and read back."""

import math

import pytest

from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds, Tuning

SMALL = {
    "trainer": {"max_epochs": 2},
    "model.init_args": {"embed_dim": 8, "num_heads": 2, "feedforward_dim": 8, "num_layers": 1},
    "data.init_args": {"train_size": 64, "val_size": 40},
    "perturbation.sampler.class_path": "lightning_qsgd.quantum.ExactSampler",
    "perturbation.num_qubits": 2,
}
ARMS = {
    "adamw": Arm(["configs/overlay/adamw.yaml"]),
    "lambda-0": Arm(set={"optimizer.quantum_weight": 0.0}, tuned_as="adamw"),
    "zero": Arm(set={"optimizer.scale": "adam", "optimizer.scope": "all", "perturbation.rotations": "zero"}),
}


def comparison(tmp_path, **settings):
    settings = {"arms": ARMS, "seeds": Seeds([1, 2], [11]), "metric": Metric(margin=0.05), "set": SMALL} | settings
    own = {"name": "t", "base": ["configs/seqcls.yaml"], "baseline": "adamw", "root": str(tmp_path)}
    return Comparison(**(own | settings))


def test_a_comparison_with_tuning_twins_and_contrasts(tmp_path):
    lr = {"optimizer.lr": [0.001, 0.003]}
    arms = ARMS | {"zero": Arm(set=ARMS["zero"].set, twins=["scalar"], space={"optimizer.quantum_weight": [0.5]})}
    contrasts = [Contrast("zero", "adamw"), Contrast("lambda-0", "adamw"), Contrast("zero", "zero/scalar")]
    small = SMALL | {"data.init_args": SMALL["data.init_args"] | {"test_size": 30}}
    spec = comparison(tmp_path, arms=arms, tuning=Tuning(3, lr), contrasts=contrasts, set=small, test=True)
    seen = []
    results = Runner(spec, watch=lambda results, done, needed: seen.append((done, needed))).run()
    assert seen[-1] == (len(results.runs), len(results.runs))
    assert {run.status for run in results.runs} == {"finished"}
    assert Results.load(spec.folder) == results
    assert results.provenance["complete"]
    assert set(results.targets) == {"0.9", "tuned baseline"}
    assert all(set(results.of(arm)) == {1, 2} for arm in spec.all_arms())
    assert results.arms["zero/scalar"]["values"] == results.arms["zero"]["values"]
    assert results.arms["lambda-0"]["values"] == results.arms["adamw"]["values"]
    assert list(results.arms["zero"]["values"]) == ["optimizer.lr", "optimizer.quantum_weight"]
    a, b, _ = results.pairs("lambda-0", "adamw")
    assert (a == b).all(), "with quantum_weight 0 it is AdamW bit for bit"
    assert results.of("lambda-0")[1].curve["val/loss"] == results.of("adamw")[1].curve["val/loss"]
    run = results.of("zero")[1]
    assert run.curve["step"] == [2, 4]
    assert run.curve["examples"] == [64, 128]
    assert run.live["norm_ratio"] > 0.1
    assert run.cost["circuits"] > 50
    assert 0 <= run.averaged["val/accuracy"] <= 1
    assert 0 <= run.test["test/accuracy"] <= 1
    assert not any(run.test for run in results.runs if run.phase == "tuning")
    again = Runner(spec)
    assert not again.tuning_round()
    assert again.run().runs == results.runs


def test_a_diverged_run_counts_and_a_failed_one_is_repeated_on_request(tmp_path):
    wild = {"optimizer.lr": 1e30, "optimizer.eps": 1e-30}
    arms = {"adamw": ARMS["adamw"], "wild": Arm(ARMS["adamw"].overlays, wild)}
    arms["broken"] = Arm(set={"optimizer.perturbation.init_args.calibration": "nowhere.npz"})
    spec = comparison(tmp_path, arms=arms, seeds=Seeds([1], [11]))
    results = Runner(spec).run()
    assert results.counts("wild") == {"finished": 0, "diverged": 1, "failed": 0}
    assert results.value(results.of("wild")[1]) == results.worst()
    failed = results.of("broken")[1]
    assert failed.status == "failed"
    assert "nowhere.npz" in failed.error
    assert math.isnan(results.value(failed))
    begun = failed.host["started"], results.of("wild")[1].host["started"]
    assert Runner(spec).run().of("broken")[1].host["started"] == begun[0]
    (tmp_path / "t" / "runs" / "broken").rename(tmp_path / "elsewhere")  # results.json alone knows it
    again = Runner(spec, retry=True).run()
    assert again.of("broken")[1].host["started"] > begun[0]
    assert again.of("wild")[1].host["started"] == begun[1]


def test_what_is_not_paired_as_declared_is_refused_before_the_first_run(tmp_path):
    arms = {"adamw": ARMS["adamw"], "half": Arm(ARMS["adamw"].overlays, {"data.init_args.batch_size": 16})}
    spec = comparison(tmp_path, arms=arms, seeds=Seeds([1], [11]), contrasts=[Contrast("half", "adamw", "data")])
    with pytest.raises(ValueError, match="Invalid level of half - adamw: 'data'; its runs share nothing"):
        Runner(spec, workers=1).run()
    assert not list(spec.folder.rglob("*.json"))
    with pytest.raises(ValueError, match="Invalid level of half - adamw"):
        Runner(spec).check_pairing()  # as a dry run does


def test_pairing_is_tried_where_more_than_the_optimizer_differs(tmp_path):
    head = {"model.init_args.head": {"class_path": "lightning_qsgd.models.QuantumHead", "init_args": {"num_qubits": 2}}}
    several = {"trainer.accumulate_grad_batches": 2}
    arms = {"adamw": ARMS["adamw"], "lr": Arm(set={"optimizer.lr": 0.1})}
    arms |= {"several": Arm(set=several), "head": Arm(set=head)}
    contrasts = [Contrast("lr", "adamw"), Contrast("several", "lr"), Contrast("head", "several")]
    runner = Runner(comparison(tmp_path, arms=arms, seeds=Seeds([1], [11]), contrasts=contrasts))
    assert not runner.arms.differ_beyond_optimizer("lr", "adamw")
    assert runner.arms.differ_beyond_optimizer("several", "lr")
    with pytest.raises(ValueError, match="Invalid level of head - several: 'full'; its runs share"):  # the first one
        runner.check_pairing()


def test_a_declaration_comes_before_the_runs_and_changes_are_told(tmp_path):
    spec = comparison(tmp_path, arms={"adamw": ARMS["adamw"]}, seeds=Seeds([1], [11]))
    declared = Runner(spec, workers=1).run(tuning_only=True)
    assert "declared" not in declared.provenance
    assert {run.phase for run in declared.runs} == {"tuning"}
    declared = Runner(spec, workers=1).run().provenance["declared"]
    assert declared["changes"] == []
    assert declared["at"] <= Results.load(spec.folder).of("adamw")[1].host["started"]
    later = comparison(tmp_path, arms={"adamw": ARMS["adamw"]}, seeds=Seeds([1], [11]), metric=Metric(margin=0.5))
    now = Runner(later, workers=1).run().provenance["declared"]
    assert now == declared | {"changes": ["metric.margin: 0.05 -> 0.5"]}


def test_lists_are_tuned_and_a_failed_tuning_run_chooses_nothing(tmp_path):
    betas = {"optimizer.betas": [[0.9, 0.99], [0.9, 0.999]]}
    spec = comparison(tmp_path, arms={"adamw": ARMS["adamw"]}, seeds=Seeds([1], [11]), tuning=Tuning(2, betas))
    results = Runner(spec).run()
    assert results.arms["adamw"]["values"]["optimizer.betas"] in betas["optimizer.betas"]
    broken = Tuning(2, {"data.init_args.batch_size": [16, -1]})
    spec = comparison(tmp_path, arms={"adamw": ARMS["adamw"]}, seeds=Seeds([1], [11]), tuning=broken)
    with pytest.raises(RuntimeError, match=r"tuning run of adamw failed.*batch_size.*--retry_failed"):
        Runner(spec).run()


def test_workers_are_counted():
    with pytest.raises(ValueError, match="Invalid workers: 0"):
        Runner(comparison("nowhere"), workers=0)


def tuned(tmp_path, mode, finals):
    """A runner with tuning runs that are made up: by setting, a final value for each seed."""
    lr = {"optimizer.lr": list(finals)}
    spec = comparison(
        tmp_path,
        arms={"adamw": ARMS["adamw"]},
        seeds=Seeds([1], [11, 12]),
        tuning=Tuning(len(finals), lr),
        metric=Metric(0.01, "val/energy", mode, unit=""),
    )
    runner = Runner(spec)
    for value, losses in finals.items():
        for seed, loss in zip(spec.seeds.tuning, losses, strict=False):
            curve = {"val/energy": [loss] * 3}
            runner.results.runs.append(
                Run("adamw", seed, "tuning", "finished", values={"optimizer.lr": value}, curve=curve)
            )
    return runner


def test_scores_of_a_minimized_metric_stand_in_the_table_as_they_are(tmp_path):
    runner = tuned(tmp_path, "min", {0.001: (0.5, 0.7), 0.003: (0.2, 0.4)})
    runner._freeze_targets()
    found = runner.results.arms["adamw"]
    assert [(trial["values"], trial["score"]) for trial in found["trials"]] == [
        ([0.001], pytest.approx(0.6)),
        ([0.003], pytest.approx(0.3)),
    ]
    assert found["values"] == {"optimizer.lr": 0.003}  # the smallest loss wins


def test_a_trial_counts_only_with_all_its_tuning_seeds(tmp_path):
    runner = tuned(tmp_path, "max", {0.001: (0.5, 0.5), 0.003: (0.9,)})
    assert runner.values("adamw") == {"optimizer.lr": 0.001}
    assert [plan.values for plan in runner.tuning_round()] == [{"optimizer.lr": 0.003}] * 2


def test_the_order_of_arms_differs_from_seed_to_seed(tmp_path):
    names = ["a", "b", "c", "d"]
    arms = {name: Arm(ARMS["adamw"].overlays) for name in names}
    plans = Runner(comparison(tmp_path, arms=arms, baseline="a", seeds=Seeds([1, 2, 3, 4], [11]))).evaluation()
    orders = [[plan.arm for plan in plans[i : i + 4]] for i in range(0, 16, 4)]
    assert [plan.seed for plan in plans[::4]] == [1, 2, 3, 4]
    assert all(sorted(order) == names for order in orders)
    assert len({tuple(order) for order in orders}) >= 3
