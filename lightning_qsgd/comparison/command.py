"""The commands ``compare`` and ``report``."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lightning_qsgd.callbacks.exact_resume import SIGNALS, Stopped
from lightning_qsgd.comparison.report import write_report
from lightning_qsgd.comparison.results import Results
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Comparison, add_arguments, from_options
from lightning_qsgd.comparison.worker import Estimate
from lightning_qsgd.manual import add_options
from lightning_qsgd.parser import OneLineErrorParser
from lightning_qsgd.report.numbers import Numbers, duration


def compare(arguments: Sequence[str]) -> None:
    """Run a comparison, or print the plan of one.

    Args:
        arguments: arguments of the command line; ``--help`` lists them.

    Raises:
        ValueError: for an invalid specification, or runs that are not paired as declared.
    """
    options = _parser().parse_args(list(arguments)).as_dict()
    comparison = from_options(options)
    settings = options["workers"], options["scheduler"], options["retry_failed"]
    if options["dry_run"]:
        display = Display(Console(), comparison.folder)
        runner = Runner(comparison, *settings, display)
        runner.check_pairing()
        display.show_plan(runner, runner.estimates())
        return
    train(comparison, *settings, options["tuning_only"])


def train(
    comparison: Comparison,
    workers: int = 2,
    scheduler: str | None = None,
    retry_failed: bool = False,
    tuning_only: bool = False,
    again: str = "run the same command again to continue",
) -> Results:
    """Train the missing runs of a comparison, and show its progress. If it is stopped, the process ends.

    Args:
        comparison: the specification.
        workers: number of processes on this machine. Default: 2.
        scheduler: address of a Dask scheduler whose workers train instead. Default: None.
        retry_failed: whether to train failed runs again. Default: False.
        tuning_only: whether to stop before the evaluation runs. Default: False.
        again: how to continue after a stop, in words.

    Returns:
        The results.
    """
    display = Display(Console(), comparison.folder)
    runner = Runner(comparison, workers, scheduler, retry_failed, display)
    with _signals():
        try:
            with display:
                results = runner.run(tuning_only)
        except (KeyboardInterrupt, Stopped) as error:
            print(f"Stopped; {again}. Results so far: {comparison.folder}", file=sys.stderr)
            sys.exit(130 if isinstance(error, KeyboardInterrupt) else error.code)
    display.finish(results)
    return results


def report(arguments: Sequence[str]) -> None:
    """Write the report of one or several comparisons.

    Args:
        arguments: arguments of the command line; ``--help`` lists them.

    Raises:
        FileNotFoundError: if a folder has no results.
        ValueError: if results cannot be read.
        OSError: if the report cannot be written.
    """
    parser = OneLineErrorParser(
        prog="lightning-qsgd report",
        description="Write report.html, report.md with its figures, and runs.csv. The comparison need not be finished.",
    )
    add_options("report", parser)
    options = parser.parse_args(list(arguments))
    results = [Results.load(folder) for folder in options.folders]
    written = write_report(results, options.output or options.folders[0])
    Console().print(f"Report: {written[0]}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """End the workers, too, if a signal ends this process."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> OneLineErrorParser:
    parser = OneLineErrorParser(
        prog="lightning-qsgd compare",
        description="Train all arms of a comparison with all seeds. You can stop it at any time; run the same command "
        "again to keep finished runs and resume interrupted ones.",
    )
    add_options("compare", parser)
    add_arguments(parser)
    return parser


