"""SequenceClassification: the transformer classifier as a LightningModule.

Shapes: B batch, T tokens, C classes.
"""

import os
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.optim import SuperpositionalGradientDescent

Batch = dict[str, Tensor]


class SequenceClassification(L.LightningModule):
    """Cross-entropy on class labels; logs loss, accuracy and macro F1.

    Takes any data module whose batches are dicts of ``tokens`` (B, T) int64, optionally ``padding_mask`` (B, T) bool
    (True at padding), and ``labels`` (B,) int64 (not needed at predict).

    Args:
        vocab_size: number of token ids. None (default): the data module's ``vocab_size``, or the checkpoint's.
        num_classes: C, at least 2. None (default): the data module's ``num_classes``, or the checkpoint's.
        embed_dim, num_heads, feedforward_dim, num_layers, dropout, max_length: see :class:`TransformerClassifier`; the
            defaults are those of arXiv 2511.01918, Table II.
        optimizer: called with the parameters. Default: :class:`SuperpositionalGradientDescent`.
        scheduler: called with the optimizer; stepped after each optimizer step. Default: a constant learning rate.

    Raises:
        ValueError: in ``configure_model``, if neither argument nor data module give vocab_size or num_classes.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        num_classes: int | None = None,
        embed_dim: int = 64,
        num_heads: int = 4,
        feedforward_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.1,
        max_length: int = 512,
        optimizer: OptimizerCallable = SuperpositionalGradientDescent,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.optimizer, self.scheduler = optimizer, scheduler
        self.model: TransformerClassifier | None = None

    def configure_model(self) -> None:
        """Build the model and its metrics, once vocabulary and classes are known."""
        if self.model is not None:
            return
        for name in ("vocab_size", "num_classes"):
            if self.hparams[name] is None:
                datamodule = getattr(self._trainer, "datamodule", None)
                self.hparams[name] = getattr(datamodule, name, None)
            if self.hparams[name] is None:
                raise ValueError(
                    f"Invalid {name}: None; set it in the config (model.init_args.{name}), or give the data module an "
                    f"attribute of that name"
                )
        self.model = TransformerClassifier(**self.hparams)
        classes = self.hparams["num_classes"]
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
            }
        )
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")

    def forward(self, batch: Batch) -> Tensor:
        """(B, C) logits of a batch."""
        assert self.model is not None, "configure_model() builds the model; the Trainer calls it"
        return self.model(batch["tokens"], batch.get("padding_mask"))

    def on_train_start(self) -> None:
        """Let the perturbation do its one-time work now, after a checkpoint has brought it or not."""
        for optimizer in self.trainer.optimizers:
            if isinstance(optimizer, SuperpositionalGradientDescent) and (line := optimizer.prepare()):
                self.print(line)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout from (seed, epoch, batch, rank): arms that draw differently stay paired, resumed runs repeat."""
        if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
            position = (int(seed), self.current_epoch, batch_idx, self.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = F.cross_entropy(self(batch), batch["labels"])
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of one test batch."""
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(B, C) class probabilities."""
        return self(batch).softmax(-1)

    def _evaluate(self, batch: Batch, stage: str, metrics: MetricCollection) -> None:
        logits = self(batch)
        metrics.update(logits, batch["labels"])
        loss = F.cross_entropy(logits, batch["labels"])
        self.log(f"{stage}/loss", loss, batch_size=len(logits), sync_dist=True)
        self.log_dict(metrics, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler where there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
