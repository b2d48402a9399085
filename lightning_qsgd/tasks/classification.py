"""SequenceClassification: trains the transformer classifier."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.models.transformer import AttentionName
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.optim.param_groups import Kind
from lightning_qsgd.tasks.supervised import Supervised

_SIZES = (
    "vocab_size", "num_classes", "embed_dim", "num_heads", "feedforward_dim", "num_layers", "dropout", "max_length",
)  # fmt: skip
#: Arguments that checkpoints do not hold, of this class and of Supervised.
_NO_SIZES = (
    "head", "attention", "quantum_layers", "checkpoint_activations", "compile", "leave_out", "optimizer", "scheduler",
    "encoder", "body", "input_shape", "num_targets", "target_mean", "target_scale", "perturb",
)  # fmt: skip


class SequenceClassification(Supervised):
    """Train a :class:`lightning_qsgd.models.TransformerClassifier` with cross-entropy on class labels.

    It is :class:`Supervised` with the paper's model.

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
        super().__init__(
            head=head,
            vocab_size=vocab_size,
            num_classes=num_classes,
            class_weights=class_weights,
            compile=compile,
            leave_out=leave_out,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=_NO_SIZES)
        self.attention: Any = attention
        self.quantum_layers = quantum_layers
        self.checkpoint_activations = checkpoint_activations

    def find_sizes(self, datamodule: Any) -> None:
        """Take the numbers of token ids and classes from the data module, unless they are given.

        Raises:
            ValueError: if one is unknown.
        """
        for name in ("vocab_size", "num_classes"):
            if self.hparams[name] is None:
                self.hparams[name] = getattr(datamodule, name, None)
            if self.hparams[name] is None:
                raise ValueError(
                    f"Invalid {name}: None; set it in the config (model.init_args.{name}), or give the data module an "
                    "attribute of that name"
                )

    def build_model(self) -> TransformerClassifier:
        """The transformer, of the sizes in ``hparams``."""
        return TransformerClassifier(
            **{name: self.hparams[name] for name in _SIZES},
            head=self.head,
            attention=self.attention,
            quantum_layers=self.quantum_layers,
            checkpoint_activations=self.checkpoint_activations,
        )

    def _to_compile(self, model: TransformerClassifier) -> Sequence[nn.Module]:
        """The model; or its blocks, as with the backend "eager" checkpointing recomputes with other dropout masks."""
        return [*model.blocks] if self.checkpoint_activations else [model]

    def _to_shard(self, model: TransformerClassifier) -> Sequence[nn.Module]:
        """The blocks."""
        return [*model.blocks]
