"""One experiment: its settings, its run folder, and what it is built from. Level 3."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.advice import is_out_of_memory, memory_advice, refuse_precision
from lightning_qsgd.callbacks import (
    AttentionMonitor,
    DisplacedForward,
    DistributedChecks,
    ExactResume,
    FiniteSteps,
    PerturbationMonitor,
    PredictionWriter,
    RunMonitor,
    RunSummary,
    TestReport,
    TimeToTarget,
)
from lightning_qsgd.callbacks.run_page import RunPage
from lightning_qsgd.files import find_config
from lightning_qsgd.parser import OneLineErrorParser, refuse_class_names, refuse_silent_functions
from lightning_qsgd.run_folder import (
    AtomicCheckpointIO,
    epochs_of,
    find_checkpoint,
    folder_of,
    make_loggers,
    read_checkpoint,
    reserve,
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
        arguments = list(sys.argv[1:] if args is None else args)
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
            args=None if args is None else list(args),
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
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``; Lightning's own warns whenever a process was started with arguments of its own."""
        self.config = parser.parse_args(args)
        refuse_silent_functions(self.config)

    # ---- from arguments to trainer, model and data

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint and take the model's sizes from it; unlike Lightning's, with one clear error.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read, its run has finished, or an evaluation names none.
        """
        self._resume_step: int | None = None
        self._reserved: Path | None = None
        self._checkpoint: dict[str, int] = {}
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        path = config.get("ckpt_path")
        if path is None:
            if command not in (None, "fit"):
                raise ValueError(f"{command} needs a trained model: add --ckpt_path best, last, or a file")
            return
        if path == "auto" and command != "fit":
            raise ValueError(f"Invalid ckpt_path: 'auto' is for fit; {command} takes last, best, or a file")
        file = find_checkpoint(path, Path(config.trainer.default_root_dir), config.experiment)
        if file is None:
            config.ckpt_path = None
            return
        checkpoint = read_checkpoint(file)
        config.ckpt_path = str(file)
        begun, complete = epochs_of(checkpoint)
        self._checkpoint = {"epoch": begun, "step": checkpoint["global_step"]}
        arguments = config.model.get("init_args") or {}
        for name, value in checkpoint["hyper_parameters"].items():
            if name in arguments:
                if arguments[name] != value:
                    refuse_class_names(value, f"{name} of checkpoint {file}")
                if arguments[name] not in (None, value):
                    rank_zero_warn(f"The checkpoint's {name}={value!r} replaces {arguments[name]!r}")
                arguments[name] = value
        if command == "fit":
            epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
            message = None
            if epochs not in (None, -1) and begun >= epochs and complete:
                message = f"The run of {file} has finished its {epochs} epochs; raise --trainer.max_epochs"
            elif steps != -1 and checkpoint["global_step"] >= steps:
                message = f"The run of {file} has finished its {steps} steps; raise --trainer.max_steps"
            elif path == "auto" and checkpoint.get("stopped_early"):
                message = f"The run of {file} was stopped early by a callback; --ckpt_path last trains on"
            if message and path == "auto":  # the same command again: nothing is left to do
                print(message)
                sys.exit(0)
            if message:
                raise ValueError(message)
            if "optimizer_states" not in checkpoint:
                raise ValueError(
                    f"Checkpoint {file} holds weights only (checkpoint.save_weights_only), and training cannot go on "
                    "from it; use last.ckpt beside it (--ckpt_path last)"
                )
            saved = [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
            sharded = "ModelParallelStrategy" in str(config.trainer.strategy)
            if sharded and any(isinstance(group.get("perturbation_state"), dict) for group in saved):
                raise ValueError(  # torch fits a saved state to the optimizer's, which holds it in another form
                    f"Invalid trainer.strategy: ModelParallelStrategy cannot load the perturbation's state of {file}, "
                    "which version 0.1.0 wrote; resume it for one step without that strategy, and then with it"
                )
            stepped = checkpoint.get("exact_resume", [{}])[0].get("stepped")  # what loggers count
            self._resume_step = checkpoint["global_step"] if stepped is None else stepped
            self._compare_configs(folder_of(file) / "config.yaml")

    def _compare_configs(self, path: Path) -> None:
        """Refuse to resume a run with another optimizer; warn of other changes, and keep both configurations."""
        if not path.is_file():
            return
        self._dump_config()
        old, new = (_flat(config) for config in (yaml.safe_load(path.read_text()), self.config_dump))
        learned = {"model.init_args.vocab_size", "model.init_args.num_classes", "model.init_args.class_weights"}
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and k not in learned)
        told = ("model", "data", "seed_everything")
        changed = [k for k in changed if k.split(".")[0] in told or k == "trainer.precision"]
        for key in changed:
            if key.endswith("optimizer.class_path"):
                raise ValueError(
                    f"The run used {old.get(key)}, this configuration has {new.get(key)}; resume with --config {path}, "
                    "or start a new run"
                )
        if changed:
            rank_zero_warn(
                "Resumed with changes: " + ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in changed[:8])
            )
        self.save_config_kwargs["config_filename"] = f"config_from_step_{self._resume_step}.yaml"

    def before_instantiate_classes(self) -> None:
        """Set threads; keep the configuration of a trained run when it is only evaluated."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"Invalid threads: {threads}; it must be at least 1, or null for all cores")
            torch.set_num_threads(threads)
        if self.subcommand not in (None, "fit"):
            self.save_config_callback = None

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
            resumed = path is not None and Path(path).parent.name == "checkpoints"
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
        if "default_root_dir" in kwargs:
            self.trainer_defaults["callbacks"].append(DistributedChecks(kwargs["default_root_dir"], path))
        return super().instantiate_trainer(**kwargs)

    def _new_folder(self, runs: Path) -> Path:
        return reserve(runs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        """As Lightning's; where memory runs out, the error says what saves some."""
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._dump_config()
            raise MemoryError(memory_advice(error, self.config_dump, training=subcommand == "fit")) from error


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix[:-1]: config}
    return {k: v for name, value in config.items() for k, v in _flat(value, f"{prefix}{name}.").items()}


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
