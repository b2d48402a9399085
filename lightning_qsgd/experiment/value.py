"""A run as a value: its configuration, its trainer, model and data, and its commands."""

import contextlib
import json
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L

from lightning_qsgd.callbacks import PredictionWriter
from lightning_qsgd.callbacks.parts import callbacks_of
from lightning_qsgd.experiment.lightning_cli import ExperimentCLI
from lightning_qsgd.files import find_config
from lightning_qsgd.settings import nested
from lightning_qsgd.yaml_files import dump_yaml

#: One layer of a configuration: a file, by its path or shipped name, or settings.
Layer = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    """The result of a command.

    Attributes:
        metrics: the last value of each logged metric, by name, such as "val/accuracy".
        folder: the run folder, or the one of the checkpoint; None in a dry run (``trainer.fast_dev_run``).
        best_checkpoint: after ``fit``, the checkpoint of the best epoch by ``checkpoint.monitor``; None if none was
            saved.
        predictions: after ``predict``, the file with the predictions, or None.
        outputs: after ``predict``, a list with the output of ``predict_step`` for each batch, or None.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None
    best_checkpoint: Path | None = None
    predictions: Path | None = None
    outputs: Any = field(default=None, repr=False)


class Experiment:
    """A run as a value: a configuration, the trainer, model and data that it describes, and its commands.

    ``Experiment("seqcls", {"trainer.max_epochs": 1}).fit()`` does what ``lightning-qsgd fit --config seqcls
    --trainer.max_epochs 1`` does, in this process: the same run folder, callbacks, seeds and refusals.

    Args:
        config: a YAML file, by its path or shipped name ("seqcls", "overlay/adamw"); a dict of settings, nested as in a
            file or with dotted keys; or a list of these, in which later ones override earlier ones.
        overrides: settings that override ``config``, as on the command line: a dict with dotted keys, such as
            ``{"trainer.max_epochs": 1, "model.lr": 0.1}``, or a list of arguments, such as "--trainer.max_epochs=1".
            They also override the settings of a checkpoint's run. Default: none.
        folder: the run folder of a new run. Default: the next ``<root>/<experiment>/version_N``.
        callbacks: further callbacks, which run before all others. Default: none.

    Attributes:
        trainer, module, data: the L.Trainer, L.LightningModule and L.LightningDataModule of the last command. Before
            the first command they are built for ``fit``. ``trainer, module, data = experiment`` works, too.

    Raises:
        FileNotFoundError: if a configuration does not exist.
        ValueError: in any method, if a setting is invalid; the message names its key.
    """

    def __init__(
        self,
        config: Layer | Sequence[Layer] = (),
        overrides: Mapping[str, Any] | Sequence[str] = (),
        *,
        folder: str | Path | None = None,
        callbacks: Sequence[L.Callback] = (),
    ) -> None:
        layers = [config] if isinstance(config, str | Path | Mapping) else config
        given = [part for layer in layers for part in ("--config", _as_argument(layer))]
        typed = (
            [f"--{key}={_text(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else []
        )
        self._arguments = [*given, *(typed or overrides)]
        self._folder, self._extra = None if folder is None else Path(folder), list(callbacks)
        self._exits = False  # whether a refusal by the parser ends the process
        self._cli: ExperimentCLI | None = None
        self._ran = False

    @classmethod
    def typed(cls, arguments: Sequence[str]) -> "Experiment":
        """The experiment of a command line. A refusal by its parser ends the process with exit code 2 and one line."""
        experiment = cls((), arguments)
        experiment._exits = True
        return experiment

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The complete configuration as plain values. Reading it builds nothing and draws no random numbers."""
        return ExperimentCLI(self._arguments, "fit", exits=self._exits, only_parse=True).settings

    # ---- trainer, model and data

    def build(
        self, command: str = "fit", ckpt_path: str | Path | None = None, weights_from: str | Path | None = None
    ) -> "Experiment":
        """Build trainer, model and data for a command, without running it.

        Args:
            command: "fit", "validate", "test" or "predict". Default: "fit".
            ckpt_path, weights_from: see :meth:`fit`.

        Returns:
            This experiment. Its next command must be ``command``.
        """
        if self._cli is not None and not self._ran:
            self._cli.discard()
        paths = {"ckpt_path": ckpt_path, "weights_from": weights_from}
        options = [f"--{name}={path}" for name, path in paths.items() if path is not None]
        self._cli, self._ran = None, False
        self._cli = ExperimentCLI([*self._arguments, *options], command, self._folder, exits=self._exits)
        self.trainer.callbacks[:0] = self._extra  # type: ignore[attr-defined]
        return self

    @property
    def _built(self) -> ExperimentCLI:
        if self._cli is None:
            self.build()
        assert self._cli is not None
        return self._cli

    @property
    def trainer(self) -> L.Trainer:
        """Lightning's trainer."""
        return self._built.trainer

    @property
    def module(self) -> L.LightningModule:
        """The model."""
        return self._built.model

    @property
    def data(self) -> L.LightningDataModule:
        """The data module."""
        return self._built.datamodule

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint file of the built command; None for a new run."""
        return self._built.config.ckpt_path

    def __iter__(self) -> Iterator[Any]:
        return iter((self.trainer, self.module, self.data))

    # ---- commands

    def fit(self, ckpt_path: str | Path | None = None, weights_from: str | Path | None = None) -> RunResult:
        """Train a new run, or resume one bit for bit.

        Args:
            ckpt_path: the checkpoint to resume from: a file, or "last", "previous" or "best" of the experiment's newest
                run; "auto" resumes the last one if there is one. Default: None, a new run.
            weights_from: a checkpoint; a new run starts from its weights. Default: None.

        Returns:
            Metrics, run folder and best checkpoint.

        Raises:
            FileNotFoundError: if the checkpoint does not exist.
            ValueError: if a setting is invalid, the run has finished, or the checkpoint belongs to another run.
            KeyboardInterrupt: if training is interrupted; ``fit(ckpt_path="last")`` resumes it.
        """
        cli = self._run("fit", ckpt_path, weights_from)
        best = getattr(cli.trainer.checkpoint_callback, "best_model_path", "")
        return RunResult(cli.metrics(), cli.folder, best_checkpoint=Path(best) if best else None)

    def validate(self, ckpt_path: str | Path | None = None, save: bool = True) -> RunResult:
        """Evaluate a checkpoint on the validation data.

        Args:
            ckpt_path: as for :meth:`fit`. Default: the best one that this experiment has saved.
            save: whether to write the metrics next to the checkpoint, as ``validate.json``. Default: True.
        """
        return self._evaluate("validate", ckpt_path, save)

    def test(self, ckpt_path: str | Path | None = None) -> RunResult:
        """Evaluate a checkpoint on the test data, and save the metrics next to it as ``test.json``.

        Args:
            ckpt_path: as for :meth:`fit`. Default: the best one that this experiment has saved.
        """
        return self._evaluate("test", ckpt_path)

    def predict(self, ckpt_path: str | Path | None = None) -> RunResult:
        """Predict new data with a checkpoint, into ``predictions.csv`` next to it.

        Args:
            ckpt_path: as for :meth:`fit`. Default: the best one that this experiment has saved.
        """
        cli = self._run("predict", self._own_best(ckpt_path))
        path = next((writer.path for writer in callbacks_of(cli.trainer, PredictionWriter)), None)
        return RunResult({}, cli.folder, predictions=Path(path) if path else None, outputs=cli.outputs)

    def _evaluate(self, command: str, ckpt_path: str | Path | None, save: bool = True) -> RunResult:
        cli = self._run(command, self._own_best(ckpt_path))
        if save:
            cli.save_metrics(f"{command}.json")
        return RunResult(cli.metrics(), cli.folder)

    def _own_best(self, ckpt_path: str | Path | None) -> str | Path | None:
        if ckpt_path is None and self._ran and self._cli is not None and self._cli.command == "fit":
            return getattr(self._cli.trainer.checkpoint_callback, "best_model_path", "") or None
        return ckpt_path

    def _run(
        self, command: str, ckpt_path: str | Path | None = None, weights_from: str | Path | None = None
    ) -> ExperimentCLI:
        with without_noise():
            if self._cli is None or self._ran or self._cli.command != command:
                self.build(command, ckpt_path, weights_from)
            elif ckpt_path is not None or weights_from is not None:
                given = "weights_from" if ckpt_path is None else "ckpt_path"
                raise ValueError(
                    f"Invalid {given}: the trainer, model and data of this experiment are built already, without it; "
                    f"use experiment.build({command!r}, {given}=...).{command}()"
                )
            cli, self._ran = self._built, True
            with contextlib.nullcontext() if self._exits else _interruptible():
                cli.run()
        return cli


def fit(
    config: Layer | Sequence[Layer],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    ckpt_path: str | Path | None = None,
    weights_from: str | Path | None = None,
) -> RunResult:
    """Train in this process, as the command ``fit`` does; see :class:`Experiment` and :meth:`Experiment.fit`."""
    return Experiment(config, overrides).fit(ckpt_path, weights_from)


def build(config: Layer | Sequence[Layer], overrides: Mapping[str, Any] | Sequence[str] = ()) -> Experiment:
    """Build trainer, model and data from a configuration, as the command ``fit`` does, without running it.

    Args:
        config, overrides: see :class:`Experiment`.

    Returns:
        The experiment, with its ``trainer``, ``module`` and ``data``.
    """
    return Experiment(config, overrides).build()


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Silence warnings and advertisements of Lightning that users of this package cannot act on."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        for message in (
            ".*LeafSpec.*",
            ".*does not have many workers.*",
            ".*your dataloader is not resumable.*",  # ExactResume resumes it
            ".*is smaller than the logging interval.*",  # each epoch is logged
            "Checkpoint directory .* exists and is not empty",  # a resumed run's own
        ):
            warnings.filterwarnings("ignore", message)
        logger.addFilter(_is_no_advertisement)
        try:
            yield
        finally:
            logger.removeFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in str(record.msg)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C, or a notebook's stop button, raise KeyboardInterrupt, where Lightning would end the process."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from error
    finally:
        if main and before is not None:
            signal.signal(signal.SIGINT, before)


def _as_argument(layer: Layer) -> str:
    return dump_yaml(nested(layer)) if isinstance(layer, Mapping) else find_config(layer)


def _text(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
