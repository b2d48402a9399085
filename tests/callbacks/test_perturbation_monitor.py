import csv
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.callbacks import PerturbationMonitor
from lightning_qsgd.cli import main
from lightning_qsgd.optim.statistics import STATISTICS
from tests.common import FEW_SHOTS

SMALL = [
    "--data.train_size=128", "--data.val_size=64", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=2",
    "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--monitor.every_n_steps=3",
]  # fmt: skip


def run(root, *arguments):
    main(
        ["fit", "--config", "configs/seqcls.yaml", FEW_SHOTS, f"--trainer.default_root_dir={root}", *SMALL, *arguments]
    )
    return root / "seqcls" / "version_0"


def test_what_the_loggers_hold(tmp_path):
    folder = run(tmp_path)
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    names = {tag.removeprefix("quantum/") for tag in events.Tags()["scalars"] if tag.startswith("quantum/")}
    assert names == {one.name for one in STATISTICS} | {
        "s_low", "s_high", "circuits", "shots", "seconds", "surrogate_residual", "surrogate_residual_expected",
        "surrogate_clipped_mass",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("quantum/norm_ratio")] == [0, 3, 6]
    assert [event.step for event in events.Histograms("quantum/s")] == [0, 3, 6]
    assert events.Histograms("quantum/s")[0].histogram_value.num == 28 * 4
    assert [event.step for event in events.Histograms("quantum/angles")] == [0, 3, 6]
    angles = events.Histograms("quantum/angles")[0].histogram_value
    assert angles.num == 28 * 4
    assert angles.max == pytest.approx(math.pi)  # a layer norm's weights are 1
    low, mean, high = (events.Scalars(f"quantum/{name}")[0].value for name in ("s_low", "offset", "s_high"))
    s = events.Histograms("quantum/s")[0].histogram_value
    assert s.min < low < mean < high < s.max
    assert all(0 < event.value < 0.4 for event in events.Scalars("circuit/total_variation"))  # of 64 shots
    assert [event.step for event in events.Scalars("circuit/error")] == [0, 3, 6]
    assert [event.step for event in events.Images("circuit/outcomes")] == [0]  # a series stays as it is
    assert [event.step for event in events.Images("circuit/drawing")] == [0]
    drawing = events.Tensors("quantum/circuit/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "q_3" in drawing
    assert "Ry" in drawing
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (residual,) = (row for row in rows if row["quantum/surrogate_residual"])
    ratio = float(residual["quantum/surrogate_residual"]) / float(residual["quantum/surrogate_residual_expected"])
    assert 0.7 < ratio < 1.4  # shot noise explains it
    assert {row["quantum/circuits"] for row in rows if row["quantum/circuits"]} == {"657"}


def test_a_series_that_does_not_describe_its_sampler_is_one_warning(tmp_path, caplog):
    sampler = "--model.optimizer.init_args.perturbation.init_args.sampler"
    folder = run(tmp_path, f"{sampler}=tests.quantum.wrong_samplers.Drifting", f"{sampler}.shots=2000")
    (record,) = (record for record in caplog.records if "does not describe" in record.message)
    assert record.levelname == "WARNING"
    assert "lightning-qsgd calibrate" in record.message
    tags = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tags()
    assert [tag for tag in tags["tensors"] if tag.startswith("quantum/")] == ["quantum/circuit/text_summary"]
    caplog.clear()
    run(tmp_path / "right")
    assert "does not describe" not in caplog.text


def test_live_circuits_are_drawn_in_each_record(tmp_path):
    folder = run(tmp_path, "--config", "configs/overlay/live.yaml")
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("circuit/outcomes")] == [0, 3, 6]
    for name in ("total_variation", "error"):
        found, expected = (events.Scalars(f"circuit/{name}{end}") for end in ("", "_expected"))
        assert [event.step for event in found] == [0, 3, 6]
        assert all(a.value == pytest.approx(b.value, rel=0.4) for a, b in zip(found, expected))  # shots explain it
    assert [event.value for event in events.Scalars("quantum/circuits")] == [28, 4 * 28, 7 * 28]  # none for pictures


@pytest.mark.parametrize("arguments", [["--monitor.every_n_steps=0"], ["--config", "configs/overlay/adamw.yaml"]])
def test_silent_where_switched_off_or_without_our_optimizer(tmp_path, arguments):
    folder = run(tmp_path, *arguments)
    assert "quantum" not in (folder / "metrics.csv").read_text().splitlines()[0]


def test_watching_changes_nothing(tmp_path):
    weights = []
    for name, n in (("a", 1), ("b", 0)):
        folder = run(tmp_path / name, f"--monitor.every_n_steps={n}")
        weights.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_invalid_interval():
    with pytest.raises(ValueError, match="Invalid every_n_steps: -1"):
        PerturbationMonitor(-1)


def test_each_layer_and_what_is_left_out(tmp_path):
    folder = run(tmp_path, "--config", "configs/overlay/matrices.yaml")
    with open(folder / "metrics.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["quantum/norm_ratio"])
    layers = {name.removeprefix("quantum/offset/") for name in row if name.startswith("quantum/offset/")}
    assert "model.head" in layers
    assert not any("norm" in name or "embedding" in name for name in layers)
    assert float(row["quantum/touched"]) == 4 * len(layers)  # one matrix each
    mean = sum(float(row[f"quantum/offset/{name}"]) for name in layers) / len(layers)
    assert mean == pytest.approx(float(row["quantum/offset"]), abs=1e-6)


def test_the_radius_of_a_displacement_and_groups(tmp_path):
    folder = run(tmp_path, "--config", "configs/overlay/displaced.yaml", "--monitor.per=group")
    events = EventAccumulator(str(folder)).Reload()
    radii = [(event.step, event.value) for event in events.Scalars("quantum/radius")]
    assert radii == [(step, pytest.approx(0.05 * (1 - step / 600))) for step in (0, 3, 6)]
    other = tmp_path / "other"
    weight = "--model.optimizer.init_args.quantum_weight=0.5"
    folder = run(other, "--monitor.per=group", weight)
    events = EventAccumulator(str(folder)).Reload()
    assert [e.value for e in events.Scalars("quantum/spread/0")] == [e.value for e in events.Scalars("quantum/spread")]
