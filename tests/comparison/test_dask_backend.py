"""Workers of a real Dask scheduler: two processes on loopback, one of which is killed; a scheduler that dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra compare")

from lightning_qsgd.comparison.dask_backend import dask_workers
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Arm, Seeds
from tests.comparison.test_runner import ARMS, SMALL, comparison
from tests.comparison.test_worker import without_clocks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workers():
    return 2


@pytest.fixture
def cluster(tmp_path, workers):
    """A scheduler and its address; its workers with one thread each."""
    file = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    arguments = [
        ["scheduler", "--port", "0", *common],
        ["worker", "--nthreads", "1", "--nworkers", str(workers), *common],
    ]
    with (tmp_path / "dask.log").open("w") as log:
        options = {"cwd": tmp_path, "env": environment, "stdout": log, "stderr": log}
        processes = [subprocess.Popen([sys.executable, "-m", "dask", *words], **options) for words in arguments]
        for _ in range(1200):
            if file.is_file() and file.stat().st_size:
                break
            time.sleep(0.1)
        yield processes[0], json.loads(file.read_text())["address"]
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)


def small(tmp_path):
    arms = {"adamw": ARMS["adamw"], "slow": Arm(ARMS["adamw"].overlays, {"optimizer.lr": 1e-4})}
    return comparison(tmp_path, arms=arms, seeds=Seeds([1, 2], [11]), set=SMALL)


def contents(results):
    return [without_clocks({"run": vars(run), "parameter_digests": {}}) for run in results.runs]


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_give_the_results_of_this_machine(cluster, tmp_path):
    _, address = cluster
    killed = []

    def kill(results, done, needed):
        if results.runs and not killed:
            assert results.runs[-1].host["process"] != os.getpid()
            killed.append(results.runs[-1].host["process"])
            os.kill(killed[0], signal.SIGKILL)

    there = Runner(small(tmp_path / "there"), scheduler=address, watch=kill).run()
    here = Runner(small(tmp_path / "here"), workers=1).run()
    assert contents(there) == contents(here)
    assert len({run.host["process"] for run in there.runs}) >= 2
    assert os.getpid() not in {run.host["process"] for run in there.runs}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1])
def test_a_single_worker_trains_instead_of_this_process_until_its_scheduler_dies(cluster, tmp_path):
    scheduler, address = cluster
    one = comparison(tmp_path / "one", arms={"adamw": ARMS["adamw"]}, seeds=Seeds([1, 2], [11]), set=SMALL)
    results = Runner(one, scheduler=address).run()
    assert len(results.runs) == 3  # one of them of the seed for tuning
    assert os.getpid() not in {run.host["process"] for run in results.runs}

    spec = small(tmp_path)

    def end():
        while not list(spec.folder.glob("runs/*/*/*/run.yaml")):
            time.sleep(0.05)
        scheduler.kill()

    threading.Thread(target=end).start()
    with pytest.raises(ConnectionError, match=f"The Dask scheduler at {address} has ended; run the same command"):
        Runner(spec, scheduler=address).run()
    with pytest.raises(ConnectionError, match=f"No Dask scheduler at {address}"), dask_workers(address):
        pass
