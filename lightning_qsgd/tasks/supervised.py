"""Supervised: trains a model of three parts on classes or numbers.

Shapes: B batch, C classes, K targets.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_qsgd.models.parts import ComposedModel, Part, PartName
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.optim.param_groups import Kind
from lightning_qsgd.tasks import numbers
from lightning_qsgd.tasks.batches import check_inputs, check_labels, check_targets, check_tokens
from lightning_qsgd.tasks.training import OptimizedTask, spread

Batch = dict[str, Any]
#: What the model and its predictions need to know about the data, from arguments, data module or checkpoint.
_OF_DATA = ("vocab_size", "input_shape", "num_classes", "num_targets", "target_mean", "target_scale")
#: Arguments that checkpoints do not hold.
_NOT_SAVED = ("head", "compile", "leave_out", "perturb", "optimizer", "scheduler")


class Supervised(OptimizedTask):
    """Train a model, encoder -> body -> head, to predict classes or numbers.

    It works with any data module whose batches are dicts of ``inputs`` (B, ...) float32, or of ``tokens`` (B, T) int64
    and optionally ``padding_mask`` (B, T) bool, True at padding; and of ``labels`` (B,) int64 or ``targets`` (B, K)
    float32, neither of which is needed at predict. With the attributes ``target_mean`` and ``target_scale`` (K numbers)
    the data module says that the targets are standardized: a target's value is mean + scale * standardized.

    For classes the loss is cross-entropy; for numbers it is the mean squared error of the standardized targets. The
    task logs ``train/loss`` of each step and ``train/loss_epoch``, its mean over the epoch; ``val/...`` and
    ``test/...`` are ``loss`` and

    - for classes, ``accuracy`` and macro ``f1``;
    - for numbers, ``mse`` and ``mae`` in the targets' units, averaged over them; ``r2``, averaged over them; and, if
      the batches have ``persistence`` (B, K), standardized like the targets, ``skill`` = 1 - MSE / MSE of persistence.

    Args:
        encoder: the first part: "identity", "linear", "mlp", "cnn", "recurrent", "quantum_lstm", "transformer", or a
            class that is called with the shape of one row of inputs (for tokens: with the number of token ids); see
            :class:`lightning_qsgd.models.ComposedModel`. Default: "identity".
        body: the second part, such as "circuit", :class:`lightning_qsgd.models.QuantumBody`: one of the same names, or
            a class that is called with (D,), the encoder's number of outputs. Default: "identity".
        head: the last layer, called with (number of features, number of classes or targets). Default:
            ``torch.nn.Linear``.
        input_shape: shape of one row of inputs. Default: the data module's ``input_shape``, or the checkpoint's.
        vocab_size: number of token ids, for tokens. Default: the data module's ``vocab_size``, or the checkpoint's.
        num_classes: number of classes C, at least 2. Default: the data module's ``num_classes``, or the checkpoint's.
        num_targets: number of targets K, at least 1, instead of classes. Default: the data module's ``num_targets``, or
            the checkpoint's.
        target_mean, target_scale: K numbers, of which the data module's targets are standardized. Default: the data
            module's ``target_mean`` and ``target_scale``, or the checkpoint's; otherwise 0 and 1.
        class_weights: weights of the classes in the training loss, C numbers of at least 0. "balanced" weights each
            class inversely to its frequency (the data module's ``class_counts``), 1 on average over the examples.
            Default: None, all 1.
        compile: whether torch.compile compiles the model. A dict is passed on as its arguments, such as
            {backend: aot_eager}. Checkpoints are the same either way. Default: False.
        leave_out: kinds of parameters that are not perturbed, of "norms", "biases" and "embeddings"; see
            :func:`lightning_qsgd.optim.perturbed_groups`. Default: none.
        perturb: regular expression; only parameters whose name it matches somewhere are perturbed. Default: all.
        optimizer: called with the parameters. Default:
            :class:`lightning_qsgd.optim.SuperpositionalGradientDescent`.
        scheduler: called with the optimizer. It is stepped after each optimizer step, so ``T_max`` and similar options
            count steps; ``lightning.pytorch.cli.ReduceLROnPlateau``, which has a ``monitor``, is stepped after each
            epoch. Default: None, a constant learning rate.

    Raises:
        ValueError: if inputs, labels or targets of a batch have another shape or type, or labels are out of range. In
            ``configure_model``, if neither the arguments nor the data module tell what the model needs, if the parts do
            not fit together, or if ``class_weights`` are not C numbers of at least 0.
    """

    def __init__(
        self,
        encoder: PartName | Callable[[Any], nn.Module] = "identity",
        body: PartName | Part = "identity",
        head: Callable[[int, int], nn.Module] = nn.Linear,
        input_shape: Sequence[int] | None = None,
        vocab_size: int | None = None,
        num_classes: int | None = None,
        num_targets: int | None = None,
        target_mean: Sequence[float] | None = None,
        target_scale: Sequence[float] | None = None,
        class_weights: list[float] | Literal["balanced"] | None = None,
        compile: bool | dict[str, Any] = False,
        leave_out: Sequence[Kind] = (),
        perturb: str | None = None,
        optimizer: OptimizerCallable = SuperpositionalGradientDescent,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        parts = {"encoder": encoder, "body": body}
        self.save_hyperparameters(ignore=[*_NOT_SAVED, *(name for name in parts if not isinstance(parts[name], str))])
        self.encoder: Any = encoder
        self.body: Any = body
        self.head = head
        self.compile_options, self.leave_out, self.perturb = compile, leave_out, perturb
        self.optimizer, self.scheduler = optimizer, scheduler
        self.model: nn.Module | None = None
        self.loss_weight: Tensor | None

    # ---- the model

    def configure_model(self) -> None:
        """Build the model and its metrics. What they need to know about the data is known by now."""
        if self.model is not None:
            return
        datamodule = getattr(self._trainer, "datamodule", None)
        self.find_sizes(datamodule)
        weights = self._class_weights(datamodule)
        self.register_buffer("loss_weight", None if weights is None else torch.tensor(weights), persistent=False)
        self.model = self.build_model()
        if self.compile_options is not False:
            options = {} if self.compile_options is True else self.compile_options
            for part in self._to_compile(self.model):
                part.compile(**options)
        if self.device_mesh is not None:
            spread(self.model, self._to_shard(self.model), self.device_mesh)
        if self.predicts_classes:
            classes = self.hparams["num_classes"]
            metrics = MetricCollection(
                {
                    "accuracy": MulticlassAccuracy(classes, average="micro"),
                    "f1": MulticlassF1Score(classes, average="macro"),
                }
            )
        else:
            metrics = numbers.number_metrics()
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
        # Means over examples. (Those of self.log round the average number of examples per rank down.) "disable" keeps
        # NaN, and ignores weights in torchmetrics 1.9.
        self.val_loss, self.test_loss = MeanMetric("disable"), MeanMetric("disable")

    @property
    def predicts_classes(self) -> bool:
        """Whether the model predicts classes, rather than numbers; known once it is built."""
        return self.hparams.get("num_targets") is None

    def find_sizes(self, datamodule: Any) -> None:
        """Take what the model needs to know about the data from the data module, unless it is given.

        Raises:
            ValueError: if it is unknown or ambiguous.
        """
        own = self.hparams
        given = {name for name in _OF_DATA if own.get(name) is not None}
        for name in {*_OF_DATA} - given:
            own[name] = getattr(datamodule, name, None)
        for name, other, kind in (
            ("input_shape", "vocab_size", None),
            ("num_classes", "num_targets", getattr(datamodule, "predicts", None)),
        ):
            if own[name] is None and own[other] is None:
                raise ValueError(
                    f"Invalid {name}: None; set it, or {other}, in the config (model.init_args.{name}), or give the "
                    "data module an attribute of that name"
                )
            if own[name] is not None and own[other] is not None:
                if kind not in ("classes", "numbers"):
                    raise ValueError(
                        f"Invalid {other}: {own[other]}, since {name} is {own[name]}; leave one of them out"
                    )
                dropped = other if kind == "classes" else name
                if dropped in given:
                    raise ValueError(
                        f"Invalid {dropped}: {own[dropped]}; the data module predicts {kind}: leave it out"
                    )
                own[dropped] = None
        own["input_shape"] = own["input_shape"] and list(own["input_shape"])  # as configurations have it
        if (count := own["num_targets"]) is None:
            return
        if own["class_weights"] is not None:
            raise ValueError(f"Invalid class_weights: {own['class_weights']}; the data have numbers, not classes")
        for name, default in (("target_mean", 0.0), ("target_scale", 1.0)):
            own[name] = [float(value) for value in own[name] or [default] * count]
            if len(own[name]) != count:
                raise ValueError(f"Invalid {name}: {own[name]}; it must be a number for each of {count} targets")

    def build_model(self) -> nn.Module:
        """The model, of the sizes in ``hparams``."""
        own = self.hparams
        shape = own["vocab_size"] if own["input_shape"] is None else tuple(own["input_shape"])
        outputs = own["num_classes"] if self.predicts_classes else own["num_targets"]
        return ComposedModel(shape, outputs, self.encoder, self.body, self.head)

    def _to_compile(self, model: Any) -> Sequence[nn.Module]:
        """The parts of the model that torch.compile compiles."""
        return [model]

    def _to_shard(self, model: Any) -> Sequence[nn.Module]:
        """The parts of the model that are sharded one by one, before the rest."""
        return []

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
        if weights is not None and not (
            len(weights) == classes and all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
        ):
            raise ValueError(
                f"Invalid class_weights: {weights}; it must be {classes} numbers of at least 0, not all 0, and finite"
            )
        return weights

    # ---- steps

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C), or standardized numbers (B, K), of a batch."""
        assert self.model is not None, "configure_model() builds the model; the Trainer calls it"
        if self.hparams.get("input_shape") is None:
            return self.model(batch["tokens"], batch.get("padding_mask"))
        return self.model(batch["inputs"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the loss of one batch."""
        size = self._check(batch, "training", batch_idx)  # the same on all ranks
        loss = self._loss(self(batch), batch, self.loss_weight)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and metrics of one validation batch."""
        self._check(batch, "validation", batch_idx)
        self._evaluate(batch, "val", self.val_metrics, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        """Log loss and metrics of one test batch.

        Returns:
            Logits (B, C); or for numbers a dict of ``predictions`` (B, K), ``targets`` (B, K) and, if the batch has it,
            ``persistence`` (B, K), in the targets' units, float64.
        """
        self._check(batch, "test", batch_idx)
        outputs = self._evaluate(batch, "test", self.test_metrics, self.test_loss)
        if self.predicts_classes:
            return outputs
        found = {"predictions": outputs, "targets": batch["targets"]}
        if "persistence" in batch:
            found["persistence"] = batch["persistence"]
        return {name: self._in_units(_columns(values)) for name, values in found.items()}

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (B, C), or numbers (B, K) in the targets' units, float64."""
        self._check_inputs(batch, f"prediction batch {batch_idx + 1}")
        outputs = self(batch)
        return outputs.softmax(-1) if self.predicts_classes else self._in_units(outputs)

    def _loss(self, outputs: Tensor, batch: Batch, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
        if self.predicts_classes:
            return F.cross_entropy(outputs, batch["labels"], weight, reduction=reduction)
        return F.mse_loss(outputs, _columns(batch["targets"]).to(outputs.dtype), reduction=reduction)

    def _check_inputs(self, batch: Any, place: str) -> int:
        """Check the inputs, and return the number of rows."""
        if self.hparams.get("input_shape") is None:
            check_tokens(batch, self.hparams["vocab_size"], place)
            return len(batch["tokens"])
        check_inputs(batch, self.hparams["input_shape"], place)
        return len(batch["inputs"])

    def _check(self, batch: Batch, stage: str, batch_idx: int) -> int:
        place = f"{stage} batch {batch_idx + 1}"
        size = self._check_inputs(batch, place)
        if self.predicts_classes:
            check_labels(batch, self.hparams["num_classes"], place, size)
        else:
            check_targets(batch, self.hparams["num_targets"], place, size)
        return size

    def _evaluate(self, batch: Batch, stage: str, metrics: MetricCollection, loss: Metric) -> Tensor:
        outputs = self(batch)
        if not loss.update_called:  # its state may be bfloat16 (bf16-true), or a tensor of an earlier inference mode
            loss.set_dtype(torch.promote_types(outputs.dtype, torch.float32)).reset()
        loss.update(self._loss(outputs.to(loss.dtype), batch, reduction="none"))
        self.log(f"{stage}/loss", loss)
        if self.predicts_classes:
            metrics.update(outputs, batch["labels"])
            self.log_dict(metrics, prog_bar=True)
            return outputs
        _, scale = self._units(outputs.device)
        persistence = batch.get("persistence")
        last = None if persistence is None else _columns(persistence)
        used = numbers.update(metrics, outputs, _columns(batch["targets"]), scale, last)
        self.log_dict({f"{metrics.prefix}{name}": metric for name, metric in used.items()}, prog_bar=True)
        return outputs

    def _in_units(self, standardized: Tensor) -> Tensor:
        """Standardized numbers (B, K) in the targets' units."""
        mean, scale = self._units(standardized.device)
        return mean + scale * standardized.to(scale.dtype)

    def _units(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and scale (K,) of the targets, in float64: squares of units such as 1e-30 are 0 in float32."""
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        mean, scale = (torch.tensor(self.hparams[f"target_{name}"], dtype=dtype) for name in ("mean", "scale"))
        return mean.to(device), scale.to(device)


def _columns(values: Tensor) -> Tensor:
    """Numbers (B,) or (B, K) as (B, K)."""
    return values[:, None] if values.ndim == 1 else values
