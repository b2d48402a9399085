"""Train one run of a comparison, in any process."""

import contextlib
import errno
import gc
import io
import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import lightning as L
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.callbacks import ExactResume, Stopped
from lightning_qsgd.callbacks.parts import callbacks_of, superpositional
from lightning_qsgd.callbacks.run_summary import count_circuits
from lightning_qsgd.comparison.recorder import LiveLogger, RunRecorder, digest, peak, reset_peak
from lightning_qsgd.comparison.results import Run, commit, machine
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.failures import explain
from lightning_qsgd.files import atomic_write, structured, write_json
from lightning_qsgd.run_folder import epochs_of, read_checkpoint
from lightning_qsgd.scrubbing import scrubbed
from lightning_qsgd.twin_names import NoTwinError
from lightning_qsgd.yaml_files import dump_yaml

RESULT = "result.json"
MEASURED_STEPS = 8  # number of optimizer steps that an estimate measures
#: Errors that are the disk's fault, not the run's.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
_ONE_AT_A_TIME = threading.Lock()  # generators, working directory and output are global to the process


def prepared(config: dict[str, Any], folder: Path, callbacks: Sequence[L.Callback]) -> Experiment:
    """An experiment with a complete configuration in a given folder, without progress bars."""
    quietly = {f"trainer.{name}": False for name in ("enable_progress_bar", "enable_model_summary")}
    overrides = quietly | {"trainer.default_root_dir": str(folder.parent)}
    return Experiment(dump_yaml(config), overrides, folder=folder, callbacks=callbacks)


class EndWithParent(L.Callback):
    """Ends a run, with a checkpoint, if the comparison that started it was killed.

    Args:
        parent: process id of the comparison, or None if it is on another machine.
    """

    def __init__(self, parent: int | None) -> None:
        self.parent = parent

    @property
    def orphaned(self) -> bool:
        """Whether the comparison has ended."""
        return self.parent not in (None, os.getpid(), os.getppid())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ask ExactResume to stop after this step."""
        if self.orphaned:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, ExactResume):
                    callback.stopping = True


class _FirstBatches(RunRecorder):
    """Stops a run after two batches, which show what it shares with other runs."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        trainer.should_stop = batch_idx >= 1


class _FirstSteps(RunRecorder):
    """Stops a run after a few optimizer steps, and records their cost."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.circuits: list[tuple[int, int]] = []
        self.whole_steps, self.evaluations = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.whole_steps = int(trainer.estimated_stepping_batches)
        epochs = trainer.max_epochs or -1
        self.evaluations = epochs if epochs > 0 else self.whole_steps / max(trainer.num_training_batches, 1)
        self.evaluations /= trainer.check_val_every_n_epoch or 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.steps
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.steps > before:
            self.times.append(time.perf_counter())
            self.circuits.append(count_circuits(pl_module, superpositional(trainer.optimizers))[:2])
        trainer.should_stop = self.steps >= MEASURED_STEPS


def probe(config: dict[str, Any], place: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Train the first two batches of a run, to see what it shares with others.

    Args:
        config: the complete configuration.
        place: the folder that relative paths in the configuration refer to.

    Returns:
        Hashes as in :class:`Run`, and digests of the initial values. None if the run fails; training it will say why.

    Raises:
        NoTwinError: if the model has no such twin as the configuration asks for.
    """
    recorder = _FirstBatches()
    with _ONE_AT_A_TIME, open(os.devnull, "w") as log:
        _go_to(place)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                first_steps(recorder, config)
            except (Stopped, SIGTERMException, NoTwinError):
                raise
            except (Exception, SystemExit):
                return None
    return recorder.hashes, recorder.parameter_digests


class Estimate(NamedTuple):
    """The cost of one run: seconds on one core, circuits and shots."""

    seconds: float
    circuits: int
    shots: int


def estimate(config: dict[str, Any]) -> Estimate:
    """Train the first steps of a run, and extrapolate their cost to the whole run."""
    probe, began = _FirstSteps(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        first_steps(probe, config)
    whole = time.perf_counter() - began
    steps = max(len(probe.times) - 1, 1)
    training = (probe.times[-1] - probe.times[0]) / steps
    rest = max(probe.whole_steps - len(probe.times), 0)
    seconds = whole + rest * training + max(probe.evaluations - 1, 0) * probe.evaluation_seconds
    per_step = [(b - a) / steps for a, b in zip(probe.circuits[0], probe.circuits[-1], strict=True)]
    circuits, shots = (round(end + rest * step) for end, step in zip(probe.circuits[-1], per_step, strict=True))
    return Estimate(seconds, circuits, shots)


def first_steps(recorder: RunRecorder, config: dict[str, Any]) -> None:
    """Train in a temporary folder until the recorder stops the run."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared(config, Path(folder) / "run", [recorder]).fit()


def _go_to(place: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(place)
    if place not in sys.path:
        sys.path.insert(0, place)


def execute(
    folder: str,
    run: dict[str, Any],
    config: dict[str, Any],
    place: str,
    test: bool = False,
    parent: int | None = None,
) -> dict[str, Any]:
    """Train one run, write ``result.json`` to its folder, and return its contents.

    A finished run is not repeated. A run that was killed is resumed from its last checkpoint. If another process is
    training the run, the function waits for it. Checkpoints are removed at the end.

    Args:
        folder: absolute path of the run folder.
        run: arm, seed, phase and values of the run.
        config: the complete configuration.
        place: the folder that relative paths in the configuration refer to.
        test: whether to evaluate the final weights on the test data. Default: False.
        parent: id of the process on this machine that waits for the result; if it ends, so does the worker. Default:
            None, on another machine.

    Returns:
        A dict of ``run``, a :class:`Run` as plain values, and ``parameter_digests``.

    Raises:
        OSError: if the disk is full, read-only or broken, which is not a failure of the run.
    """
    guard = EndWithParent(parent)
    if guard.orphaned:
        os._exit(Stopped.CODE)  # nobody waits for the result, and loky's workers survive exceptions
    if parent not in (None, os.getpid()):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends its workers
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    # A worker of a killed comparison may still be training this run.
    with _ONE_AT_A_TIME, FileLock(target / ".lock"):
        if (known := read_result(target)) is not None:
            return known
        _go_to(place)
        with atomic_write(target / "run.yaml") as file:
            file.write(dump_yaml(config))
        with (target / "output.log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                result = _train(target, Run(**run, status="failed"), config, test, guard)
            except Stopped:
                if guard.orphaned:
                    os._exit(Stopped.CODE)
                raise
        write_json(target / RESULT, result)
        if result["run"]["status"] != "failed":
            shutil.rmtree(target / "checkpoints", ignore_errors=True)
        return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read what :func:`execute` wrote to a run folder; None if there is no file, or it cannot be read."""
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text())
        structured(result["run"], Run)
    except (ValueError, KeyError, TypeError) as error:
        rank_zero_warn(f"{path} cannot be read ({error}): repeating the run")
        return None
    return result


