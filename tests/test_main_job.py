"""The main job as a user runs it: in a process of its own, with the sizes and times that the README promises."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from tests.common import FEW_SHOTS
from tests.runs import commands_on_two_ranks

ROOT = Path(__file__).parents[1]
LIVE = ["--config", "configs/overlay/live.yaml"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "lightning_qsgd", *arguments],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_main_job_reaches_its_accuracy_within_its_memory(tmp_path):
    run("fit", "--config", "configs/seqcls.yaml", "--trainer.default_root_dir", str(tmp_path))
    summary = json.loads((tmp_path / "seqcls" / "version_0" / "summary.json").read_text())
    assert summary["val/accuracy mean of last 3"] >= 0.88  # single epochs jump by points
    assert summary["epochs to 0.90"] is not None
    assert summary["peak_memory_GB"] <= 1.5
    assert (summary["epochs"], summary["circuits"], summary["shots"]) == (12, 657, 672_768)


def two_ranks(root, *arguments):
    return [
        "fit", "--config", "configs/seqcls.yaml", FEW_SHOTS, f"--trainer.default_root_dir={root}",
        *arguments, "--trainer.accelerator=cpu", "--trainer.max_epochs=1",
        "--data.train_size=96", "--data.val_size=64", "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=tests.ranks.SaveRanks",
    ]  # fmt: skip


def check_ranks(root, live, steps):
    (folder,) = (root / "seqcls").iterdir()
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["circuits"] == (28 * steps if live else 657)
    assert second["circuits"] == (28 * steps if live else 625)  # told of all but the monitor's 32
    assert (first["ran"], second["ran"]) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "overlays"),
    [("ddp2 overlay", []), ("ddp_spawn", []), ("ddp_fork", LIVE)],
    ids=["ddp2 overlay, series", "ddp_spawn, series", "ddp_fork, live"],
)
def test_two_ranks_stay_identical_and_run_each_circuit_once(tmp_path, strategy, overlays):
    by_hand = ["--trainer.devices=2", f"--trainer.strategy={strategy}"]
    devices = ["--config", "configs/overlay/ddp2.yaml"] if strategy == "ddp2 overlay" else by_hand
    run(*two_ranks(tmp_path, *overlays, *devices))
    # 48 sequences a rank in batches of 32, or 16
    check_ranks(tmp_path, overlays, steps=3 if strategy == "ddp2 overlay" else 2)


@pytest.mark.slow
def test_two_ranks_that_are_there_already_run_each_live_circuit_once(tmp_path):
    commands_on_two_ranks(two_ranks(tmp_path, *LIVE, "--config", "configs/overlay/ddp2.yaml"))
    check_ranks(tmp_path, live=True, steps=3)


@pytest.mark.slow
def test_a_wheel_made_from_the_sdist_trains_and_makes_projects(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "Makefile", "constraints.txt", "tests/test_main_job.py", "docs/index.md"} <= names
    assert not any(name.startswith(("data/", "logs/", "models/", ".venv/", "site/")) for name in names)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    assert (site / "lightning_qsgd" / "py.typed").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from lightning_qsgd.cli import main; main(sys.argv[1:])"

    def command(*arguments, cwd=elsewhere):
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=cwd, env=ENVIRONMENT, check=True, capture_output=True
        )

    command("fit", "--config", "seqcls", "--config", "overlay/sine", "--trainer.fast_dev_run=1")
    command("init", "own")
    command("fit", "--config", "configs/my_data.yaml", "--trainer.fast_dev_run=1", cwd=elsewhere / "own")
