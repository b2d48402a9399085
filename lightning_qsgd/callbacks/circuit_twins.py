"""CircuitTwins: a run whose circuit layers are replaced by classical twins."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_qsgd.twin_names import LayerTwin, NoTwinError

SAVED = "replace_circuits"  # in checkpoints


class CircuitTwins(L.Callback):
    """Replace each :class:`QuantumLayer` of the model by a classical twin, before anything is trained or loaded.

    The layers may be built in ``__init__`` or in ``configure_model``, which is called here first; Lightning's later
    call must change nothing. For each layer a line says what took its place, and the number of trainable parameters
    before and after. Checkpoints record the twin.

    Args:
        kind: the twin; see :func:`lightning_qsgd.quantum.replace_circuits`.

    Raises:
        NoTwinError: in ``setup``, a ValueError, if the model has no such twin, or is sharded by ModelParallelStrategy;
            at the start of a stage, if the model was built again.
    """

    def __init__(self, kind: LayerTwin) -> None:
        self.kind: LayerTwin = kind

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Build the model if it is not built yet, and replace its layers."""
        from lightning_qsgd.quantum.layer_twins import replace_circuits

        if pl_module.device_mesh is not None:
            raise NoTwinError(
                f"Invalid replace_circuits: {self.kind!r}; ModelParallelStrategy shards the model while it is built, "
                "before circuits can be replaced: use another trainer.strategy, such as ddp"
            )
        if is_overridden("configure_model", pl_module):
            with trainer.strategy.tensor_init_context(), trainer.precision_plugin.module_init_context():
                pl_module.configure_model()
        for replaced in replace_circuits(pl_module, self.kind):
            if trainer.is_global_zero:
                print(replaced)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the twin."""
        checkpoint[SAVED] = self.kind

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the twins are still there."""
        self._check(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the twins are still there."""
        self._check(pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the twins are still there."""
        self._check(pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the twins are still there."""
        self._check(pl_module)

    def _check(self, pl_module: L.LightningModule) -> None:
        from lightning_qsgd.quantum.layer_twins import circuits_of

        if built := circuits_of(pl_module):
            raise NoTwinError(
                f"Invalid replace_circuits: {self.kind!r}; {', '.join(built)} was built after circuits were replaced: "
                "build layers in __init__ or in configure_model, and only once (if self.model is not None: return)"
            )
