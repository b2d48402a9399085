"""Runs on several processes and machines, as a user starts them: through the command line and the launch scripts."""

import csv
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import FEW_SHOTS
from tests.runs import commands_on_two_ranks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
CONFIG = ["--config", "configs/seqcls.yaml", FEW_SHOTS]
#: 50 batches of 32, validation and test splits that two ranks cannot share evenly.
SMALL = [
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1", "--data.val_size=65",
    "--data.test_size=71",
]  # fmt: skip


def overlay(name):
    return ["--config", f"configs/overlay/{name}.yaml"]


def command(root, *arguments):
    return [*CONFIG, *SMALL, f"--trainer.default_root_dir={root}", *arguments]


def by_lightning(root, arguments):
    """A command whose second rank Lightning starts."""
    subprocess.run(
        [sys.executable, "-m", "lightning_qsgd", arguments[0], *command(root, *arguments[1:])],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=True,
    )  # fmt: skip


def together(root, *commands):
    """Commands on two ranks that are there already."""
    commands_on_two_ranks(*([subcommand, *command(root, *arguments)] for subcommand, *arguments in commands))


def alone(subcommand, root, *arguments):
    """The same command of one process, in this one."""
    main([subcommand, *command(root, *arguments)])


def last(root, experiment="seqcls"):
    (folder,) = (root / experiment).iterdir()  # one run folder
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def logged(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row[name]]


def assert_ranks_agree(folder):
    """Equal weights on both ranks; rank 0 alone ran circuits and told the other of its 625."""
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert (first["circuits"], second["circuits"]) == (657, 625)
    assert (first["ran"], second["ran"]) == (True, False)


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [("ddp2", "64-true", 1e-11), ("fsdp", "32-true", 2e-3)],
)
def test_two_processes_of_half_a_batch_are_one_of_a_whole(tmp_path, name, precision, tolerance):
    """Measured after 50 steps: 2e-13 in float64, 4e-4 in float32.

    Both ranks together see the same batches, and only the order of a sum differs. Adam divides it by its own size: of
    a weight whose gradients nearly vanish, the last digit decides on a step of up to lr.
    """
    same = [f"--trainer.precision={precision}", "--model.dropout=0"]
    alone("fit", tmp_path / "one", *same)
    ranks = [] if name == "fsdp" else ["--trainer.callbacks=tests.ranks.SaveRanks"]
    both = together if name == "ddp2" else by_lightning
    both(tmp_path / "two", ["fit", *overlay(name), *same, *ranks])
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, atol=tolerance, rtol=0, msg=key)
    folders = [tmp_path / part / "seqcls" / "version_0" for part in ("one", "two")]
    if ranks:
        assert_ranks_agree(folders[1])
    assert [step for step, _ in logged(folders[1], "train/loss")] == list(range(50))
    losses, accuracies = ([logged(folder, name) for folder in folders] for name in ("val/loss", "val/accuracy"))
    assert losses[1] == [(49, pytest.approx(losses[0][0][1], abs=1e-4))]
    assert accuracies[1] == accuracies[0]
    files = [sorted(p.name for p in folder.rglob("*.*") if "tfevents" not in p.name) for folder in folders]
    assert [name for name in files[1] if not name.startswith("rank")] == files[0]
    assert len(list(folders[1].glob("*tfevents*"))) == 1
    assert json.loads((folders[1] / "summary.json").read_text())["circuits"] == 657


