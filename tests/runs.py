"""Runs of the command line in processes that can be killed, and whether two of them are the same."""

import csv
import os
import runpy
import signal
import sys
import tempfile
from multiprocessing import get_context, set_start_method
from pathlib import Path

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_qsgd.cli import main
from lightning_qsgd.optim import SuperpositionalGradientDescent
from tests.common import FEW_SHOTS, SMALL

#: 10 steps in each of 3 epochs.
RUN = ["fit", "--config=configs/seqcls.yaml", FEW_SHOTS, *SMALL, "--data.train_size=320", "--trainer.max_epochs=3"]
#: What a clock says differs between any two runs; Lightning does not load the score of the last validation.
NOT_COMPARED = ("seconds", "elapsed", "current_score", "dirpath", "path", "best_k_models")

context = get_context("forkserver")  # children start from a process that has the imports done, and no threads
context.set_forkserver_preload(["lightning_qsgd.cli", "lightning_qsgd.quantum", "tests.resumable", "tests.parsed"])


class Killer:
    """Sends its process a signal at the n-th call of a method; all processes of a run, or that of one rank."""

    def __init__(self, where, n, how=signal.SIGKILL, rank=None):
        self.where, self.n, self.how, self.rank = where, n, how, rank

    def __call__(self):
        from lightning_qsgd import files
        from lightning_qsgd.tasks import SequenceClassification

        holder, name = {
            "forward": (SequenceClassification, "training_step"),
            "step": (SuperpositionalGradientDescent, "step"),
            "validation": (SequenceClassification, "validation_step"),
            "epoch": (SequenceClassification, "on_train_batch_start"),
            "write": (files.os, "fsync"),
        }[self.where]
        original, calls = getattr(holder, name), iter(range(1, 10**6))

        def counting(*arguments, **options):
            if next(calls) == self.n and self.rank in (None, rank_zero_only.rank):
                os.kill(os.getpid(), self.how)
            return original(*arguments, **options)

        setattr(holder, name, counting)


def _child(root, arguments, prepare):
    os.chdir(Path(__file__).parents[2])
    log = os.open(root / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    set_start_method("fork", force=True)  # of loaders' processes, which then notice that this one is gone
    if prepare is not None:
        prepare()
    main([*RUN, f"--trainer.default_root_dir={root}", *arguments])


def _rank(rank, function, *arguments):
    torch.set_num_threads(1)
    function(rank, *arguments)


def on_ranks(function, arguments, count):
    """Call ``function(rank, *arguments)`` in ``count`` processes at once."""
    torch.multiprocessing.start_processes(_rank, (function, *arguments), count, start_method="forkserver")


def _commands(rank, folder, commands):
    os.chdir(Path(__file__).parents[1])
    file = os.open(folder / f"output{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"], rank_zero_only.rank = str(rank), rank
    for number, command in enumerate(commands):
        store = f"file://{folder}/store{number}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        main(command)  # Lightning ends the process group


def commands_on_two_ranks(*commands):
    """What the same commands print on two ranks, which are there already, as on a cluster: one command after the other.

    Ranks that Lightning starts by itself are new processes, with all the imports: tests/test_main_job.py has some.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [(rank, Path(folder), [list(map(str, command)) for command in commands]) for rank in (0, 1)]
        processes = [context.Process(target=_commands, args=each) for each in options]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()  # where it waits for the other
        said = "".join(path.read_text() for path in sorted(Path(folder).glob("output*")))
    assert codes == [0, 0], said
    return said


def start(root, *arguments, prepare=None):
    """Start a run in a new process."""
    root.mkdir(exist_ok=True)
    process = context.Process(target=_child, args=(root, arguments, prepare))
    process.start()
    return process


def run(root, *arguments, prepare=None):
    """Exit code of a run in a new process."""
    process = start(root, *arguments, prepare=prepare)
    process.join(300)
    return process.exitcode


def _program(log, arguments, environment):
    file = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(file, 1), os.dup2(file, 2)
    torch.set_num_threads(1)
    os.environ |= environment
    sys.argv[1:] = arguments
    runpy.run_module("lightning_qsgd", run_name="__main__", alter_sys=True)


def program(log, *arguments, environment):
    """Exit code and output of ``python -m lightning_qsgd``, in a process that starts with the imports done."""
    process = context.Process(target=_program, args=(log, arguments, environment))
    process.start()
    process.join(300)
    return process.exitcode, log.read_text()


def output(root):
    return (root / "output.txt").read_text()


def folder(root):
    return root / "seqcls" / "version_0"


def differences(a, b, path=""):
    """Places at which two checkpoints differ."""
    if any(name in path.rpartition("/")[2] for name in NOT_COMPARED):
        return []
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and isinstance(a, torch.Tensor) and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [place for i in range(len(a)) for place in differences(a[i], b[i], f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a} {b}"]


def rows(root):
    with open(folder(root) / "metrics.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if v and "seconds" not in k and "memory" not in k}
            for row in csv.DictReader(file)
        ]


def assert_equal(straight, resumed):
    first, second = (torch.load(folder(r) / "checkpoints/last.ckpt", weights_only=True) for r in (straight, resumed))
    assert differences(first, second) == []
    assert rows(straight) == rows(resumed)  # training means and validation metrics are in it
