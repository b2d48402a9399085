"""Arms become complete configurations: base, overlays, settings, twins, tuned values, seeds."""

import pytest

from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.comparison.spec import Arm, Comparison, Metric, Seeds
from lightning_qsgd.twin_names import LAYER_TWINS

LR = "model.init_args.optimizer.init_args.lr"


def comparison(tmp_path, arms=None, **settings):
    arms = arms or {"adamw": Arm(["configs/overlay/adamw.yaml"]), "circuit": Arm(twins=["frozen", "scalar"])}
    settings = {"name": "t", "base": ["configs/seqcls.yaml"], "baseline": next(iter(arms))} | settings
    return Comparison(metric=Metric(margin=0.01), arms=arms, root=str(tmp_path), **settings)


def optimizer(plan):
    return plan.config["model"]["init_args"]["optimizer"]


def test_base_settings_overlay_and_settings_of_the_arm_in_this_order(tmp_path):
    arm = Arm(["configs/overlay/adamw.yaml"], {"optimizer.lr": 0.5, "data": {"init_args": {"batch_size": 7}}})
    settings = {"optimizer.lr": 0.2, "optimizer.eps": 0.1, "data.init_args.batch_size": 5, "threads": 2}
    plan = Arms(comparison(tmp_path, {"a": arm}, set=settings)).plan("a", 3, "evaluation", {})
    assert optimizer(plan)["class_path"] == "torch.optim.AdamW"
    assert (optimizer(plan)["init_args"]["lr"], optimizer(plan)["init_args"]["eps"]) == (0.5, 0.1)
    assert plan.config["data"]["init_args"]["batch_size"] == 7
    assert (plan.config["seed_everything"], plan.config["data"]["init_args"]["seed"]) == (3, 3)
    assert (plan.config["threads"], plan.config["trainer"]["devices"]) == (1, 1)


def test_a_twin_is_its_arm_around_a_control(tmp_path):
    arms = Arms(comparison(tmp_path))
    arm, twin = (arms.plan(name, 1, "evaluation", {}) for name in ("circuit", "circuit/scalar"))
    wrapped = optimizer(twin)["init_args"].pop("perturbation")
    assert wrapped["class_path"] == "lightning_qsgd.optim.ControlPerturbation"
    assert wrapped["init_args"] == {"kind": "scalar", "reference": optimizer(arm)["init_args"].pop("perturbation")}
    assert twin.config["model"] == arm.config["model"]


def test_a_twin_of_layers_is_its_arm_with_them_replaced(tmp_path):
    arms = {"circuit": Arm(twins=["layers", "frozen", "linear"]), "other": Arm(set={"replace_circuits": "tanh"})}
    assert arms["circuit"].twins == [*LAYER_TWINS, "frozen"]
    plans = Arms(comparison(tmp_path, arms))
    values = {"optimizer.lr": 0.3, "perturbation.depth": 1}
    arm, twin, other = (plans.plan(n, 1, "evaluation", values) for n in ("circuit", "circuit/linear", "other"))
    assert twin.config == arm.config | {"replace_circuits": "linear", "experiment": "circuit_linear"}
    assert "replace_circuits" not in arm.config, "digests of runs without twins are as before"
    assert other.config["replace_circuits"] == "tanh"
    assert len({arm.digest, twin.digest, other.digest}) == 3
    with pytest.raises(ValueError, match="twins of arm a: 'mlp'; its circuits are replaced by 'tanh' already"):
        Arms(comparison(tmp_path, {"a": Arm(set={"replace_circuits": "tanh"}, twins=["mlp"])}))


def test_an_arm_with_a_twins_overlay_is_a_twin_of_that_arms_circuit(tmp_path):
    settings = {"perturbation.rotations": "zero", "perturbation.num_qubits": 2}
    arms = {"circuit": Arm(set=settings, twins=["frozen"]), "twin": Arm(["configs/overlay/frozen.yaml"], settings)}
    plans = Arms(comparison(tmp_path, arms))
    circuit, of_circuit, twin = (
        optimizer(plans.plan(name, 1, "evaluation", {}))["init_args"] for name in ("circuit", "circuit/frozen", "twin")
    )
    assert twin["perturbation"] == circuit["perturbation"] == of_circuit["perturbation"]["init_args"]["reference"]
    assert twin["perturbation"]["init_args"]["rotations"] == "zero"
    assert (circuit.get("twin"), twin["twin"]) == (None, "frozen")


def test_tuned_values_also_those_in_the_circuit_of_a_twin(tmp_path):
    arms, values = Arms(comparison(tmp_path)), {"optimizer.lr": 0.3, "perturbation.depth": 1}
    assert optimizer(arms.plan("circuit", 1, "tuning", values))["init_args"]["perturbation"]["init_args"]["depth"] == 1
    twin = optimizer(arms.plan("circuit/frozen", 1, "evaluation", values))["init_args"]
    assert (twin["lr"], twin["perturbation"]["init_args"]["reference"]["init_args"]["depth"]) == (0.3, 1)
    assert arms.default("circuit", ["optimizer.lr"]) == {"optimizer.lr": 0.001}


def test_the_folder_depends_on_the_configuration_but_for_the_seed(tmp_path):
    arms = Arms(comparison(tmp_path))
    one, other = (arms.plan("adamw", seed, "evaluation", {}) for seed in (1, 2))
    assert one.folder.parent == other.folder.parent
    assert one.folder != other.folder
    assert arms.plan("adamw", 1, "evaluation", {"optimizer.lr": 0.5}).folder.parent != one.folder.parent


def test_settings_of_the_evaluation_runs_alone(tmp_path):
    arms = Arms(comparison(tmp_path, evaluation={"data.init_args.val_size": 9}))
    sizes = [arms.plan("circuit/frozen", 1, phase, {}).config["data"]["init_args"]["val_size"] for phase in PHASES]
    assert sizes == [2000, 9]


PHASES = ("tuning", "evaluation")


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm(["configs/overlay/adamw.yaml"], twins=["frozen"]), "'frozen'; its configuration has no perturbation"),
        (
            Arm(["configs/overlay/matched.yaml"], twins=["frozen"]),
            "'frozen'; its optimizer trains with the twin 'matched'",
        ),
        (Arm(["configs/overlay/ddp2.yaml"]), "Invalid trainer.devices, trainer.num_nodes of arm a"),
    ],
)
def test_arms_that_cannot_be_run(tmp_path, arm, message):
    with pytest.raises(ValueError, match=message):
        Arms(comparison(tmp_path, {"a": arm}))


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"Invalid seeds\.keys: 'data\.init_args\.sed'; no arm"):
        Arms(comparison(tmp_path, seeds=Seeds(keys=["seed_everything", "data.init_args.sed"])))
    with pytest.raises(FileNotFoundError, match=r"Arm a: No configuration '.*nothing\.yaml'"):
        Arms(comparison(tmp_path, {"a": Arm(["nothing.yaml"])}))
    with pytest.raises(ValueError, match=r"Invalid space: 'model\.init_args\.optimizer\.init_args\.speed'; arm adamw"):
        Arms(comparison(tmp_path)).plan("adamw", 1, "tuning", {"optimizer.speed": 1})
    with pytest.raises(ValueError, match=r"Arm a: .*speed"):
        Arms(comparison(tmp_path, {"a": Arm(set={"trainer.speed": 1})}))
