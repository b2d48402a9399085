"""Precisions, through the command line: each one trains, or is refused with the way out."""

import csv

import numpy as np
import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.experiment import build
from lightning_qsgd.experiment.lightning_cli import refuse_precision
from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import CircuitSimulator
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS

MAIN = ["--config=configs/seqcls.yaml", FEW_SHOTS]
ON_CPU = {"32-true": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
OPTIMIZER = "--model.optimizer.init_args"


NO_LOGS = "--trainer.logger=false"  # pictures and logs take a third of a small run


def fit(root, *arguments, config=MAIN, epochs=1):
    main(
        ["fit", *config, *SMALL, *TINY_ARGUMENTS, f"--trainer.default_root_dir={root}",
         f"--trainer.max_epochs={epochs}", *arguments]
    )  # fmt: skip


def checkpoint(root, name="seqcls"):
    return torch.load(root / name / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def floats(tree):
    """Dtypes of all tensors of floating point."""
    if isinstance(tree, torch.Tensor):
        return {tree.dtype} if tree.is_floating_point() else set()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return set().union(*map(floats, parts))


def losses(root, name="seqcls"):
    with open(root / name / "version_0" / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


class Watched(CircuitPerturbation):
    """Remembers the dtypes that it was asked in, and whether autocast was on."""

    asked: set

    def forward(self, angles, *, step):
        s = super().forward(angles, step=step)
        type(self).asked.add((angles.dtype, s.dtype, torch.is_autocast_enabled(angles.device.type)))
        return s


@pytest.mark.parametrize("precision", ON_CPU)
@pytest.mark.parametrize("options", [[], ["scope=all", "scale=adam"]], ids=["defaults", "all-adam"])
def test_each_precision_trains_and_asks_its_circuit_in_float32_or_float64(tmp_path, precision, options):
    Watched.asked = set()
    arguments = [f"{OPTIMIZER}.{option}" for option in options]
    watched = f"{OPTIMIZER}.perturbation.class_path=tests.test_precision.Watched"
    fit(tmp_path, f"--trainer.precision={precision}", watched, *arguments)
    assert len(losses(tmp_path)) == 3
    assert np.isfinite(losses(tmp_path)).all()
    saved = checkpoint(tmp_path)
    assert floats(saved["state_dict"]) == {ON_CPU[precision]}
    (optimizer,) = saved["optimizer_states"]
    assert floats([[s["exp_avg"], s["exp_avg_sq"]] for s in optimizer["state"].values()]) == {ON_CPU[precision]}
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert Watched.asked == {(expected, expected, False)}


@pytest.mark.parametrize("precision", ON_CPU)
def test_each_precision_resumes_bit_for_bit(tmp_path, precision):
    chosen = [f"--trainer.precision={precision}", NO_LOGS]
    fit(tmp_path / "straight", *chosen, epochs=2)
    fit(tmp_path / "resumed", *chosen)
    fit(tmp_path / "resumed", *chosen, "--ckpt_path=last", epochs=2)
    first, second = (checkpoint(tmp_path / name)["state_dict"] for name in ("straight", "resumed"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("first", "then"), [("32-true", "bf16-true"), ("64-true", "32-true")])
def test_a_run_may_go_on_in_another_precision_and_says_so(tmp_path, first, then):
    fit(tmp_path, f"--trainer.precision={first}")
    with pytest.warns(UserWarning, match=f"Resumed with changes: .*trainer.precision {first} -> {then}"):
        fit(tmp_path, f"--trainer.precision={then}", "--ckpt_path=last", epochs=2)
    saved = checkpoint(tmp_path)
    assert floats(saved["state_dict"]) == {ON_CPU[then]}
    assert floats([s["exp_avg"] for s in saved["optimizer_states"][0]["state"].values()]) == {ON_CPU[then]}
    assert np.isfinite(losses(tmp_path)).all()


@pytest.mark.parametrize("precision", ON_CPU)
@pytest.mark.parametrize("model", ["seqcls_quantum_head", "seqcls_quantum_attention"])
def test_circuits_in_models_run_in_float32_or_float64_in_each_precision(tmp_path, monkeypatch, model, precision):
    simulated, simulate = set(), CircuitSimulator.__call__

    def watched(self, *arguments):
        out = simulate(self, *arguments)
        if trainer.global_step:  # building the model simulates too, in float64
            simulated.add((out.dtype, torch.is_autocast_enabled("cpu")))
        return out

    monkeypatch.setattr(CircuitSimulator, "__call__", watched)
    options = [*SMALL, *TINY_ARGUMENTS, f"--trainer.precision={precision}", f"--trainer.default_root_dir={tmp_path}"]
    trainer, module, data = build([f"configs/{model}.yaml"], [*options, "--trainer.max_epochs=1"])
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert all(p.dtype == ON_CPU[precision] and p.isfinite().all() for p in module.parameters())
    assert {dtype for dtype, _ in simulated} == {torch.float64 if precision == "64-true" else torch.float32}
    assert not any(autocast for _, autocast in simulated)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.precision=16-mixed"], ["Invalid precision: 16-mixed", "--trainer.precision bf16-mixed"]),
        (["--trainer.precision=16"], ["Invalid precision: 16-mixed"]),
        (["--config=configs/overlay/fp16.yaml"], ["Invalid precision: 16-mixed", "needs a GPU"]),
        (["--trainer.precision=16-true"], ["Invalid precision: 16-true", "NaN", "Use --trainer.precision bf16-mixed"]),
    ],
)
def test_what_cannot_train_here_is_refused_before_anything_is_written(capsys, tmp_path, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path, *arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(word in last for word in ["error: ", *words])
    assert not list(tmp_path.iterdir())


def test_float16_weights_are_only_evaluated():
    refuse_precision("16-true", "cpu", training=False)
    refuse_precision("16-mixed", "gpu", training=True)
    with pytest.raises(ValueError, match=r"Use --trainer\.precision 16-mixed, bf16-mixed or bf16-true"):
        refuse_precision("16-true", "gpu", training=True)
