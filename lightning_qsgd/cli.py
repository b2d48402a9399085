"""The commands. Level 6."""

import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.multiprocessing.spawn import ProcessExitedException

from lightning_qsgd import manual
from lightning_qsgd.calibrate import calibrate
from lightning_qsgd.callbacks import Stopped, TestReport
from lightning_qsgd.callbacks.exact_resume import SIGNALS
from lightning_qsgd.callbacks.parts import callbacks_of
from lightning_qsgd.callbacks.run_summary import engines_of, summary_table, told_engine
from lightning_qsgd.distributed import leave
from lightning_qsgd.doctor import doctor
from lightning_qsgd.experiment import Experiment, RunResult
from lightning_qsgd.failures import explain, to_report
from lightning_qsgd.files import close, find_config, shipped
from lightning_qsgd.init import init
from lightning_qsgd.parser import class_options
from lightning_qsgd.scrubbing import scrub, without_secrets


def _run_experiment(command: str, arguments: Sequence[str]) -> None:
    """Run fit, validate, test or predict, and print where its results are."""
    experiment = Experiment.typed(arguments).build(command)
    trainer = experiment.trainer
    if isinstance(launcher := trainer.strategy.launcher, _MultiProcessingLauncher):
        for number in SIGNALS:  # this process only waits for the processes that train
            signal.signal(number, lambda number, frame: launcher.kill(number))
    try:
        result = getattr(experiment, command)()
    except BaseException:
        if command == "fit" and trainer.interrupted and trainer.is_global_zero and (_folder(trainer)).is_dir():
            last = _folder(trainer) / "checkpoints" / "last.ckpt"
            way = f"resume with --ckpt_path {last}" if last.is_file() else "no step is saved"
            # With ddp_fork and ddp_spawn other processes train, and this one does not know their epoch.
            where = f" in epoch {trainer.current_epoch + 1}" if trainer.global_step else ""
            print(f"Stopped{where}; {way}", file=sys.stderr)
        raise
    if not trainer.is_global_zero:
        return
    if command == "fit":
        _say_summary(trainer, result)
        return
    if (engines := engines_of(experiment.module)) and (result.folder or command == "predict"):
        print(f"Circuits ran on: {'; '.join(map(told_engine, engines))}")
    if result.predictions is not None:
        print(f"Predictions: {result.predictions}")
    elif command != "predict" and result.folder is not None:
        print(f"Metrics: {result.folder / f'{command}.json'}")
    if command == "test":
        _say_report(trainer)


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _say_summary(trainer: L.Trainer, result: RunResult) -> None:
    """Print the summary that the training process wrote."""
    if result.folder is None:
        return
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160)
    console.print(summary_table(result.folder))
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        console.print(f"View it: {tensorboard()} --logdir {result.folder.parent}", highlight=False)


def _say_report(trainer: L.Trainer) -> None:
    """Print the hardest classes, the scores of the targets, or the path of the generated answers."""
    (report,) = callbacks_of(trainer, TestReport)
    if report.answers:
        print(f"Answers: {report.answers}")
    if report.table:
        count, rows = len(report.table), report.table[:10]
        title = "By class" if count == len(rows) else f"The 10 hardest of {count} classes"
        noted = any(row["note"] for row in rows)
        _print_table(title, [_short(row, noted) for row in rows], ".3f")
        print("In brackets: 95 % Wilson intervals")
        if any(row["f1"] is None for row in rows):
            print("-: no examples; test/f1 skips the class unless it was predicted")
        print(f"Classes: {report.classes}")
    if report.mistakes:
        print(f"Mistakes: {report.mistakes}")
    if report.target_table:
        count, rows = len(report.target_table), report.target_table[:10]
        _print_table("By target" if count == len(rows) else f"The first 10 of {count} targets", rows, ".4g")
        if any(row["r2"] is None or ("skill" in row and row["skill"] is None) for row in rows):
            print("-: undefined, because all true values are equal, or persistence makes no error")
        print(f"Targets: {report.targets}")
    if report.pictures:
        print(f"Pictures: {', '.join(map(str, report.pictures))}")


def _print_table(title: str, rows: Sequence[Mapping[str, Any]], number: str) -> None:
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        cells = ("-" if v is None else format(v, number) if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*map(escape, cells))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)


def _short(row: Mapping[str, Any], noted: bool) -> dict[str, Any]:
    """A row of the table of classes, with the intervals in one cell with their scores."""
    columns = ("label", "examples", "precision", "recall", "f1", *(["note"] if noted else []))
    found = {name: row[name] for name in columns}
    for name in ("precision", "recall"):
        if row[name] is not None:
            found[name] = f"{row[name]:.3f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
    return found


