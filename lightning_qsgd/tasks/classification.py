"""SequenceClassification: trains the transformer classifier.

Shapes: B batch, T tokens, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.models.transformer import AttentionName
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.optim.param_groups import Kind
from lightning_qsgd.tasks.batches import check_labels, check_tokens
from lightning_qsgd.tasks.training import OptimizedTask, spread

Batch = dict[str, Any]
_SIZES = (
    "vocab_size", "num_classes", "embed_dim", "num_heads", "feedforward_dim", "num_layers", "dropout", "max_length",
)  # fmt: skip
#: Arguments that checkpoints do not hold.
_NO_SIZES = (
    "head", "attention", "quantum_layers", "checkpoint_activations", "compile", "leave_out", "optimizer", "scheduler",
)  # fmt: skip


class SequenceClassification(OptimizedTask):
    """Train a :class:`lightning_qsgd.models.TransformerClassifier` with cross-entropy on class labels.

    It works with any data module whose batches are dicts of ``tokens`` (B, T) int64, optionally ``padding_mask`` (B, T)
    bool (True at padding), and ``labels`` (B,) int64 (not needed at predict).

    It logs ``train/loss`` of each step and ``train/loss_epoch``, its mean over the epoch; ``val/...`` and ``test/...``
    are ``loss``, ``accuracy`` and macro ``f1``.

    Args:
        vocab_size: number of token ids. Default: the data module's ``vocab_size``, or the checkpoint's.
        num_classes: number of classes C, at least 2. Default: the data module's ``num_classes``, or the checkpoint's.
        embed_dim, num_heads, feedforward_dim, num_layers, dropout, max_length: see
            :class:`lightning_qsgd.models.TransformerClassifier`. The defaults are those of arXiv 2511.01918, Table II.
        class_weights: weights of the classes in the training loss, C numbers of at least 0. "balanced" weights each
            class inversely to its frequency (the data module's ``class_counts``), 1 on average over the examples.
            Default: None, all 1.
        head: the last layer, called with (embed_dim, num_classes), such as :class:`lightning_qsgd.models.QuantumHead`.
            Default: ``torch.nn.Linear``.
        attention: "classical", "quantum", or a class that is called with (embed_dim, num_heads, dropout), such as
            :class:`lightning_qsgd.models.QuantumAttention` with other options. Default: "classical".
        quantum_layers: the blocks with this attention, from 0; the others are classical. Default: all.
        checkpoint_activations: whether the backward pass recomputes each block, which saves memory. Default: False.
        compile: whether torch.compile compiles the model (each block, with ``checkpoint_activations``). A dict is
            passed on as its arguments, such as {backend: aot_eager}. Checkpoints are the same either way. Default:
            False.
        leave_out: kinds of parameters that are not perturbed, of "norms", "biases" and "embeddings"; see
            :func:`lightning_qsgd.optim.perturbed_groups`. Default: none.
        optimizer: called with the parameters. Default:
            :class:`lightning_qsgd.optim.SuperpositionalGradientDescent`.
        scheduler: called with the optimizer. It is stepped after each optimizer step, so ``T_max`` and similar options
            count steps; ``lightning.pytorch.cli.ReduceLROnPlateau``, which has a ``monitor``, is stepped after each
            epoch. Default: None, a constant learning rate.

    Raises:
        ValueError: if token ids or labels of a batch are out of range, or have another shape or type. In
            ``configure_model``, if neither the arguments nor the data module have ``vocab_size``, ``num_classes`` or a
            needed ``class_counts``, or if ``class_weights`` are not C numbers of at least 0.
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
        class_weights: list[float] | Literal["balanced"] | None = None,
        head: Callable[[int, int], nn.Module] = nn.Linear,
        attention: AttentionName | Callable[[int, int, float], nn.Module] = "classical",
        quantum_layers: Sequence[int] | None = None,
        checkpoint_activations: bool = False,
        compile: bool | dict[str, Any] = False,
        leave_out: Sequence[Kind] = (),
        optimizer: OptimizerCallable = SuperpositionalGradientDescent,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=_NO_SIZES)
        self.leave_out = leave_out
        self.attention: Any = attention
        self.quantum_layers = quantum_layers
        self.checkpoint_activations, self.compile_options = checkpoint_activations, compile
        self.head, self.optimizer, self.scheduler = head, optimizer, scheduler
        self.model: TransformerClassifier | None = None
        self.loss_weight: Tensor | None

    def configure_model(self) -> None:
        """Build the model and its metrics. The numbers of token ids and classes are known by now."""
        if self.model is not None:
            return
        datamodule = getattr(self._trainer, "datamodule", None)
        for name in ("vocab_size", "num_classes"):
            if self.hparams[name] is None:
                self.hparams[name] = getattr(datamodule, name, None)
            if self.hparams[name] is None:
                raise ValueError(
                    f"Invalid {name}: None; set it in the config (model.init_args.{name}), or give the data module an "
                    "attribute of that name"
                )
        weights = self._class_weights(datamodule)
        self.register_buffer("loss_weight", None if weights is None else torch.tensor(weights), persistent=False)
        self.model = TransformerClassifier(
            **{name: self.hparams[name] for name in _SIZES},
            head=self.head,
            attention=self.attention,
            quantum_layers=self.quantum_layers,
            checkpoint_activations=self.checkpoint_activations,
        )
        if self.compile_options is not False:
            options = {} if self.compile_options is True else self.compile_options
            # Blocks, because with the backend "eager" checkpointing within a graph recomputes with other dropout masks.
            for part in self.model.blocks if self.checkpoint_activations else [self.model]:
                part.compile(**options)
        if self.device_mesh is not None:
            spread(self.model, self.model.blocks, self.device_mesh)
        classes = self.hparams["num_classes"]
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
            }
        )
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
        # Means over examples. (Those of self.log round the average number of examples per rank down.) "disable" keeps
        # NaN, and ignores weights in torchmetrics 1.9.
        self.val_loss, self.test_loss = MeanMetric("disable"), MeanMetric("disable")

    def _class_weights(self, datamodule: Any) -> list[float] | None:
        weights, classes = self.hparams["class_weights"], self.hparams["num_classes"]
        if weights == "balanced":
            counts = getattr(datamodule, "class_counts", None)
            if not counts:
                raise ValueError(
                    "Invalid class_weights: 'balanced' needs a data module with class_counts; give numbers"
                )
            weights = [sum(counts) / (classes * count) for count in counts]
            self.hparams["class_weights"] = weights
        if weights is not None and (len(weights) != classes or min(weights) < 0):
            raise ValueError(f"Invalid class_weights: {weights}; it must be {classes} numbers of at least 0")
        return weights

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        assert self.model is not None, "configure_model() builds the model; the Trainer calls it"
        return self.model(batch["tokens"], batch.get("padding_mask"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the loss of one batch."""
        self._check(batch, "training", batch_idx)
        loss = F.cross_entropy(self(batch), batch["labels"], self.loss_weight)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        size = len(batch["labels"])  # the same on all ranks
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and metrics of one validation batch."""
        self._check(batch, "validation", batch_idx)
        self._evaluate(batch, "val", self.val_metrics, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log loss and metrics of one test batch; return its logits (B, C)."""
        self._check(batch, "test", batch_idx)
        return self._evaluate(batch, "test", self.test_metrics, self.test_loss)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (B, C) of a batch."""
        check_tokens(batch, self.hparams["vocab_size"], f"prediction batch {batch_idx + 1}")
        return self(batch).softmax(-1)

    def _check(self, batch: Batch, stage: str, batch_idx: int) -> None:
        place = f"{stage} batch {batch_idx + 1}"
        check_tokens(batch, self.hparams["vocab_size"], place)
        check_labels(batch, self.hparams["num_classes"], place)

    def _evaluate(self, batch: Batch, stage: str, metrics: MetricCollection, loss: Metric) -> Tensor:
        logits = self(batch)
        metrics.update(logits, batch["labels"])
        if not loss.update_called:  # its state may be bfloat16 (bf16-true), or a tensor of an earlier inference mode
            loss.set_dtype(torch.promote_types(logits.dtype, torch.float32)).reset()
        loss.update(F.cross_entropy(logits.to(loss.dtype), batch["labels"], reduction="none"))
        self.log(f"{stage}/loss", loss)
        self.log_dict(metrics, prog_bar=True)
        return logits