@pytest.mark.parametrize("name", ["ddp2", "fsdp"])
def test_two_processes_test_predict_and_resume_as_one(tmp_path, name):
    small, resumed = ["--data.train_size=96"], "--ckpt_path=last"
    if name == "fsdp":
        together(tmp_path, ["fit", *small, *overlay(name)])
    else:
        alone("fit", tmp_path, *small)
    folder = tmp_path / "seqcls" / "version_0"

    def answers():
        return json.loads((folder / "test.json").read_text()), (folder / "predictions.csv").read_text()

    alone("test", tmp_path, resumed)
    alone("predict", tmp_path, resumed)
    one = answers()
    for path in ("test.json", "predictions.csv"):
        (folder / path).unlink()
    together(
        tmp_path,
        ["test", *overlay(name), resumed],
        ["predict", *overlay(name), resumed],
        ["fit", *overlay(name), *small, resumed, "--trainer.max_epochs=2"],
    )
    two = answers()
    assert two[0] == {key: pytest.approx(value) if key != "checkpoint" else value for key, value in one[0].items()}
    rows = [list(csv.reader(text.splitlines())) for _, text in (one, two)]
    assert [row[:2] for row in rows[1]] == [row[:2] for row in rows[0]]  # id and label
    assert [row[0] for row in rows[0]] == ["id", *map(str, range(71))]
    assert not list(folder.glob("predictions-*"))
    alone("fit", tmp_path, *small, resumed, "--trainer.max_epochs=3")  # and back
    assert [step for step, _ in logged(folder, "train/loss")] == list(range(9))
    assert json.loads((folder / "summary.json").read_text())["circuits"] == 657
    if name == "fsdp":  # of a checkpoint that one process wrote
        together(tmp_path, ["fit", *overlay(name), *small, resumed, "--trainer.max_epochs=4"])
        assert json.loads((folder / "summary.json").read_text())["circuits"] == 657


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_machines_of_torchrun_make_one_run(tmp_path):
    port = str(free_port())
    agents = [
        subprocess.Popen(
            ["scripts/launch_torchrun.sh", "fit", *command(tmp_path), "--data.batch_size=16", "--ckpt_path=auto",
             "--data.train_size=96", "--trainer.callbacks=tests.ranks.SaveRanks"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=ENVIRONMENT | {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_PORT": port, "NPROC": "1"},
        )
        for rank in (1, 0)
    ]  # fmt: skip
    outputs = [agent.communicate(timeout=400)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert [path.name for path in (tmp_path / "seqcls").iterdir()] == ["version_0"]
    assert_ranks_agree(tmp_path / "seqcls" / "version_0")
    assert ["Summary" in output for output in outputs] == [False, True]


def test_the_torchrun_script_asks_for_a_command():
    script = subprocess.run(["scripts/launch_torchrun.sh"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert script.returncode == 2
    assert "error: no command; for example:" in script.stderr


def fake(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def slurm(tmp_path):
    """What SLURM would set for a job of one task, and an srun and scontrol that stand in for its own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    fake(tools, "srun", 'shift; SLURM_PROCID=0 SLURM_LOCALID=0 exec "$@"')
    fake(tools, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log')
    return ENVIRONMENT | {
        "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip


def slurm_job(root, environment, *arguments):
    return subprocess.Popen(
        ["bash", "scripts/launch_slurm.sh", *command(root, "--data.train_size=96"), *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_requeued_slurm_job_goes_on_where_it_was(tmp_path, slurm):
    job = slurm_job(tmp_path, slurm, "--trainer.max_epochs=5000")
    checkpoint = tmp_path / "job_4711" / "version_0" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 200
    while not checkpoint.is_file() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)  # 90 seconds before the time limit
    output = job.communicate(timeout=200)[0]
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n", output
    done = torch.load(checkpoint, weights_only=True)["global_step"]
    epochs = done // 3 + 2
    again = slurm_job(tmp_path, slurm, f"--trainer.max_epochs={epochs}")
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert [path.name for path in (tmp_path / "job_4711").iterdir()] == ["version_0"]
    assert [step for step, _ in logged(checkpoint.parents[1], "train/loss")] == list(range(3 * epochs))
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"  # a job that has ended is not requeued
    finished = slurm_job(tmp_path, slurm, f"--trainer.max_epochs={epochs}")
    assert f"has finished its {epochs} epochs" in finished.communicate(timeout=100)[0]
    assert finished.returncode == 0


def test_two_tasks_of_slurm_make_one_run(tmp_path, slurm):
    task = 'SLURM_PROCID={0} SLURM_LOCALID={0} "$@" & pids+=($!)'
    each = "\n".join(task.format(rank) for rank in (0, 1))
    fake(tmp_path / "tools", "srun", f'shift; pids=()\n{each}\nwait "${{pids[0]}}" && wait "${{pids[1]}}"')
    two = slurm | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job = slurm_job(tmp_path, two, "--data.batch_size=16", "--trainer.callbacks=tests.ranks.SaveRanks")
    output = job.communicate(timeout=300)[0]
    assert job.returncode == 0, output
    assert [path.name for path in (tmp_path / "job_4711").iterdir()] == ["version_0"]
    assert_ranks_agree(tmp_path / "job_4711" / "version_0")


def test_a_slurm_job_that_fails_is_not_requeued(tmp_path, slurm):
    job = slurm_job(tmp_path, slurm, "--model.embed_dim=63")
    output = job.communicate(timeout=200)[0]
    assert job.returncode == 2
    assert "error: Invalid num_heads: 4; embed_dim 63" in output
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.parametrize("name", ["launch_slurm.sh", "launch_torchrun.sh"])
def test_scripts_are_sound(name):
    path = ROOT / "scripts" / name
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)
