"""One experiment: its parser, its run folder, and what it is built from. Level 3."""

import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_qsgd.callbacks import PredictionWriter, TimeToTarget
from lightning_qsgd.files import AtomicCheckpointIO

ROOT = Path(__file__).parent


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
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "logs", "accelerator": "auto"},
            seed_everything_default=0,
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
        # Two callbacks: with save_last, Lightning writes last.ckpt only in epochs that are among the best.
        best = {"monitor": "val/accuracy", "mode": "max", "filename": "best"}
        for key, defaults in (("checkpoint", best), ("last_checkpoint", {"filename": "last"})):
            parser.add_lightning_class_args(ModelCheckpoint, key)
            defaults |= {"auto_insert_metric_name": False, "enable_version_counter": False}
            parser.set_defaults({f"{key}.{name}": value for name, value in defaults.items()})
        parser.add_lightning_class_args(TimeToTarget, "time_to_target")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``; Lightning's own warns whenever a process was started with arguments of its own."""
        self.config = parser.parse_args(args)

    # ---- from arguments to trainer, model and data

    def _parse_ckpt_path(self) -> None:
        """Take the model's sizes from the checkpoint; unlike Lightning's, with one clear error."""
        command = self.config.get("subcommand")
        if not command:
            return
        config = self.config[command]
        path = config.get("ckpt_path")
        if path is None:
            if command != "fit":
                self.parser.error(f"{command} needs a trained model: add --ckpt_path RUN_FOLDER/checkpoints/best.ckpt")
            return
        if not Path(path).is_file():
            found = ", ".join(map(str, sorted(Path(config.trainer.default_root_dir).glob("*/version_*/checkpoints/*"))))
            self.parser.error(f"Checkpoint {path!r} not found; there are: {found or 'none'}")
        try:
            checkpoint = torch.load(path, weights_only=True, map_location="cpu")
            hyper_parameters = checkpoint.get("hyper_parameters", {})
        except Exception as error:  # whatever a broken or hostile file raises
            self.parser.error(
                f"Checkpoint {path!r} cannot be read ({type(error).__name__}); was it cut off, or no checkpoint?"
            )
        for name, value in hyper_parameters.items():
            if name in config.model.init_args:
                config.model.init_args[name] = value

    def before_instantiate_classes(self) -> None:
        """Set threads; keep the configuration of a trained run when it is only evaluated."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            if threads < 1:
                self.parser.error(f"Invalid threads: {threads}; it must be at least 1, or null for all cores")
            torch.set_num_threads(threads)
        if self.subcommand not in (None, "fit"):
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Both loggers in one run folder, atomic checkpoints, a prediction file."""
        config = self._get(self.config_init, "trainer")
        if config.logger in (None, True):
            if self.subcommand in (None, "fit"):
                root, experiment = Path(config.default_root_dir), self._get(self.config, "experiment")
                place = {"save_dir": root, "name": experiment, "version": next_version(root / experiment)}
                kwargs["logger"] = [CSVLogger(**place), TensorBoardLogger(**place, default_hp_metric=False)]
            else:  # what is said of a checkpoint goes beside it, and its logs stay as they are
                folder = Path(self._get(self.config, "ckpt_path")).parent
                kwargs["default_root_dir"] = folder.parent if folder.name == "checkpoints" else folder
                kwargs["logger"] = False
        plugins = config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        if self.subcommand == "predict":
            self.trainer_defaults["callbacks"] = [PredictionWriter()]
        return super().instantiate_trainer(**kwargs)


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


def find_config(path: str | Path) -> str:
    """A configuration file: ``path`` as given, or else the one of that name that is shipped with the package."""
    path = Path(path)
    for shipped in (ROOT / path, ROOT.parent / path):  # in a wheel; in a checkout
        if not path.is_file() and path.parts[:1] == ("configs",) and shipped.is_file():
            return str(shipped)
    return str(path)


def next_version(folder: Path) -> int:
    """1 + the highest N of ``folder/version_N``, or 0."""
    found = [re.fullmatch(r"version_(\d+)", path.name) for path in folder.glob("version_*")]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def peak_memory() -> float:
    """Peak resident memory of this process so far, in GB (1e9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
