"""The main job on a GPU: precisions, the loss scaler, resuming, checkpoints that move to a CPU, memory."""

import csv
import json
import math

import lightning as L
import pytest
import torch

from lightning_qsgd.experiment import build
from tests.gpu.common import (
    ACCELERATOR,
    DEVICE,
    GPU,
    ON_GPU,
    arguments,
    assert_same_weights,
    checkpoint,
    folder,
    half_precision,
    run,
)
from tests.optim.common import own_state

pytestmark = GPU
EPOCHS = "--trainer.max_epochs=2"
WEIGHTS = {
    "32-true": torch.float32,
    "16-mixed": torch.float32,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
}


@pytest.mark.parametrize("precision", WEIGHTS)
def test_each_precision_trains_and_its_checkpoint_is_evaluated_on_a_cpu(tmp_path, precision):
    run("fit", tmp_path, EPOCHS, *half_precision(precision))
    with open(folder(tmp_path) / "metrics.csv", newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 6
    assert all(map(math.isfinite, losses))
    weights = checkpoint(tmp_path)["state_dict"].values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {WEIGHTS[precision]}
    measured = []
    for accelerator in (ACCELERATOR, "cpu"):
        true = ["--trainer.precision=64-true" if precision == "64-true" else "--trainer.precision=32-true"]
        run("test", tmp_path, "--ckpt_path=best", *true, accelerator=accelerator)
        measured.append(json.loads((folder(tmp_path) / "test.json").read_text())["test/loss"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)


@pytest.mark.parametrize("options", [[], ["--config=configs/overlay/displaced.yaml"]], ids=["circuit", "displaced"])
def test_a_step_that_the_loss_scaler_skips_advances_nothing(tmp_path, options):
    callback = "--trainer.callbacks=tests.ranks.InfiniteGradient"
    run("fit", tmp_path, "--trainer.max_epochs=1", *half_precision("16-mixed"), *options, callback)
    saved = checkpoint(tmp_path)
    (optimizer,) = saved["optimizer_states"]
    assert saved["global_step"] == 3
    start, plugin = (2.0**16, "MixedPrecision") if ON_GPU else (2.0**10, "Float16OnCpu")
    halvings = math.log2(start / saved[plugin]["scale"])
    assert halvings >= 1  # the scale of a GPU starts so high that the first step may be skipped too
    assert own_state(optimizer)["step"] == 3 - halvings
    assert {float(state["step"]) for state in optimizer["state"].values()} == {3 - halvings}
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-true"])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, precision):
    options = [*half_precision(precision), "--config=configs/overlay/deterministic.yaml"]
    run("fit", tmp_path / "straight", EPOCHS, *options)
    run("fit", tmp_path / "resumed", "--trainer.max_epochs=1", *options)
    run("fit", tmp_path / "resumed", EPOCHS, *options, "--ckpt_path=last")
    assert_same_weights(checkpoint(tmp_path / "straight"), checkpoint(tmp_path / "resumed"))


class Drawn(L.Callback):
    """What is drawn on the module's device after each forward pass."""

    def __init__(self):
        self.values = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.values.append(torch.rand(4, device=pl_module.device).tolist())


def test_dropout_is_paired_whatever_was_drawn_before(tmp_path):
    runs = []
    for before in (0, 1000):  # an arm that draws more than the other, from both generators
        trainer, module, data = build(["configs/seqcls.yaml"], arguments("fit", tmp_path, "--trainer.max_epochs=1")[2:])
        trainer.callbacks.append(drawn := Drawn())
        for device in {"cpu", DEVICE}:
            torch.rand(before, device=device)
        trainer.fit(module, datamodule=data)
        runs.append(drawn.values)
    assert runs[0] == runs[1]
    assert len({tuple(values) for values in runs[0]}) == len(runs[0]) > 1


@pytest.mark.parametrize("model", ["seqcls", "seqcls_quantum_head", "seqcls_quantum_attention"])
def test_deterministic_runs_repeat_bit_for_bit(tmp_path, model):
    for name in ("first", "second"):
        overlay = "--config=configs/overlay/deterministic.yaml"
        run("fit", tmp_path / name, "--trainer.max_epochs=1", overlay, model=model)
    assert_same_weights(*(checkpoint(tmp_path / name, model) for name in ("first", "second")))


@pytest.mark.parametrize("model", ["seqcls", "seqcls_quantum_attention"])
def test_a_gpu_learns_what_a_cpu_does(tmp_path, model):
    options = ["--trainer.max_epochs=1", "--trainer.precision=64-true", "--model.dropout=0"]
    run("fit", tmp_path / "gpu", *options, model=model)
    run("fit", tmp_path / "cpu", *options, model=model, accelerator="cpu")
    assert_same_weights(checkpoint(tmp_path / "gpu", model), checkpoint(tmp_path / "cpu", model), 1e-8)


def test_a_checkpoint_of_a_gpu_is_resumed_on_a_cpu_and_back(tmp_path):
    run("fit", tmp_path, "--trainer.max_epochs=1")
    run("fit", tmp_path, EPOCHS, "--ckpt_path=last", accelerator="cpu")
    run("fit", tmp_path, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 9
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["circuits"] == 657  # run once, and its check


def test_batches_come_in_pinned_memory(tmp_path):
    options = arguments("fit", tmp_path, "--trainer.max_epochs=1")[2:]
    trainer, module, data = build(["configs/seqcls.yaml"], options)
    trainer.fit(module, datamodule=data)
    loader = trainer.train_dataloader
    assert loader is not None
    assert loader.pin_memory is ON_GPU
    assert next(iter(loader))["tokens"].is_pinned() is ON_GPU


def test_memory_that_runs_out_ends_in_one_line_of_advice(tmp_path, capsys):
    width = 3 * 10**7 if ON_GPU else 10**12  # weights of 1.9 GB, where 1 % of the GPU is allowed
    if ON_GPU:
        torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(SystemExit, match="2"):
            run("fit", tmp_path, "--trainer.max_epochs=1", f"--model.feedforward_dim={width}")
    finally:
        if ON_GPU:
            torch.cuda.set_per_process_memory_fraction(1.0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Out of memory (")
    assert "smaller batch_size (now 32)" in last
    assert "trainer.precision bf16-mixed or bf16-true (now 32-true)" in last
