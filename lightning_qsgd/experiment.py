"""One experiment: its settings, its run folder, and what it is built from. Level 3."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.advice import is_out_of_memory, memory_advice, refuse_precision
from lightning_qsgd.callbacks import (
    AttentionMonitor,
    BestCheckpoint,
    ChangedOptions,
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
from lightning_qsgd.callbacks.run_page import RunPage
from lightning_qsgd.files import find_config
from lightning_qsgd.parser import OneLineErrorParser, names_class, refuse_class_names, refuse_silent_functions
from lightning_qsgd.run_folder import (
    AtomicCheckpointIO,
    config_of,
    epochs_of,
    find_checkpoint,
    folder_of,
    make_loggers,
    read_checkpoint,
    reserve,
)
from lightning_qsgd.settings import (
    compare,
    flat,
    named_in,
    short,
    so_that_arguments_win,
    that_shape_weights,
    told,
    weight_shapes,
)
from lightning_qsgd.yaml_files import read_yaml

#: What a resumed run shows or where it writes, not what it computes.
_DISPLAY = frozenset(
    f"trainer.{name}"
    for name in ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
)


class Experiment(NamedTuple):
    """What :func:`build` returns."""

    trainer: L.Trainer
    module: L.LightningModule
    data: L.LightningDataModule


class ExperimentCLI(LightningCLI):
    """LightningCLI with this project's defaults: one run folder, atomic checkpoints, seeded, one thread.

    Args:
        args: command-line arguments; None: those of the process.
        run: False: only build trainer, model and data (no subcommand in ``args``).
    """

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:
        arguments = so_that_arguments_win(sys.argv[1:] if args is None else args)
        self._named = named_in(arguments)
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            save_config_callback=RunPage,
            save_config_kwargs={"overwrite": True, "arguments": ["fit"][run:] + arguments},
            trainer_defaults={"default_root_dir": "logs", "accelerator": "auto"},
            seed_everything_default=0,
            parser_class=OneLineErrorParser,
            parser_kwargs={
                "prog": "lightning-qsgd",
                "description": "Train, evaluate and use a model with quantum layers.",
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The arguments beside Lightning's own, and the callbacks that every run has."""
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

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--weights_from",
                type=str | None,
                default=None,
                help="checkpoint whose weights a new run starts from; --ckpt_path resumes its run instead",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``; Lightning's own warns whenever a process was started with arguments of its own."""
        self.config = parser.parse_args(args)
        refuse_silent_functions(self.config)

    # ---- from arguments to trainer, model and data

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint, and settle in what the command differs from its run.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read, its run has finished, an evaluation names none, or the command line asks
                for weights of other shapes.
        """
        self._resume_step: int | None = None
        self._reserved: Path | None = None
        self._checkpoint: dict[str, int] = {}
        self._unlike_run = ""
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        path = config.get("ckpt_path")
        # No setting of the run: it would stand in config.yaml, which other commands take.
        self._weights_from: str | None = config.pop("weights_from", None)
        if path is None:
            if command not in (None, "fit"):
                raise ValueError(f"{command} needs a trained model: add --ckpt_path best, last, or a file")
            return
        if path == "auto" and command != "fit":
            raise ValueError(f"Invalid ckpt_path: 'auto' is for fit; {command} takes last, best, or a file")
        if "weights_from" in self._named.arguments and path != "auto":
            raise ValueError("Invalid weights_from: with --ckpt_path a run is resumed, weights and all; leave one out")
        file = find_checkpoint(path, Path(config.trainer.default_root_dir), config.experiment)
        if file is None:
            config.ckpt_path = None
            return
        self._weights_from = None  # those of the checkpoint
        checkpoint = read_checkpoint(file)
        if "pytorch-lightning_version" not in checkpoint:
            raise ValueError(
                f"{file} holds weights, and is no checkpoint of Lightning's: start from it by --weights_from"
            )
        config.ckpt_path = str(file)
        begun, complete = epochs_of(checkpoint)
        self._checkpoint = {"epoch": begun, "step": checkpoint["global_step"]}
        self._settle(config, checkpoint, file, resumes=command == "fit")
        if command == "fit":
            self._check_resumable(config, checkpoint, file, begun, complete, auto=path == "auto")
            stepped = checkpoint.get("exact_resume", [{}])[0].get("stepped")  # what loggers count
            self._resume_step = checkpoint["global_step"] if stepped is None else stepped
            if (folder_of(file) / "config.yaml").is_file():
                self.save_config_kwargs["config_filename"] = f"config_from_step_{self._resume_step}.yaml"

    def _settle(self, config: Namespace, checkpoint: dict[str, Any], file: Path, resumes: bool) -> None:
        """Print in what the command differs from the run of a checkpoint, and settle it.

        What is named on the command line or in a configuration file holds, but for settings in a file that give the
        weights other shapes; the model's and data's settings that nobody names are those of the run.
        """
        self._dump_config()
        now = flat(self.config_dump)
        del self.config_dump  # not yet that of the command
        record = config_of(file, checkpoint)
        recorded = flat(read_yaml(record)) if record else {}
        known = recorded or now  # without a record only hyper-parameters can be compared
        learned = {f"model.init_args.{name}": value for name, value in checkpoint["hyper_parameters"].items()}
        for key, value in learned.items():
            if now.get(key) != value and any(name == key or name.startswith(f"{key}.") for name in now):
                refuse_class_names(value, f"{key.removeprefix('model.init_args.')} of checkpoint {file}")
            if key in now and now[key] != value:
                if key in recorded and recorded[key] == now[key]:  # the same setting, and what came of it
                    config[key] = now[key] = value
                known = known | {key: value}
        parts = ("model", "data", *(("seed_everything", "trainer") if resumes else ("trainer.precision",)))
        recorded, now = (
            {k: v for k, v in settings.items() if re.match(rf"({'|'.join(parts)})(\.|$)", k) and k not in _DISPLAY}
            for settings in (known, now)
        )
        kept, asked = compare(recorded, now, self._named, keep=("model", "data", "seed_everything"))
        for key in [key for key, (was, _) in kept.items() if names_class(was)]:  # only a configuration may name classes
            asked[key] = kept.pop(key)
        for key, (was, _) in kept.items():
            config[key] = was
        if resumes and (of := "model.init_args.optimizer.class_path") in asked:
            raise ValueError(
                f"The run used {asked[of][0]}, this configuration has {asked[of][1]}; resume with --config {record}, "
                "or start a new run"
            )
        model = {
            key.removeprefix("model."): pair
            for key, pair in asked.items()
            if key.startswith("model.init_args.") and not key.endswith("class_path") and key in recorded
        }
        for name, builds in that_shape_weights(config.model, model, weight_shapes(checkpoint["state_dict"])).items():
            was, asks = model[name]
            if self._named.source(f"model.{name}") == "command line":
                if not builds:  # its own error says why
                    continue
                raise ValueError(
                    f"Invalid --{short(f'model.{name}')}: {asks}; the weights in {file} were trained with {was}, and "
                    "have other shapes: leave it out, or train a new model"
                )
            config.model[name] = was
            kept[f"model.{name}"] = asked.pop(f"model.{name}")
        if kept:
            values = ", ".join(f"{key}={was} (not {asks})" for key, (was, asks) in kept.items())
            rank_zero_warn(f"As in the run of the checkpoint: {values}")
        if asked:
            self._unlike_run = told(asked)
            rank_zero_warn(f"{'Resumed with changes' if resumes else 'Unlike in the run'}: {self._unlike_run}")

    def _check_resumable(
        self, config: Namespace, checkpoint: dict[str, Any], file: Path, begun: int, complete: bool, auto: bool
    ) -> None:
        """Refuse to resume a run that has finished, or that another folder was asked for; end where nothing is left."""
        epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
        message = None
        if epochs not in (None, -1) and begun >= epochs and complete:
            message = f"The run of {file} has finished its {epochs} epochs; raise --trainer.max_epochs"
        elif steps != -1 and checkpoint["global_step"] >= steps:
            message = f"The run of {file} has finished its {steps} steps; raise --trainer.max_steps"
        elif auto and checkpoint.get("stopped_early"):
            message = f"The run of {file} was stopped early by a callback; --ckpt_path last trains on"
        if message and auto:  # the same command again: nothing is left to do
            print(message)
            sys.exit(0)
        if message:
            raise ValueError(message)
        if "optimizer_states" not in checkpoint or "loops" not in checkpoint:
            raise ValueError(
                f"Checkpoint {file} holds weights only (checkpoint.save_weights_only), and training cannot go on from "
                "it; use last.ckpt beside it (--ckpt_path last), or start a new run from its weights (--weights_from)"
            )
        saved = [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
        sharded = "ModelParallelStrategy" in str(config.trainer.strategy)
        if sharded and any(isinstance(group.get("perturbation_state"), dict) for group in saved):
            raise ValueError(  # torch fits a saved state to the optimizer's, which holds it in another form
                f"Invalid trainer.strategy: ModelParallelStrategy cannot load the perturbation's state of {file}, "
                "which version 0.1.0 wrote; resume it for one step without that strategy, and then with it"
            )
        folder, asked = folder_of(file), config.experiment
        if "experiment" in self._named.arguments and _is_run(file) and folder.resolve().parent.name != asked:
            raise ValueError(
                f"Invalid experiment: {asked}; a resumed run stays in its folder {folder}: leave --experiment out, or "
                "copy the checkpoint file into another folder and resume that, which makes a new one"
            )

    def before_instantiate_classes(self) -> None:
        """Set threads; watch one metric; keep the configuration of a trained run when it is only evaluated."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"Invalid threads: {threads}; it must be at least 1, or null for all cores")
            torch.set_num_threads(threads)
        self._watch_monitor()
        if self.subcommand not in (None, "fit"):
            self.save_config_callback = None

    def _watch_monitor(self) -> None:
        """Let time_to_target watch the checkpoint's monitor, unless it was told what to watch."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        monitor, clock = config.checkpoint.monitor, config.time_to_target
        if monitor is None or monitor == clock.metric or self._named.source("time_to_target.metric"):
            return
        clock.metric, clock.mode = monitor, config.checkpoint.mode
        if not self._named.source("time_to_target.target"):
            clock.target = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Both loggers in one run folder, atomic checkpoints, a prediction file."""
        config = self._get(self.config_init, "trainer")
        refuse_precision(config.precision, config.accelerator, training=self.subcommand in (None, "fit"))
        path = self._get(self.config, "ckpt_path") if self.subcommand else None
        logs = config.logger in (None, True)
        if path and self.subcommand != "fit":  # what is said of a checkpoint goes beside it; its logs stay
            folder = folder_of(Path(path))
            kwargs |= {"default_root_dir": folder} | ({"logger": False} if logs else {})
        elif not config.fast_dev_run:
            resumed = path is not None and _is_run(Path(path))
            runs = Path(config.default_root_dir) / self._get(self.config, "experiment")
            folder = folder_of(Path(path)) if path and resumed else self._new_folder(runs)
            self._reserved = None if resumed else folder
            kwargs["default_root_dir"] = folder
            if logs:
                kwargs["logger"] = make_loggers(folder, self._resume_step if resumed else None)
        plugins = config.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
        kwargs["plugins"] = plugins if own else [*plugins, AtomicCheckpointIO()]
        self.trainer_defaults["callbacks"] = [TestReport(), DisplacedForward(), RunSummary()]
        config_name = self.save_config_kwargs.get("config_filename", "config.yaml")
        self.trainer_defaults["callbacks"].append(ChangedOptions(config_name))
        if config.enable_checkpointing is not False:
            self.trainer_defaults["callbacks"].append(self._monitor_check())
        if "default_root_dir" in kwargs:
            self.trainer_defaults["callbacks"].append(DistributedChecks(kwargs["default_root_dir"], path))
        return super().instantiate_trainer(**kwargs)

    def _monitor_check(self) -> MonitorCheck:
        config = self.config[self.subcommand] if self.subcommand else self.config
        options = ("checkpoint.monitor", "time_to_target.metric")
        monitors = {option: config[option] for option in options if config[option] is not None}
        return MonitorCheck(monitors, frozenset(filter(self._named.source, monitors)))

    def _new_folder(self, runs: Path) -> Path:
        return reserve(runs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        if self._weights_from is not None:
            own = config.get("callbacks") or []
            config["callbacks"] = [WeightsFrom(self._weights_from), *(own if isinstance(own, list) else [own])]
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        """As Lightning's; errors of memory say what saves some, those of other weights in what the command differs."""
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if self._unlike_run and "loading state_dict" in str(error):
                reason = " ".join(str(error).split())
                raise ValueError(f"Unlike in the run: {self._unlike_run}; {reason}") from error
            if not is_out_of_memory(error):
                raise
            self._dump_config()
            raise MemoryError(memory_advice(error, self.config_dump, training=subcommand == "fit")) from error


def _is_run(checkpoint: Path) -> bool:
    """Whether a checkpoint lies in a run folder, where its run is continued."""
    return checkpoint.parent.name == "checkpoints"


def build(config: Sequence[str | Path], overrides: Sequence[str] = ()) -> Experiment:
    """Build an experiment from configuration files, as the command ``fit`` does, without running it.

    Args:
        config: YAML files, later ones over earlier ones.
        overrides: further arguments, such as "--trainer.max_epochs=1".

    Returns:
        Trainer, LightningModule and LightningDataModule.
    """
    arguments = [part for path in config for part in ("--config", find_config(path))]
    cli = ExperimentCLI([*arguments, *overrides], run=False)
    return Experiment(cli.trainer, cli.model, cli.datamodule)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The complete configuration as plain values, with nothing built from it.

    Args:
        arguments: "--config", FILE and overrides, as for :func:`build`.
    """
    cli = _ParseOnly(list(arguments), run=False)
    return yaml.safe_load(cli.parser.dump(cli.config, skip_link_targets=False))


class _ParseOnly(ExperimentCLI):
    def _set_seed(self) -> None:
        """Leave the generators alone."""

    def instantiate_classes(self) -> None:
        """Leave it at the arguments."""