def tensorboard() -> str:
    """The command that starts TensorBoard, with its path if the shell does not find it."""
    beside = Path(sys.executable).parent / "tensorboard"
    return "tensorboard" if shutil.which("tensorboard") or not beside.is_file() else os.path.relpath(beside)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    A failure exits with code 2. Its last line is ``error: ...``, with file and line if a file of the user failed. An
    error in the package itself exits with code 1 and prints what to report. ``--debug`` raises the error instead.

    Args:
        args: arguments of the command line, the command first. Default: those of the process.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if (here := os.getcwd()) not in sys.path:  # class_path finds files in the current folder, as with python -m
        sys.path.insert(0, here)  # not "": jsonargparse changes to the folder of a configuration to read it
    try:
        text, word = manual.asked(arguments)
        if word is not None:
            text = _whole_help(arguments)
            if word != "all" and arguments[0] not in ("compare", "report", "doctor", "init"):  # these have no classes
                text += _help_of_classes(arguments)
            text = manual.select(text, word)
        if text is not None:
            print(text, end="")
            return
        _run(_with_found_configs(arguments))
    except SIGTERMException:  # before the first step; Lightning would exit with 0, as if training were complete
        sys.exit(Stopped.CODE)
    except Exception as error:
        if isinstance(error, ProcessExitedException) and error.exit_code == Stopped.CODE:
            sys.exit(Stopped.CODE)
        scrub(error)
        if debug:
            raise
        report = to_report(error, " ".join(["lightning-qsgd", *without_secrets(arguments)]))
        print(f"(traceback: add --debug)\nerror: {explain(error)}{f'; {report}' if report else ''}", file=sys.stderr)
        sys.exit(1 if report else 2)


def _with_found_configs(arguments: list[str]) -> list[str]:
    found, comparison = list(arguments), arguments[:1] == ["compare"]
    for i, argument in enumerate(arguments):
        if i and arguments[i - 1] in ("-c", "--config"):
            found[i] = find_config(argument, comparison)
        elif argument.startswith("--config="):
            found[i] = f"--config={find_config(argument.removeprefix('--config='), comparison)}"
    return found


def _run(arguments: list[str]) -> None:
    command, *options = arguments or [""]
    if not command:
        print(manual.overview(), file=sys.stderr)
        raise ValueError("No command; for example: lightning-qsgd fit --config seqcls")
    if command.startswith("-"):
        raise ValueError(f"Invalid command: {command!r}; put the command first: lightning-qsgd fit {command} ...")
    if command not in manual.COMMANDS:
        near = close(command, manual.COMMANDS, 0.6, otherwise=manual.COMMANDS)
        raise ValueError(f"Invalid command: {command!r}{near}; all: lightning-qsgd --help")
    if command == "doctor":
        if options:
            raise ValueError(f"doctor takes no arguments: {' '.join(options)}")
        doctor()
    elif command == "init":
        init(options)
    elif command == "calibrate":
        calibrate(options)
    elif command in ("compare", "report"):
        from lightning_qsgd.comparison import command as comparison  # loads joblib and matplotlib

        getattr(comparison, command)(options)
    elif command == "audit":
        from lightning_qsgd.audit.command import audit

        audit(options)
    else:
        _run_experiment(command, options)
        leave()


def _whole_help(arguments: list[str]) -> str:
    """The help of a command's parser, with all settings."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        _run([arguments[0], "--help"])
    return text.getvalue()


def _help_of_classes(arguments: list[str]) -> str:
    """The help of the classes in the given configurations, or in all shipped ones if none is given."""
    arguments = [part for argument in _with_found_configs(arguments) for part in argument.split("=", 1)]
    given = [arguments[i + 1] for i, part in enumerate(arguments) if part in ("-c", "--config")]
    folder = shipped("configs")
    runs = [given] if given else [[str(file)] for file in sorted(folder.glob("*.yaml"))] if folder else []
    found: dict[tuple[str, str], Sequence[str]] = {}
    for files in runs:
        _find_classes(Experiment(files).settings, "", found)
    return "".join(class_options(name, key, options).format_help() for (key, name), options in found.items())


def _find_classes(config: Any, key: str, found: dict[tuple[str, str], Sequence[str]]) -> None:
    if not isinstance(config, dict):
        return
    options = config.get("init_args") or {}
    if "class_path" in config:
        found[key, config["class_path"]] = list(options)
    for name, value in (options if "class_path" in config else config).items():
        _find_classes(value, f"{key}.{name}".lstrip("."), found)
