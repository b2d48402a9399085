"""Comparisons of a user's own optimizers, modules and data, and of this project's options."""

import pytest
import yaml

from lightning_qsgd.comparison.pairing import level_of_contrast
from lightning_qsgd.comparison.results import Results
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds, Tuning
from tests.comparison.test_runner import ARMS
from tests.comparison.test_runner import comparison as standard

MINE = "tests.comparison.mine"
BASE = {
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "checkpoint": {"monitor": "error", "mode": "min"},
    "time_to_target": {"metric": "error", "mode": "min", "target": 0.1},
    "model": {"class_path": f"{MINE}.Net", "init_args": {"optimizer": {"class_path": "torch.optim.SGD"}}},
    "data": {"class_path": f"{MINE}.Data"},
}
SIGN = {"model.init_args.optimizer": {"class_path": f"{MINE}.Sign", "init_args": {"lr": 0.01}}}


def run(tmp_path, arms, **settings):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    metric = Metric(0.01, "error", "min", unit="")
    spec = Comparison(
        "own",
        [str(tmp_path / "base.yaml")],
        metric,
        arms,
        baseline=next(iter(arms)),
        seeds=Seeds([1], [11]),
        root=str(tmp_path),
        **settings,
    )
    return Runner(spec, workers=1).run()


def test_arms_that_draw_more_are_unpaired_where_steps_are_not_seeded(tmp_path):
    arms = {"sgd": Arm(), "sign": Arm(set=SIGN), "draws": Arm(set=SIGN | {"optimizer.draws": True})}
    results = run(tmp_path, arms)
    assert {run.status for run in results.runs} == {"finished"}, [run.error for run in results.runs]
    assert level_of_contrast(results, "sign", "sgd") == ("full", "")
    # What it draws moves the generator that shuffles, too.
    assert level_of_contrast(results, "draws", "sgd") == (None, "other batches from epoch 2 on")
    few = {name: arms[name] for name in ("sgd", "draws")}
    with pytest.raises(ValueError, match="Invalid level of draws - sgd: 'data'; its runs share nothing"):
        run(tmp_path / "again", few, contrasts=[Contrast("draws", "sgd", "data")])
    assert {run.arm for run in Results.load(tmp_path / "again" / "own").runs} >= {"draws", "sgd"}  # kept
    one = results.of("sign")[1]
    assert set(one.curve) == {"epoch", "step", "examples", "seconds", "error"}
    assert one.curve["examples"] == [16, 32]
    assert set(one.averaged) == {"error"}
    a, _, _ = results.pairs("sign", "sgd")
    assert a[0] == -results.value(one), "less is better"


def test_arms_that_draw_more_are_paired_where_steps_are_seeded(tmp_path):
    draws = {"model.init_args.optimizer": {"class_path": f"{MINE}.Sign", "init_args": {"draws": True}}}
    spec = standard(tmp_path, arms={"adamw": ARMS["adamw"], "draws": Arm(set=draws)}, seeds=Seeds([1], [11]))
    assert level_of_contrast(Runner(spec, workers=1).run(), "draws", "adamw") == ("full", "")


def test_batches_of_all_forms_are_hashed(tmp_path):
    arms = {form: Arm(set={"data.init_args.form": form}) for form in ("tuple", "dict", "nested", "half", "class")}
    results = run(tmp_path, arms)
    assert {run.status for run in results.runs} == {"finished"}, [run.error for run in results.runs]
    batches = {form: results.of(form)[1].hashes["batches"] for form in arms}
    assert batches["tuple"] == batches["dict"] == batches["nested"] == batches["class"] != batches["half"]
    assert all(results.of(form)[1].curve["examples"] == [16, 32] for form in arms)


def test_a_run_without_the_metric_says_what_there_is(tmp_path):
    no_validation = {"data.init_args.validate": False, "checkpoint.monitor": None}
    results = run(tmp_path, {"sgd": Arm(), "blind": Arm(set=no_validation)})
    assert results.of("sgd")[1].status == "finished"
    assert results.of("blind")[1].status == "failed"
    assert "are there validation data?" in results.of("blind")[1].error


def test_a_changed_specification_keeps_what_did_not_change(tmp_path):
    arms = {"sgd": Arm(), "sign": Arm(set=SIGN)}
    before = run(tmp_path, arms)
    changed = run(tmp_path, arms | {"sign": Arm(set=SIGN | {"optimizer.lr": 0.02}), "third": Arm()})
    starts = [results.of("sgd")[1].host["started"] for results in (before, changed)]
    assert starts[0] == starts[1]
    assert before.of("sign")[1].config != changed.of("sign")[1].config
    # The settings that were the defaults are tried now: the runs are there, but as trials.
    tuned = run(tmp_path, {"sgd": Arm(), "sign": Arm(set=SIGN)}, tuning=Tuning(1, {"optimizer.lr": [0.001]}))
    assert tuned.arms["sgd"]["trials"][0]["values"] == [0.001]


@pytest.mark.slow
def test_options_of_the_trainer(tmp_path):
    options = {
        "adamw": Arm(["configs/overlay/ema.yaml"]),
        "half": Arm(set={"trainer.val_check_interval": 0.5}),
        "steps": Arm(set={"trainer.max_steps": 3, "trainer.max_epochs": -1}),
        "bf16": Arm(set={"trainer.precision": "bf16-mixed"}),
        "displaced": Arm(["configs/overlay/displaced.yaml"]),
    }
    spec = standard(tmp_path, arms=options, seeds=Seeds([1], [11]))
    results = Runner(spec, workers=1).run()
    assert {run.status for run in results.runs} == {"finished"}, [run.error for run in results.runs]
    steps = {arm: results.of(arm)[1].curve["step"] for arm in options}
    assert steps == {"adamw": [2, 4], "half": [1, 2, 3, 4], "steps": [2], "bf16": [2, 4], "displaced": [2, 4]}
    ema, plain = results.of("adamw")[1], results.of("half")[1]
    assert ema.averaged == plain.averaged
    assert results.of("steps")[1].cost["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("base", ["quantum_head", "quantum_attention"])
def test_quantum_parameters_come_out_as_trained(tmp_path, base):
    settings = {"trainer": {"max_epochs": 1}, "data.init_args": {"train_size": 64, "val_size": 40}}
    seeds, metric = Seeds([1], [11]), Metric(0.05)
    spec = Comparison("t", [f"configs/seqcls_{base}.yaml"], metric, {"a": Arm()}, "a", settings, seeds=seeds)
    spec.root = str(tmp_path)
    run = Runner(spec, workers=1).run().of("a")[1]
    assert run.status == "finished", run.error
    assert run.live["quantum_parameters"] >= 1
    assert run.live["unregistered"] == run.live["without_gradient"] == run.live["unmoved"] == []
