"""Schedules of the quantum weight, of a radius and of the learning rate, as a user writes them."""

import csv

import pytest
import torch
import yaml

from lightning_qsgd.cli import main
from lightning_qsgd.experiment import Experiment, build
from lightning_qsgd.optim import CosineSchedule, LinearSchedule, WarmupSchedule
from tests.common import SMALL

OVERLAY = """
model:
  init_args:
    optimizer:
      init_args:
        quantum_weight:
          class_path: lightning_qsgd.optim.WarmupSchedule
          init_args:
            steps: 1
            then: {class_path: lightning_qsgd.optim.LinearSchedule, init_args: {start: 0.4, end: 0.1, steps: 2}}
        displacement:
          class_path: lightning_qsgd.optim.MeasuredDisplacement
          init_args:
            source: gaussian
            radius: {class_path: lightning_qsgd.optim.CosineSchedule, init_args: {start: 0.1, end: 0.0, steps: 5}}
    scheduler:
      class_path: torch.optim.lr_scheduler.LambdaLR
      init_args:
        lr_lambda:
          class_path: lightning_qsgd.optim.WarmupSchedule
          init_args:
            steps: 2
            then: {class_path: lightning_qsgd.optim.CosineSchedule, init_args: {start: 1, end: 0.5, steps: 8}}
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    return ["--config", "configs/seqcls.yaml", "--config", str(tmp_path / "overlay.yaml"), *SMALL]


def run(arguments, tmp_path, *more):
    main(["fit", *arguments, f"--trainer.default_root_dir={tmp_path}", "--monitor.every_n_steps=1", *more])
    return tmp_path / "seqcls" / "version_0"


def test_they_arrive_as_schedules(arguments, tmp_path):
    plain = Experiment.typed(arguments).settings["model"]["init_args"]["optimizer"]["init_args"]
    assert plain["quantum_weight"]["init_args"]["then"]["init_args"] == {"start": 0.4, "end": 0.1, "steps": 2}
    experiment = build(
        ["configs/seqcls.yaml", tmp_path / "overlay.yaml"], [*SMALL, f"--trainer.default_root_dir={tmp_path}"]
    )
    experiment.module.model = torch.nn.Linear(2, 2)
    configured = experiment.module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer._schedule, WarmupSchedule)
    assert isinstance(optimizer.displacement.radius, CosineSchedule)
    assert [optimizer._schedule(step) for step in range(5)] == pytest.approx([0, 0.4, 0.25, 0.1, 0.1])
    assert isinstance(scheduler.lr_lambdas[0], WarmupSchedule)


def test_a_run_follows_them_and_can_be_resumed(arguments, tmp_path):
    folder = run(arguments, tmp_path, "--trainer.max_epochs=1")
    run(arguments, tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last")
    with open(folder / "metrics.csv", newline="") as file:
        weights = [
            float(row["quantum/quantum_weight"]) for row in csv.DictReader(file) if row["quantum/quantum_weight"]
        ]
    # The first step has learning rate 0: it counts for no schedule of the optimizer; the second has weight 0.
    assert weights == pytest.approx([0.4, 0.25, 0.1, 0.1])


def test_the_printed_configuration_gives_itself(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *arguments, "--print_config"])
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(tmp_path / "printed.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


def test_an_invalid_schedule_is_one_clear_line(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *arguments, "--model.optimizer.init_args.displacement.init_args.radius.init_args.steps=0"])
    assert "Invalid steps: 0; it must be at least 1" in capsys.readouterr().err.splitlines()[-1]


def test_linear_schedule_by_name_on_the_command_line(tmp_path):
    experiment = build(
        ["configs/seqcls.yaml"],
        [*SMALL, f"--trainer.default_root_dir={tmp_path}",
         "--model.optimizer.init_args.quantum_weight=lightning_qsgd.optim.LinearSchedule",
         "--model.optimizer.init_args.quantum_weight.init_args.start=0.5",
         "--model.optimizer.init_args.quantum_weight.init_args.end=0",
         "--model.optimizer.init_args.quantum_weight.init_args.steps=10"],
    )  # fmt: skip
    schedule = experiment.module.optimizer([torch.nn.Parameter(torch.ones(4))])._schedule
    assert isinstance(schedule, LinearSchedule)
    assert schedule(5) == 0.25