class Display:
    """Shows the progress of a comparison: as a table on a terminal, otherwise as a line for each run.

    Args:
        console: where to print.
        folder: the folder of the comparison.
    """

    def __init__(self, console: Console, folder: Path) -> None:
        self.console, self.folder = console, folder
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._began = time.monotonic()
        self._first: int | None = None
        self._shown = 0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, results: Results, done: int, needed: int) -> None:
        """Show the progress."""
        self._first = done if self._first is None else self._first
        trained = done - self._first
        fresh, self._shown = done > self._shown, done
        left = (time.monotonic() - self._began) * (needed - done) / trained if trained else None
        progress = f"{done} of {needed} runs" + (f", {duration(left)} left" if left is not None else "")
        if self._live:
            self._live.update(self.table(results, progress), refresh=True)
        elif trained and fresh:
            run = results.runs[-1]
            value = Numbers(results.comparison.metric.unit).full(results.value(run))
            result = value if run.status == "finished" else run.error or run.status
            self.console.print(
                f"{progress}: {run.arm}, {run.phase} seed {run.seed}: {result}", highlight=False, soft_wrap=True
            )

    def table(self, results: Results, progress: str) -> Table:
        """The table of progress, with a line for each arm."""
        metric, seeds = results.comparison.metric, results.comparison.seeds
        numbers, mean = Numbers(metric.unit), f"{metric.name}, mean of last {metric.last}"
        table = Table(title=f"{results.comparison.name}: {progress}; {mean}", title_justify="left")
        ends = [end for end in ("diverged", "failed") if any(run.status == end for run in results.runs)]
        columns = ("arm", "tuned", "runs", "mean", "minus\nbaseline", "s a\nrun", *ends)
        for column in columns:
            table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
        for arm in results.comparison.all_arms():
            runs = results.of(arm)
            values = [value for run in runs.values() if not np.isnan(value := results.value(run))]
            a, b, _ = results.pairs(arm, results.comparison.baseline)
            counts = results.counts(arm)
            seconds = [cost for run in runs.values() if (cost := run.cost.get("seconds"))]
            trials = sum(run.arm == arm and run.phase == "tuning" for run in results.runs)
            table.add_row(
                arm,
                str(trials or ""),
                f"{len(runs)}/{len(seeds.evaluation)}",
                numbers.full(float(np.mean(values))) if values else "",
                numbers.by(float(metric.sign * np.mean(a - b))) if len(a) else "",
                f"{np.median(seconds):.1f}" if seconds else "",
                *(str(counts[end] or "") for end in ends),
            )
        return table

    def finish(self, results: Results) -> None:
        """Print the final table, and what to do next."""
        if not self._live:
            self.console.print(self.table(results, f"{len(results.runs)} runs"))
        failed = [run for run in results.runs if run.status == "failed"]
        for run in failed[:3]:
            self.console.print(f"failed: {run.arm}, seed {run.seed}: {run.error}", highlight=False, soft_wrap=True)
        if failed:
            self.console.print(f"{len(failed)} runs failed (see output.log in their folders); repeat: --retry_failed")
        self.console.print(f"Report: lightning-qsgd report {self.folder}", highlight=False, soft_wrap=True)

    def show_plan(self, runner: Runner, estimates: dict[str, Estimate]) -> None:
        """Print the runs of each arm, with their time and circuits."""
        comparison = runner.comparison
        table = Table(title=f"Plan of {comparison.name}", title_justify="left")
        for column in ("arm", "tuning\nruns", "evaluation\nruns", "s a\nrun", "circuits\na run", "shots\na run"):
            table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
        tuned, total, circuits = set(runner.tuned_arms()), 0.0, 0
        for arm in comparison.all_arms():
            one = estimates[arm]
            tuning = comparison.tuning.trials * len(comparison.seeds.tuning) if arm in tuned else 0
            if not tuned and arm == comparison.baseline:
                tuning = len(comparison.seeds.tuning)
            runs = tuning + len(comparison.seeds.evaluation)
            total, circuits = total + runs * one.seconds, circuits + runs * one.circuits
            numbers = (str(tuning or ""), str(len(comparison.seeds.evaluation)), f"{one.seconds:.0f}")
            table.add_row(arm, *numbers, f"{one.circuits:,}", f"{one.shots:,}")
        self.console.print(table)
        workers = f"{runner.workers} workers" if runner.scheduler is None else "one worker of the scheduler"
        share = total / (runner.workers if runner.scheduler is None else 1)
        self.console.print(
            f"About {duration(share)} with {workers}, {circuits:,} circuits in all (measured on the first steps of "
            f"each arm; tuning may stop early). Folder: {self.folder}",
            highlight=False,
            soft_wrap=True,
        )
