"""WeightsFrom: a new run that starts from the weights of another run."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from lightning_qsgd.run_folder import read_checkpoint


class WeightsFrom(L.Callback):
    """Load the weights of a checkpoint into the model before training starts.

    Optimizer, schedule, epoch and random generators are those of a new run. If the run of the checkpoint averaged its
    weights, the average is loaded.

    Args:
        path: a checkpoint of this project or of Lightning; one with weights only will do.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be read, or if names and shapes of its weights are not those of the model.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"Invalid weights_from: {path}; there is no such file")
        self.path = Path(path)
        self._loaded = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Load the weights before a callback for averages copies the model, unless the model is not built yet."""
        self._loaded = stage != "fit"
        if not self._loaded and pl_module.device_mesh is None:
            pl_module.configure_model()
            checkpoint = read_checkpoint(self.path)
            if pl_module.state_dict().keys() == checkpoint["state_dict"].keys():
                self._load(trainer, pl_module, checkpoint)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the weights, unless that is done."""
        if not self._loaded and trainer.ckpt_path is None:
            self._load(trainer, pl_module, read_checkpoint(self.path))

    def _load(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        try:  # works for sharded weights too
            set_model_state_dict(module, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"Invalid weights_from: {self.path} has the weights of another model: {reason}") from error
        self._loaded = True
        rank_zero_info(f"Weights from {self.path}, after step {checkpoint['global_step']} of its run")
        data: L.LightningDataModule | None = getattr(trainer, "datamodule", None)
        saved = checkpoint.get(type(data).__qualname__)
        if data is None or not isinstance(saved, dict):
            return
        own = data.state_dict()
        if differ := [name for name in saved if own.get(name) != saved[name]]:
            rank_zero_warn(
                f"The data of {self.path} had another {', '.join(differ)}: words or classes may have other numbers here"
            )