def _train(folder: Path, run: Run, config: dict[str, Any], test: bool, guard: EndWithParent) -> dict[str, Any]:
    recorder, began = RunRecorder(), time.perf_counter()
    run.host = machine() | {"commit": commit(), "started": datetime.now(UTC).isoformat(timespec="seconds")}
    run.host["process"] = os.getpid()
    if (checkpoint := _checkpoint_to_resume(folder, config["trainer"])) is None:
        for events in folder.glob("events.out.*"):  # from a run that was killed before its first checkpoint
            events.unlink()
    reset_peak()
    experiment = prepared(config, folder, [recorder, guard])
    built = False
    try:
        with quiet():
            experiment.build("fit", checkpoint)
            experiment.trainer.loggers = [*experiment.trainer.loggers, LiveLogger(recorder)]
            experiment.fit()
            built, run.status = True, "finished"
            run.averaged = _averaged(experiment, recorder)
            if test:
                (metrics,) = experiment.trainer.test(experiment.module, experiment.data, verbose=False)
                run.test = {name: float(f"{value:.6g}") for name, value in metrics.items()}
    except (KeyboardInterrupt, Stopped, SIGTERMException):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        run.status = "diverged" if isinstance(error, FloatingPointError) else "failed"
        line, kind = explain(error), f"{type(error).__name__}: "
        run.error = scrubbed(line if kind in line else kind + line)
        traceback.print_exc()
    finally:
        gc.collect()
    run.curve, run.hashes = recorder.curve, recorder.hashes
    run.hashes["parameters"] = digest(json.dumps(recorder.parameter_digests, sort_keys=True).encode())
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in recorder.live.items()}
    counted = ("circuits", "shots", "seconds", "surrogate_residual", "surrogate_residual_expected")
    run.live = {name: median(values) for name, values in finite.items() if values and name not in counted}
    run.live |= recorder.quantum.summary()
    run.cost = {"seconds": round(recorder.seconds, 3), "evaluation_seconds": round(recorder.evaluation_seconds, 3)}
    run.cost |= {"whole_seconds": round(time.perf_counter() - began, 3)}
    run.cost |= {"parameters": recorder.parameters, "steps": recorder.steps, "examples": recorder.examples}
    run.cost |= {"peak_memory": peak()}
    run.cost |= _circuits(experiment if built else None)
    return {"run": asdict(run), "parameter_digests": recorder.parameter_digests}


def _checkpoint_to_resume(folder: Path, trainer: dict[str, Any]) -> Path | None:
    """The newest readable checkpoint of a killed run with steps left to train; None to start anew."""
    for name in ("last", "previous"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        if not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except ValueError as error:
            rank_zero_warn(str(error))
            continue
        begun, complete = epochs_of(checkpoint)
        epochs, steps = trainer["max_epochs"], trainer["max_steps"]
        ended = complete and epochs not in (None, -1) and begun >= epochs
        if not (ended or checkpoint.get("stopped_early") or -1 < steps <= checkpoint["global_step"]):
            return path
    return None


def _averaged(experiment: Experiment, recorder: RunRecorder) -> dict[str, float]:
    """Validation metrics with averaged weights. The module's own weights are restored."""
    params = [*experiment.module.parameters()]
    own = [p.detach().clone() for p in params]
    if not experiment.trainer.num_val_batches:
        return {}
    with torch.no_grad():
        for p, value in zip(params, recorder.averaged, strict=True):
            p.copy_(value)
        own_average = callbacks_of(experiment.trainer, WeightAveraging)
        for callback in own_average:  # it would validate with its own average
            experiment.trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
        loaders = experiment.trainer.validate(experiment.module, experiment.data, verbose=False)
        for p, value in zip(params, own, strict=True):
            p.copy_(value)
    metrics = {name: value for loader in loaders for name, value in loader.items() if math.isfinite(value)}
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def _circuits(experiment: Experiment | None) -> dict[str, float | None]:
    if experiment is None:
        return {"circuits": 0, "shots": 0, "circuit_seconds": 0.0}
    circuits, shots, seconds = count_circuits(experiment.module, superpositional(experiment.trainer.optimizers))
    return {"circuits": circuits, "shots": shots, "circuit_seconds": round(seconds, 3)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show only warnings of Lightning, whose other messages would repeat for each of hundreds of runs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
