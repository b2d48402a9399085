"""The command compare, killed in every way: the same command continues, with the results of one that ran through."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lightning_qsgd.cli import main
from lightning_qsgd.comparison.results import Results
from tests.comparison.test_command import SPEC
from tests.comparison.test_worker import without_clocks

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "c.yaml"
    small = {
        "trainer.max_epochs": 3,
        "trainer.accelerator": "cpu",
        "data.init_args": {"train_size": 320, "val_size": 40},
    }
    arms = {"adamw": SPEC["arms"]["adamw"], "slow": SPEC["arms"]["adamw"] | {"set": {"optimizer.lr": 1e-4}}}
    path.write_text(yaml.safe_dump(SPEC | {"set": SPEC["set"] | small, "arms": arms}))
    return path


def begin(spec, root, *options):
    """The command, in a process group of its own."""
    command = [sys.executable, "-m", "lightning_qsgd", "compare", "--config", str(spec), "--root", str(root), *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for background jobs
    )


def to_the_end(spec, root):
    """The output of the command in this process, which trains."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(["compare", "--config", str(spec), "--root", str(root), "--workers", "1"])
    return output.getvalue()


def wait_for(root, pattern, known=()):
    """The first new file that matches, as soon as it is there."""
    for _ in range(6000):
        if new := sorted(set(root.glob(pattern)) - set(known)):
            return new[0]
        time.sleep(0.02)
    raise TimeoutError(pattern)


def workers(process):
    """Processes whose parent it is, and that train."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and "popen_loky" in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def gone(pids, seconds):
    """Whether processes end within some time."""
    for _ in range(int(10 * seconds)):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def contents(root):
    results = Results.load(root / "t")
    assert results.provenance["complete"]
    runs = [without_clocks({"run": vars(run), "parameter_digests": {}}) for run in results.runs]
    return runs, results.targets, results.arms, results.parameter_sets


@pytest.fixture(scope="module")
def straight(spec, tmp_path_factory):
    root = tmp_path_factory.mktemp("straight")
    output = to_the_end(spec, root)
    assert [line.partition(" of ")[0] for line in output.splitlines() if " seed " in line] == ["1", "2", "3"]
    return contents(root)


def test_killed_and_continued_by_two_at_once(spec, straight, tmp_path):
    first = begin(spec, tmp_path)
    wait_for(tmp_path, "t/runs/*/*/seed_1/checkpoints/last.ckpt")
    orphans = workers(first)
    assert orphans
    first.kill()
    both = [begin(spec, tmp_path), begin(spec, tmp_path, "--workers", "1")]
    for process in both:
        error = process.communicate(timeout=500)[1]
        assert process.returncode == 0, error
    assert contents(tmp_path) == straight
    assert not list(tmp_path.rglob("*.ckpt"))
    assert any(gone([pid], 1) for pid in orphans), "one that trains ends after its step; one that waits, after minutes"


def test_a_worker_that_is_killed_then_ctrl_c_then_sigterm(spec, straight, tmp_path):
    process = begin(spec, tmp_path)
    wait_for(tmp_path, "t/runs/*/*/*/checkpoints/last.ckpt")
    os.kill(workers(process)[0], signal.SIGKILL)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("error: A worker was killed")

    for send, code in ((os.killpg, 130), (os.kill, 143)):
        before = list(tmp_path.glob("t/runs/*/*/*/.lock"))
        process = begin(spec, tmp_path)
        pattern = "t/runs/*/*/seed_1/checkpoints/last.ckpt" if code == 143 else "t/runs/*/*/*/.lock"
        wait_for(tmp_path, pattern, before)
        pids = workers(process)
        assert pids
        send(process.pid, signal.SIGINT if code == 130 else signal.SIGTERM)
        error = process.communicate(timeout=100)[1]
        assert process.returncode == code
        assert error.splitlines()[-1].startswith("Stopped; run the same command again to continue. Results so far: ")
        assert "Traceback" not in error
        assert gone(pids, 20)
        assert not list(tmp_path.rglob(".result.json.*"))

    to_the_end(spec, tmp_path)
    assert contents(tmp_path) == straight
