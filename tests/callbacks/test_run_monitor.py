import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.callbacks import RunMonitor
from tests.callbacks.test_perturbation_monitor import run


def scalars(folder, tag):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_rates_of_a_schedule_and_costs(tmp_path):
    schedule = ["--model.scheduler=torch.optim.lr_scheduler.LinearLR", "--model.scheduler.total_iters=8"]
    schedule += ["--model.scheduler.start_factor=1", "--model.scheduler.end_factor=0.5"]
    folder = run(tmp_path, "--run_monitor.every_n_steps=2", *schedule)
    rates = scalars(folder, "train/learning_rate")
    assert rates == [(step, pytest.approx(1e-3 * (1 - step / 16))) for step in (0, 2, 4, 6)]  # of the step itself
    seconds = scalars(folder, "cost/seconds_per_step")
    assert [step for step, _ in seconds] == [2, 4, 6]
    assert all(0 < value < 5 for _, value in seconds)
    assert all(0.1 < value < 16 for _, value in scalars(folder, "cost/memory_GB"))
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/learning_rate", "cost/seconds_per_step", "cost/memory_GB", "circuit/error"} <= set(header)
    assert "cost/other_circuits" not in header  # the perturbation's are quantum/circuits


def test_each_group_of_parameters_has_its_rate_and_a_displacement_its_circuits(tmp_path):
    folder = run(tmp_path, "--config=configs/overlay/matrices.yaml", "--run_monitor.every_n_steps=4")
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert [tag for tag in tags if "learning_rate/" in tag] == ["train/learning_rate/0", "train/learning_rate/1"]
    folder = run(tmp_path / "other", "--config=configs/overlay/displaced.yaml", "--run_monitor.every_n_steps=4")
    assert [value for _, value in scalars(folder, "cost/other_circuits")] == [3, 3]  # 1 + 2 * degree: its grid


@pytest.mark.parametrize("option", ["--run_monitor.every_n_steps=0", "--trainer.logger=false"])
def test_silent_where_switched_off(tmp_path, option):
    folder = run(tmp_path, option)
    if "logger" in option:
        assert not list(folder.glob("events*"))
        return
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert not [tag for tag in tags["scalars"] if tag.startswith("cost/")]
    assert "custom_scalars__config__" not in tags["tensors"]


def test_invalid_interval():
    with pytest.raises(ValueError, match="Invalid every_n_steps: -1"):
        RunMonitor(-1)
