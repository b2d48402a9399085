"""The commands. Level 5."""

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Column, Table
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_qsgd.calibrate import calibrate
from lightning_qsgd.callbacks import PredictionWriter, TestReport, TimeToTarget
from lightning_qsgd.distributed import leave
from lightning_qsgd.doctor import doctor
from lightning_qsgd.experiment import ExperimentCLI, find_config, peak_memory
from lightning_qsgd.files import atomic_write
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.parser import shorten
from lightning_qsgd.run_folder import is_unused


class CommandLine(ExperimentCLI):
    """The experiment's parser, and what is said after a command."""

    def _run_subcommand(self, subcommand: str) -> None:
        """As Lightning's; a failed start leaves no empty run behind, and an interrupted run says how to go on."""
        try:
            super()._run_subcommand(subcommand)
        except BaseException:
            trainer = self.trainer
            if self._reserved is not None and trainer.is_global_zero and is_unused(self._reserved):
                shutil.rmtree(self._reserved, ignore_errors=True)
            elif subcommand == "fit" and trainer.interrupted:
                last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
                done = (
                    f"resume after the last whole epoch with --ckpt_path {last}"
                    if last.is_file()
                    else "no epoch is done"
                )
                print(f"Stopped in epoch {trainer.current_epoch + 1}; {done}", file=sys.stderr)
            raise

    def after_fit(self) -> None:
        """Print and save the summary of a finished run."""
        if (folder := self._folder_to_write()) is None:
            return
        summary = {**summarize(self), "run_folder": str(folder)}
        write_json(folder / "summary.json", summary)
        table = Table("", Column(overflow="fold"), title="Summary", show_header=False, title_justify="left")
        for name, value in summary.items():
            table.add_row(name.replace("_", " "), "-" if value is None else str(value))
        console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160)
        console.print(table)
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            console.print(f"Look at it: {tensorboard()} --logdir {folder.parent}", highlight=False)

    def after_validate(self) -> None:
        """Save the metrics beside the checkpoint."""
        self._save_metrics("validate.json")

    def after_test(self) -> None:
        """Save the metrics beside the checkpoint, and show the hardest classes."""
        self._save_metrics("test.json")
        (report,) = (c for c in self.trainer.callbacks if isinstance(c, TestReport))  # type: ignore[attr-defined]
        if not report.table:
            return
        title = f"The {min(len(report.table), 10)} hardest of {len(report.table)} classes; all: classes.csv"
        table = Table(*report.table[0], title=title, title_justify="left")
        for row in report.table[:10]:
            table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
        Console().print(table)

    def _folder_to_write(self) -> Path | None:
        """The run folder on rank 0; None on the other ranks, and in a dry run. To be called on all ranks."""
        folder = self.trainer.log_dir  # asks all ranks
        dry = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        return None if folder is None or dry or not self.trainer.is_global_zero else Path(folder)

    def _save_metrics(self, name: str) -> None:
        if (folder := self._folder_to_write()) is None:
            return
        metrics = {key: value.item() for key, value in self.trainer.callback_metrics.items()}
        circuits, shots, _ = count_circuits(self.model)
        if circuits:
            metrics |= {"circuits": circuits, "shots": shots}
        write_json(folder / name, {"checkpoint": str(self.trainer.ckpt_path)} | self._checkpoint | metrics)
        print(f"Metrics: {folder / name}")

    def after_predict(self) -> None:
        """Say where the predictions are."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionWriter) and callback.path:
                print(f"Predictions: {callback.path}")


def tensorboard() -> str:
    """The command, with its path where the shell does not know it."""
    beside = Path(sys.executable).parent / "tensorboard"
    return "tensorboard" if shutil.which("tensorboard") or not beside.is_file() else os.path.relpath(beside)


def summarize(cli: ExperimentCLI) -> dict[str, Any]:
    """Plain numbers of a finished run: accuracy, cost, circuits, places."""
    trainer = cli.trainer
    clock = next(c for c in trainer.callbacks if isinstance(c, TimeToTarget))  # type: ignore[attr-defined]
    best = max if clock.mode == "max" else min
    ours = next((o for o in trainer.optimizers if isinstance(o, SuperpositionalGradientDescent)), None)
    best_path = cli._get(cli.config_init, "checkpoint").best_model_path
    circuits, shots, seconds = count_circuits(cli.model, ours)
    last = clock.history[-3:]  # at a constant learning rate single epochs jump by points
    return {
        f"{clock.metric} final": round(clock.history[-1], 4) if last else None,
        f"{clock.metric} mean of last {len(last)}": round(sum(last) / len(last), 4) if last else None,
        f"{clock.metric} best": round(best(clock.history), 4) if last else None,
        f"epochs to {clock.target:.2f}": clock.epochs,
        "epochs": trainer.current_epoch,
        "training_seconds": round(clock.elapsed, 1),
        "circuits": circuits,
        "shots": shots,
        "circuit_seconds": round(seconds, 2),
        "peak_memory_GB": round(peak_memory(), 2),
        "torch_threads": torch.get_num_threads(),
        "best_checkpoint": best_path or None,
    }


def count_circuits(
    model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None = None
) -> tuple[int, int, float]:
    """Circuits, shots and seconds in them, of the optimizer and of each network behind a model's layers."""
    counting: list[Any] = []
    if optimizer is not None:
        circuit = None if optimizer.displacement is None else optimizer.displacement.circuit
        counting += [optimizer.perturbation] + ([] if circuit in (None, optimizer.perturbation) else [circuit])
    if "lightning_qsgd.quantum" in sys.modules:  # a classical run never pays for qiskit
        from lightning_qsgd.quantum import QuantumNetwork
        from lightning_qsgd.quantum.layer import CircuitModule

        engines = {id(m.engine): m.engine for m in model.modules() if isinstance(m, CircuitModule)}
        counting += [engine for engine in engines.values() if isinstance(engine, QuantumNetwork)]
    circuits, shots, seconds = ([getattr(part, name) for part in counting] for name in ("circuits", "shots", "seconds"))
    return sum(circuits), sum(shots), float(sum(seconds))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` as JSON, completely or not at all."""
    with atomic_write(path) as file:
        json.dump(values, file, indent=2)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; ``args`` default to those of the process.

    A failure exits with 2, and its last line is ``error: ...``; ``--debug`` raises it with its traceback instead.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    for i, argument in enumerate(arguments):
        if i and arguments[i - 1] in ("-c", "--config"):
            arguments[i] = find_config(argument)
        elif argument.startswith("--config="):
            arguments[i] = f"--config={find_config(argument.removeprefix('--config='))}"
    if "" not in sys.path:
        sys.path.insert(0, "")  # class_path finds files of the current folder, as with python -m
    # Noise that no user of this package can act on.
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
    try:
        if arguments[:1] == ["doctor"]:
            if arguments[1:]:
                raise ValueError(f"doctor takes no arguments: {' '.join(arguments[1:])}. {doctor.__doc__}")
            doctor()
        elif arguments[:1] == ["calibrate"]:
            calibrate(arguments[1:])
        else:
            CommandLine(arguments)
            leave()
    except Exception as error:
        if debug:
            raise
        message = shorten(str(error)) if "Does not validate" in str(error) else " ".join(str(error).split())
        if isinstance(error, ProcessRaisedException):  # its text is the traceback of a process that was spawned
            message = str(error).strip().splitlines()[-1].partition(": ")[2]
        message = message or type(error).__name__
        if "loading state_dict" in message:
            message = f"The checkpoint belongs to another model: {message}"
        print(f"(traceback: add --debug)\nerror: {message[:1000]}", file=sys.stderr)
        sys.exit(2)
