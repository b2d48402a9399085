"""The main job and its overlays train and log as in 0.1.0; fixtures/v010/README.md says how that was recorded."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.cli import main
from lightning_qsgd.experiment import build
from lightning_qsgd.optim.statistics import STATISTICS

FIXTURES = Path(__file__).parent / "fixtures" / "v010"
FROZEN = json.loads((FIXTURES / "losses.json").read_text())
TAGS = json.loads((FIXTURES / "tags.json").read_text())
TOLERANCE = 1e-6
#: On another kind of machine: rounding grows in 50 steps, most where weights have 8 bits.
ELSEWHERE = {"bf16": 0.01, "bf16_true": 0.03}, 1e-3

#: Nothing here changes a loss; it saves writing.
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.logger=false",
    "--trainer.limit_val_batches=1",
]
#: One epoch, in which each monitor speaks once.
ONE_EPOCH = ["--trainer.max_epochs=1", "--data.val_size=64", "--data.test_size=64", *QUIET[:3]]
#: A perturbation that changes a loss by more than rounding: as large as Adam's step, everywhere, in double precision.
LARGE = ["--trainer.precision=64-true", "--model.optimizer.scale=adam", "--model.optimizer.scope=all"]
#: What the fast tests run of them.
TELLING = {"seqcls", "frozen", "matched", "zero_rotations", "fake_manila"}


class Losses(L.Callback):
    """The loss of each training batch."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def losses(name, steps, root, *more):
    """Losses of the first optimizer steps of seqcls, or of an overlay on it."""
    overlay = [] if name == "seqcls" else [f"configs/overlay/{name}.yaml"]
    places = [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={root}"]
    trainer, module, data = build(["configs/seqcls.yaml", *overlay], [*QUIET, *places, *more])
    trainer.callbacks.append(record := Losses())
    trainer.fit(module, data)
    return record.values


def kind_of_machine():
    """What decides how float32 is rounded."""
    return [torch.__version__, torch.backends.cpu.get_cpu_capability()]


def tags(root):
    """Sorted tags of each kind of a short run of seqcls."""
    main(["fit", "--config=configs/seqcls.yaml", *ONE_EPOCH, f"--trainer.default_root_dir={root}"])
    found = EventAccumulator(str(root / "seqcls" / "version_0"), {"tensors": 1}).Reload().Tags()
    return {kind: sorted(names) for kind, names in found.items() if isinstance(names, list) and names}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in TELLING else pytest.mark.slow) for name in FROZEN["large"]]
)
def test_losses_with_large_perturbations(name, tmp_path):
    found = losses(name, FROZEN["large_steps"], tmp_path, *LARGE)
    assert found == pytest.approx(FROZEN["large"][name], abs=TOLERANCE, rel=0)


def test_losses_of_the_main_job(tmp_path):
    check_all_losses("seqcls", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FROZEN["losses"] if name != "seqcls"])
def test_losses_of_each_overlay(name, tmp_path):
    check_all_losses(name, tmp_path)


def check_all_losses(name, root):
    special, elsewhere = ELSEWHERE
    same = kind_of_machine() == FROZEN["machine"]
    tolerance = TOLERANCE if same else special.get(name, elsewhere)
    assert losses(name, FROZEN["steps"], root) == pytest.approx(FROZEN["losses"][name], abs=tolerance, rel=0)


def test_tensorboard_has_the_tags_of_0_1_0(tmp_path):
    found = tags(tmp_path)
    later = {f"quantum/{one.name}" for one in STATISTICS} - set(TAGS["scalars"])  # added since
    assert found | {"scalars": [tag for tag in found["scalars"] if tag not in later]} == TAGS
