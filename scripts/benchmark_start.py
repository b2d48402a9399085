"""Measure how long commands take to start, compared with a bare LightningCLI: part of `make bench`.

Each round starts every command once, in rotating order, in a new process. A difference is the median over rounds of
command - bare LightningCLI in the same round, in seconds. On a machine that also does other work, use the processor's
seconds. The line about the import is the cost of every training run.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lightning_qsgd.manual import COMMANDS

BARE = """
import lightning as L
from lightning.pytorch.cli import LightningCLI

LightningCLI(L.LightningModule, L.LightningDataModule, subclass_mode_model=True, subclass_mode_data=True)
"""
GOAL = 1.0  # seconds more than the bare LightningCLI


def starts(bare: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments of Python for each line of the table, and the line to compare it with."""
    package = ["-m", "lightning_qsgd"]
    lines = {"bare --help": ([str(bare), "--help"], ""), "bare fit --help": ([str(bare), "fit", "--help"], "")}
    lines["--help"] = ([*package, "--help"], "bare --help")
    for command in COMMANDS:
        lines[f"{command} --help"] = ([*package, command, "--help"], "bare fit --help")
    for command in ("fit", "calibrate", "compare", "report", "audit"):
        lines[f"{command} --help all"] = ([*package, command, "--help", "all"], "bare fit --help")
    lines["import lightning"] = (["-c", "from lightning.pytorch.cli import LightningCLI"], "")
    lines["import lightning_qsgd.cli"] = (["-c", "import lightning_qsgd.cli"], "import lightning")
    return lines


def measure(lines: dict[str, tuple[list[str], str]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of the clock and of the processor (rounds, 2) for each line, after a round that fills caches."""
    names = list(lines)
    seconds = {name: np.zeros((rounds, 2)) for name in names}
    for i in range(-1, rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = now()
            subprocess.run([sys.executable, *lines[name][0]], check=True, capture_output=True, env=os.environ)
            if i >= 0:
                seconds[name][i] = now() - start
    return seconds


def now() -> NDArray[np.float64]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), children.ru_utime + children.ru_stime])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    table = Table(title="Start of commands", title_justify="left")
    for column in ("command", "median s", "minus LightningCLI's, s", "the same, processor", "goal"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        lines = starts(bare)
        seconds = measure(lines, rounds)
    for name, (_, other) in lines.items():
        row = [name, f"{np.median(seconds[name][:, 0]):.2f}"]
        if other:
            clock, processor = np.median(seconds[name] - seconds[other], axis=0)
            row += [f"{clock:+.2f}", f"{processor:+.2f}", f"<= {GOAL:g}"]
        table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
