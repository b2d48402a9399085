"""The run folder ``<root>/<experiment>/version_N``, its loggers and its checkpoints. Level 1."""

import csv
import errno
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.files import atomic_write


def next_version(folder: Path) -> int:
    """1 + the highest N of ``folder/version_N``, or 0."""
    return max((n + 1 for n, _ in _versions(folder)), default=0)


def reserve(runs: Path) -> Path:
    """Make the next ``runs/version_N`` and return it. Two runs that start together get different folders.

    Processes of a distributed run other than rank 0 return the newest folder, until they can ask rank 0.
    """
    if getattr(rank_zero_only, "rank", 0) > 0 or os.environ.get("NODE_RANK", "0") != "0":
        return runs / f"version_{max(next_version(runs) - 1, 0)}"
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            (folder := runs / f"version_{next_version(runs)}").mkdir()
        except FileExistsError:
            continue
        return folder


def is_unused(folder: Path) -> bool:
    """Whether a run folder holds neither checkpoints nor metrics, as after a start that failed."""
    return not (folder / "checkpoints").exists() and not (folder / "metrics.csv").exists()


def find_checkpoint(path: str, root: Path, experiment: str) -> Path | None:
    """The file that ``--ckpt_path`` names; None for a new run.

    Args:
        path: a file; "last", "previous" (the one before the last) or "best", of the experiment's newest run that has
            one; or "auto": the last one, or None if there is none.
        root: the folder of all runs.
        experiment: name of the experiment.

    Raises:
        FileNotFoundError: if the checkpoint does not exist; the message names some that do.
        IsADirectoryError: for a sharded checkpoint.
    """
    if path in ("auto", "last", "previous", "best"):
        name = "last.ckpt" if path == "auto" else f"{path}.ckpt"
        for _, folder in sorted(_versions(root / experiment), reverse=True):
            if (file := folder / "checkpoints" / name).is_file():
                return file
        if path == "auto":
            return None
        others = sorted({file.parts[-4] for file in root.glob(f"*/version_*/checkpoints/{name}")})
        ways = f"name another --experiment ({', '.join(others[:5])}), or " if others else ""
        raise FileNotFoundError(
            f"No {path} checkpoint: no run in {root / experiment} has one; {ways}train first: fit without --ckpt_path"
        )
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"Checkpoint {path} is a folder with one file for each process; train with the strategy's "
            "save_distributed_checkpoint: false, or make one file of it: python -m "
            "lightning.pytorch.utilities.consolidate_checkpoint"
        )
    if not Path(path).is_file():
        own, all_runs = (root.glob(f"{runs}/version_*/checkpoints/*.ckpt") for runs in (experiment, "*"))
        newest = sorted(list(own) or all_runs, key=lambda file: file.stat().st_mtime, reverse=True)[:3]
        raise FileNotFoundError(f"Checkpoint {path} not found; newest: {', '.join(map(str, newest)) or 'none'}")
    return Path(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of Lightning without running code in the file.

    Raises:
        ValueError: if the file is truncated, hostile, or not a checkpoint.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a broken or hostile file raises
        hostile = isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path)
        reason = "it holds more than tensors and plain values" if hostile else "it was cut off, or"
        raise ValueError(
            f"Checkpoint {path} cannot be read: {reason} it is no checkpoint; use another file, "
            "such as previous.ckpt (--ckpt_path previous)"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(f"{path} is no checkpoint: it has no state_dict")
    settings = checkpoint.get("hyper_parameters") or {}  # without save_hyperparameters() there are none
    checkpoint["hyper_parameters"] = {k: v for k, v in settings.items() if not k.startswith("_")}  # _class_path
    checkpoint.setdefault("global_step", 0)
    return checkpoint


def epochs_of(checkpoint: dict[str, Any]) -> tuple[int, bool]:
    """Epochs that a checkpoint's run had begun, and whether the last of them was trained to its end."""
    if "loops" not in checkpoint:
        return checkpoint.get("epoch", 0), False
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    within = epochs["started"] > epochs["processed"]
    return epochs["processed"] + within, not within or batches["is_last_batch"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are complete or absent, and load with weights_only=True whatever the caller says."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write to a file next to ``path``, flush to disk, then replace it.

        Hyper-parameters that are objects, such as a sampler, are left out: they come from the configuration, and a
        checkpoint that holds them would not load with ``weights_only=True``.

        Raises:
            OSError: if it cannot be written; an earlier checkpoint at ``path`` is intact.
        """
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                plain = {name: _plain(value) for name, value in checkpoint[key].items()}
                checkpoint = checkpoint | {key: {name: value for name, value in plain.items() if value is not ...}}
        with atomic_write(path, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(errno.EIO, f"{str(error).splitlines()[0]} (is the disk full?)") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Load tensors and plain values; code in the file does not run."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def _plain(value: Any) -> Any:
    """A value of numbers, texts, tensors and collections of them, NumPy's as Python's; ... for all others."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    if isinstance(value, dict):
        parts = {name: _plain(part) for name, part in value.items()}
        return ... if any(part is ... for part in parts.values()) else parts
    if isinstance(value, list | tuple):
        found = [_plain(part) for part in value]
        return ... if any(part is ... for part in found) else tuple(found) if isinstance(value, tuple) else found
    return ...


def keep(path: Path, target: Path) -> None:
    """Link a file to a second name, so that it survives when its first name is reused; copy it if links fail."""
    temporary = target.with_suffix(".tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copy2(path, temporary)
        os.replace(temporary, target)
    except OSError as error:  # the file itself is there, and a write that fails too will say why
        rank_zero_warn(f"Could not keep {target}: {error.strerror or error}")


def folder_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, or the folder it lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def config_of(file: Path, checkpoint: dict[str, Any]) -> Path | None:
    """The file of the configuration that a checkpoint was trained with, or None if its folder has none.

    The checkpoint names it. For a checkpoint of 0.1.0 it is that of the last resumption before its step, or the run's.
    """
    folder, step = folder_of(file), checkpoint["global_step"]
    name = ((checkpoint.get("callbacks") or {}).get("ChangedOptions") or {}).get("config_path")
    if name and (folder / name).is_file():
        return folder / name
    resumed = [(re.fullmatch(r"config_from_step_(\d+)", f.stem), f) for f in folder.glob("config_from_step_*.yaml")]
    before = [(int(match[1]), file) for match, file in resumed if match and int(match[1]) < step]
    newest = max(before)[1] if before else folder / "config.yaml"
    return newest if newest.is_file() else None


def set_aside(folder: Path, names: Sequence[str]) -> None:
    """Rename files in a folder, all with the same new number: test.json becomes test_1.json."""
    paths = [folder / name for name in names]
    free = (n for n in count(1) if not any(path.with_stem(f"{path.stem}_{n}").exists() for path in paths))
    number = next(free)
    for path in paths:
        if path.exists():
            path.rename(path.with_stem(f"{path.stem}_{number}"))


def make_loggers(folder: Path, resume_step: int | None = None) -> list[Logger]:
    """CSV and TensorBoard loggers that write into ``folder``.

    Args:
        folder: the run folder.
        resume_step: optimizer step that a resumed run starts from: earlier records stay, later ones, which that run
            will write again, are dropped. None: a new run.
    """
    version = re.fullmatch(r"version_(\d+)", folder.name)
    root, name, number = (folder.parent.parent, folder.parent.name, int(version[1])) if version else (folder, "", "")
    purge = {} if resume_step is None else {"purge_step": resume_step}
    return [
        ContinuedCSVLogger(root, name, number, resume_step=resume_step),
        TensorBoardLogger(root, name, number, default_hp_metric=False, **purge),  # type: ignore[arg-type]
    ]


class ContinuedCSVLogger(CSVLogger):
    """Lightning's, which deletes an earlier ``metrics.csv`` in its folder; this one keeps it up to ``resume_step``."""

    def __init__(self, *args: Any, resume_step: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.resume_step = resume_step

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, made at first use."""
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir, self.resume_step or 0)
        return self._experiment  # type: ignore[return-value]


class _ContinuedWriter(ExperimentWriter):
    def __init__(self, log_dir: str, resume_step: int) -> None:
        self.resume_step = resume_step
        self._header: list[str] = []
        super().__init__(log_dir)
        self.metrics_keys = self._header

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < self.resume_step]
            self._header = list(reader.fieldnames or [])
        with atomic_write(path) as file:
            writer = csv.DictWriter(file, self._header)
            writer.writeheader()
            writer.writerows(rows)


def _versions(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"version_(\d+)", path.name), path) for path in folder.glob("version_*")]
    return [(int(match[1]), path) for match, path in found if match]
