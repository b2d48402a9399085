"""From arguments to trainer, model and data: Lightning's command line, by its public hooks."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_qsgd.callbacks import (
    AttentionMonitor,
    BestCheckpoint,
    ChangedOptions,
    CircuitEngines,
    CircuitTwins,
    DisplacedForward,
    DistributedChecks,
    ExactResume,
    FiniteSteps,
    MonitorCheck,
    PerturbationMonitor,
    PredictionWriter,
    RunMonitor,
    RunSummary,
    TestReport,
    TimeToTarget,
    WeightsFrom,
)
from lightning_qsgd.callbacks.parts import callbacks_of
from lightning_qsgd.callbacks.run_monitor import RunPage
from lightning_qsgd.callbacks.run_summary import count_circuits, engines_of
from lightning_qsgd.failures import is_of_other_weights, is_out_of_memory, memory_advice
from lightning_qsgd.files import write_json
from lightning_qsgd.manual import COMMANDS
from lightning_qsgd.parser import OneLineErrorParser, refuse_silent_functions
from lightning_qsgd.report.numbers import check_direction, direction_of
from lightning_qsgd.run_folder import AtomicCheckpointIO, find_checkpoint, is_unused, make_loggers, reserve
from lightning_qsgd.settings import SavedRun, named_in, predicts, so_that_arguments_win
from lightning_qsgd.twin_names import LayerTwin

#: Arguments of Trainer.fit and its like that the program gives.
_GIVEN: set[str | int] = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}


class ExperimentCLI(LightningCLI):
    """Lightning's command line as the parser of an experiment: it parses, seeds and instantiates.

    Args:
        arguments: of the command line, without the command.
        command: "fit", "validate", "test" or "predict".
        folder: the folder of a new run. Default: None, the experiment's next ``version_N``.
        exits: whether a refusal by the parser ends the process with exit code 2. Otherwise it is a ValueError.
            Default: True.
        only_parse: whether to stop after parsing, so that nothing is built. Default: False.

    Attributes:
        of_command: names of the settings that belong to the command rather than to the run.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        command: str,
        folder: Path | None = None,
        exits: bool = True,
        only_parse: bool = False,
    ) -> None:
        self.command, self._only_parse, self._given_folder = command, only_parse, folder
        self.saved: SavedRun | None = None  # the run of the checkpoint
        self.reserved: Path | None = None  # a folder made for this run
        self.outputs: Any = None  # what the trainer returned
        self._unlike_run = ""
        arguments = so_that_arguments_win(arguments)
        self._named = named_in(arguments)
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            save_config_callback=RunPage,
            save_config_kwargs={"overwrite": True, "arguments": [command, *arguments]},
            trainer_defaults={"default_root_dir": "logs", "accelerator": "auto"},
            seed_everything_default=0,
            parser_class=OneLineErrorParser,
            parser_kwargs={
                "prog": f"lightning-qsgd {command}",
                "description": f"{COMMANDS[command].capitalize()}.",
                "exits": exits,
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ---- from arguments to a configuration

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add arguments to Lightning's, and the callbacks that every run has."""
        parser.add_argument(
            "--experiment", type=str, default="experiment", help="name: runs go to <root>/<experiment>/version_N"
        )
        parser.add_argument(
            "--threads",
            type=int | None,
            default=1,
            help="threads of torch in each process; small models gain nothing from more, and two busy processes with "
            "two threads each crawl (null: all cores)",
        )
        parser.add_argument(
            "--replace_circuits",
            type=LayerTwin | None,
            default=None,
            help="classical twin that takes the place of each QuantumLayer of the model (docs/compare.md)",
        )
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        best = {"monitor": "val/accuracy", "mode": "max", "filename": "best", "auto_insert_metric_name": False}
        best["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        parser.add_lightning_class_args(ExactResume, "exact_resume")
        parser.add_lightning_class_args(FiniteSteps, "finite")
        parser.add_lightning_class_args(TimeToTarget, "time_to_target")
        parser.add_lightning_class_args(PerturbationMonitor, "monitor")
        parser.add_lightning_class_args(RunMonitor, "run_monitor")
        parser.add_lightning_class_args(AttentionMonitor, "attention_monitor")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        self.of_command: list[str] = parser.add_method_arguments(L.Trainer, self.command, skip=_GIVEN)
        if self.command == "fit":
            parser.add_argument(
                "--weights_from",
                type=str | None,
                default=None,
                help="checkpoint whose weights a new run starts from; --ckpt_path resumes its run instead",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``, and decide on settings in which the command differs from its checkpoint's run.

        Raises:
            FileNotFoundError: if the checkpoint does not exist.
            ValueError: if the checkpoint cannot be read, its run has finished, an evaluation names no checkpoint, or
                the command line asks for weights of other shapes.
        """
        self.config = parser.parse_args(args)
        refuse_silent_functions(self.config)
        chosen = [name for name in ("checkpoint.monitor", "time_to_target.metric") if self._named.source(name)]
        if "checkpoint.monitor" not in chosen and predicts(self.config.get("data")) == "numbers":
            self.config.checkpoint.monitor = "val/mse"
            chosen.append("checkpoint.monitor")
        self._settle_modes(chosen)
        # It is no setting of the run: other commands, which read config.yaml, do not have it.
        self._weights_from: str | None = self.config.pop("weights_from", None)
        if self._only_parse:
            settings = self.plain(skip_unset=True)
            self.settings = {name: value for name, value in settings.items() if name not in self.of_command}
            self.config.seed_everything = False  # leave the generators alone
            return
        config, path = self.config, self.config.ckpt_path
        if path is None and self.command != "fit":
            raise ValueError(f"{self.command} needs a trained model: add --ckpt_path best, last, or a file")
        if path is None:
            return
        if path == "auto" and self.command != "fit":
            raise ValueError(f"Invalid ckpt_path: 'auto' is for fit; {self.command} takes last, best, or a file")
        if "weights_from" in self._named.arguments and path != "auto":
            raise ValueError("Invalid weights_from: with --ckpt_path a run is resumed, weights and all; leave one out")
        file = find_checkpoint(path, Path(config.trainer.default_root_dir), config.experiment)
        config.ckpt_path = None if file is None else str(file)
        if file is None:
            return
        self._weights_from = None  # those of the checkpoint
        self.saved = saved = SavedRun(file)
        resumes = self.command == "fit"
        self._unlike_run = saved.settle(config, self.plain(), self._named, resumes)
        if not resumes:
            return
        if message := saved.finished(config, auto=path == "auto"):
            if path != "auto":
                raise ValueError(message)
            print(message)  # the same command again: nothing is left to do
            sys.exit(0)
        saved.check_resumable(config, self._named)
        if (saved.folder / "config.yaml").is_file():
            self.save_config_kwargs["config_filename"] = f"config_from_step_{saved.step}.yaml"

    def plain(self, skip_unset: bool = False) -> dict[str, Any]:
        """The configuration as plain values; ``skip_unset`` leaves out settings that are None."""
        text = self.parser.dump(  # which was validated when it was parsed
            self.config, skip_link_targets=False, skip_unset=skip_unset, skip_validation=True
        )
        return yaml.safe_load(text)

    def _settle_modes(self, metrics: Sequence[str]) -> None:
        """Let metrics, named by their options, decide on their directions, unless these are named.

        Raises:
            ValueError: in fit, for a named direction that the metric does not have.
        """
        for option, _, name in (metric.partition(".") for metric in metrics):
            settings, metric = self.config[option], self.config[option][name] or ""
            if not self._named.source(f"{option}.mode"):
                settings.mode = direction_of(metric) or settings.mode
            elif self.command == "fit":
                check_direction(f"{option}.mode", settings.mode, metric)

    # ---- from a configuration to trainer, model and data

    def before_instantiate_classes(self) -> None:
        """Set the threads, and let time_to_target watch the checkpoint's monitor unless its metric is configured."""
        if self._only_parse:
            return
        threads = self.config.threads
        if threads is not None:
            if threads < 1:
                raise ValueError(f"Invalid threads: {threads}; it must be at least 1, or null for all cores")
            torch.set_num_threads(threads)
        monitor, clock = self.config.checkpoint.monitor, self.config.time_to_target
        if monitor is None or monitor == clock.metric or self._named.source("time_to_target.metric"):
            return
        clock.metric, clock.mode = monitor, self.config.checkpoint.mode
        if not self._named.source("time_to_target.target"):
            clock.target = None

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; see Lightning."""
        if not self._only_parse:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer, with both loggers in one run folder, atomic checkpoints and the callbacks of every run."""
        config = self.config_init["trainer"]
        training = self.command == "fit"
        refuse_precision(config.precision, config.accelerator, training=training)
        places = self._places(config)
        options = {**config, **kwargs, **places}
        plugins = _as_list(config.plugins)
        own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
        options["plugins"] = plugins if own else [*plugins, AtomicCheckpointIO()]
        options["callbacks"] = self._callbacks(config, places.get("default_root_dir"))
        return L.Trainer(**options)

    def _places(self, config: Any) -> dict[str, Any]:
        """The run folder and its loggers, as arguments of the trainer."""
        saved, logs = self.saved, config.logger in (None, True)
        if saved is not None and self.command != "fit":  # evaluations leave the run's logs alone
            return {"default_root_dir": saved.folder} | ({"logger": False} if logs else {})
        if config.fast_dev_run:
            return {}
        if saved is not None and saved.in_run_folder:
            folder, step = saved.folder, saved.step
        elif self._given_folder is not None:
            folder, step = self._given_folder, None
        else:
            folder, step = reserve(Path(config.default_root_dir) / self.config.experiment), None
            self.reserved = folder
        return {"default_root_dir": folder} | ({"logger": make_loggers(folder, step)} if logs else {})

    def _callbacks(self, config: Any, folder: Path | None) -> list[L.Callback]:
        config_name = self.save_config_kwargs.get("config_filename", "config.yaml")
        configured = [self.config_init[key] for key in self.parser.callback_keys]
        step = self.saved.step if self.saved is not None and config.logger in (None, True) else None
        ours = [TestReport(step), DisplacedForward(), RunSummary(), CircuitEngines(), ChangedOptions(config_name)]
        if config.enable_checkpointing is False:
            configured = [callback for callback in configured if not isinstance(callback, Checkpoint)]
        else:
            options = ("checkpoint.monitor", "time_to_target.metric")
            monitors = {option: self.config[option] for option in options if self.config[option] is not None}
            ours.append(MonitorCheck(monitors, frozenset(filter(self._named.source, monitors))))
        if folder is not None:
            ours.append(DistributedChecks(folder, self.config.ckpt_path))
        if self.command == "fit" and not config.fast_dev_run:  # an evaluated run keeps its configuration
            ours.append(RunPage(self.parser, self.config, **self.save_config_kwargs))
        twin: LayerTwin | None = self.config.replace_circuits
        first: list[L.Callback] = [] if twin is None else [CircuitTwins(twin)]
        first += [] if self._weights_from is None else [WeightsFrom(self._weights_from)]
        return [*first, *_as_list(config.callbacks), *configured, *ours]

    # ---- the command

    @property
    def folder(self) -> Path | None:
        """The folder that the command writes to; None in a dry run."""
        return None if self.trainer.fast_dev_run else Path(self.trainer.default_root_dir)  # type: ignore[attr-defined]

    def run(self) -> None:
        """Run the command. If its start fails, no empty folder is left.

        Raises:
            MemoryError: if memory ran out; the message names settings that save memory.
            ValueError: if the weights do not fit; the message names what differs from the checkpoint's run.
        """
        options = {name: self.config[name] for name in self.of_command}
        if self.datamodule is not None:
            options["datamodule"] = self.datamodule
        try:
            self.outputs = getattr(self.trainer, self.command)(self.model, **options)
        except BaseException as error:
            self.discard()
            if not isinstance(error, Exception):
                raise
            if self._unlike_run and is_of_other_weights(error):
                raise ValueError(
                    f"The checkpoint belongs to another model. Unlike in the run: {self._unlike_run}; {error}"
                ) from error
            if is_out_of_memory(error):
                raise MemoryError(memory_advice(error, self.plain(), training=self.command == "fit")) from error
            raise

    def discard(self) -> None:
        """Remove the folder that was made for this run, if it is empty."""
        if self.reserved is not None and self.trainer.is_global_zero and is_unused(self.reserved):
            shutil.rmtree(self.reserved, ignore_errors=True)

    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return {key: value.item() for key, value in self.trainer.callback_metrics.items()}

    def save_metrics(self, name: str) -> None:
        """Save the metrics, the engines and their cost in the run folder. All ranks must call this method."""
        folder = self.trainer.log_dir  # asks all ranks
        if folder is None or self.folder is None or not self.trainer.is_global_zero:
            return
        assert self.saved is not None
        (report,) = callbacks_of(self.trainer, TestReport)
        values: dict[str, Any] = {"checkpoint": str(self.trainer.ckpt_path)} | self.saved.position
        values |= ({"examples": report.examples} if report.examples else {}) | self.metrics()
        if engines := engines_of(self.model):
            circuits, shots, _ = count_circuits(self.model)
            values |= ({"circuits": circuits, "shots": shots} if circuits else {}) | {"engines": engines}
        write_json(Path(folder) / name, values)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def refuse_precision(precision: Any, accelerator: Any, training: bool) -> None:
    """Refuse a precision that Lightning would replace with a warning, and one that cannot train.

    Args:
        precision: the Trainer's argument, such as "16-mixed", or None.
        accelerator: the Trainer's argument, such as "auto" or "cpu".
        training: whether weights will be trained, or only evaluated.

    Raises:
        ValueError: for 16-mixed on a CPU (Lightning takes bfloat16 instead), and for training in 16-true: Adam's eps
            of 1e-8 is 0 in float16 and nothing scales the loss, so that weights become NaN within a few steps.
    """
    name = {"16-mixed": "16-mixed", "16": "16-mixed", "16-true": "16-true"}.get(str(precision))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if name == "16-mixed" and on_cpu:
        raise ValueError(
            f"Invalid precision: {name}; float16 with a scaled loss needs a GPU, and this run is on the CPU. Use "
            "--trainer.precision bf16-mixed, or a machine with a GPU"
        )
    if name == "16-true" and training:
        raise ValueError(
            f"Invalid precision: {name}; Adam's eps of 1e-08 is 0 in float16, and weights become NaN. Use "
            f"--trainer.precision {'' if on_cpu else '16-mixed, '}bf16-mixed or bf16-true"
        )
