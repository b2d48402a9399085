"""CausalLanguageModeling: fine-tuning of a pretrained language model on prompts with answers.

Shapes: B batch, T tokens, V vocabulary.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from lightning_qsgd.datamodules.tokenizer import load_tokenizer, padding_token
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.optim.param_groups import Kind
from lightning_qsgd.tasks.batches import check_tokens
from lightning_qsgd.tasks.pretrained import blocks, load_causal_model, save_folder
from lightning_qsgd.tasks.training import OptimizedTask, spread

Batch = dict[str, Any]
Dtype = Literal["float32", "bfloat16"]
#: The means over tokens that are reported: over those trained on, all, and those of the answer.
_LOSSES = ("loss", "loss_full", "loss_answer")
_IGNORED = -100
_MASKS = {"padding_mask": True, "answer_mask": True, "loss_mask": True}
_BATCH = (
    "a batch is a dict of tokens (B, T) int64, and of padding_mask, answer_mask and loss_mask (B, T) bool; to generate "
    "answers also of prompt_tokens (B, P) and prompt_padding_mask (B, P)"
)
_OTHER_TOKENIZER = "take the tokenizer of this model (data.tokenizer: null)"


class WeightedMean(Metric):
    """A mean over all updates and ranks; NaN stays NaN."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, total: Tensor, weight: Tensor | float) -> None:
        """Add a sum of ``weight`` values. Not in place: bf16-true casts the zeros, and float32 comes back so."""
        self.total = self.total + total.float()
        self.weight = self.weight + torch.as_tensor(weight, dtype=torch.float32, device=total.device)

    def compute(self) -> Tensor:
        """The mean; NaN without values."""
        return self.total / self.weight


class CausalLanguageModeling(OptimizedTask):
    """Next-token cross-entropy of a pretrained model, in float32; at test its own answers too (greedy decoding).

    Takes any data module whose batches are dicts of ``tokens`` (B, T) int64, padded on the right, ``padding_mask``
    (B, T) bool (True at padding), ``answer_mask`` (B, T) bool (True at tokens of the answer, its end token included)
    and ``loss_mask`` (B, T) bool (the tokens that are trained on as targets); for test and predict also
    ``prompt_tokens`` (B, P) and ``prompt_padding_mask`` (B, P), padded on the left, and lists of B texts ``prompt``,
    ``answer``. It must have ``is_correct(generated, row)``, where row holds what the batch's lists say of one example.

    Losses: that of a batch is the mean over its target tokens. ``train/loss`` is what is trained on, in each step;
    ``train/loss_epoch`` its mean over the epoch's batches, each counted once (with batches of 1 that is what the paper
    calls the training loss); ``train/loss_full`` and ``train/loss_answer`` are the same means where all tokens but the
    first, or those of the answer, are the targets, whatever is trained on. ``val/...`` and ``test/...`` are means over
    all target tokens of the split; ``perplexity`` is exp of ``loss_full``. ``test/exact_match`` is the share of
    generated answers that the data module finds correct.

    At the end of fit the folder ``model/`` in the run folder holds weights, configuration and tokenizer as
    transformers saves them; ``pretrained`` takes it.

    Args:
        pretrained: a folder, or a name on the Hugging Face hub.
        dtype: of the weights: "float32" (default), "bfloat16" (half the memory; a step below 0.2 % of a weight rounds
            to nothing). Mixed precision is the trainer's: it keeps weights in float32.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping it. Default: False.
        max_new_tokens: longest generated answer, in tokens, at least 1. Default: 256.
        save_pretrained: write the folder ``model/`` at the end of fit. Default: True.
        leave_out: what the perturbation leaves alone, some of "norms", "biases", "embeddings" (see
            :func:`lightning_qsgd.optim.perturbed_groups`). Default: nothing.
        perturb: a regular expression; only parameters whose name it matches somewhere are perturbed. Default: all.
        optimizer: called with the parameters. Default: :class:`SuperpositionalGradientDescent`.
        scheduler: called with the optimizer; stepped after each optimizer step. Default: a constant learning rate.

    Raises:
        ValueError: for an invalid value; for a batch with token ids out of range, or of other shapes or types; in
            ``configure_model`` for a model that cannot be had or is none of this kind.
        ImportError: without the extra ``llm``, that is transformers.
    """

    summary_metrics = ("train/loss_epoch", "train/loss_full", "train/loss_answer")

    def __init__(
        self,
        pretrained: str,
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        max_new_tokens: int = 256,
        save_pretrained: bool = True,
        leave_out: Sequence[Kind] = (),
        perturb: str | None = None,
        optimizer: OptimizerCallable = SuperpositionalGradientDescent,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if dtype not in get_args(Dtype):
            raise ValueError(
                f"Invalid dtype: {dtype!r}; it must be float32 or bfloat16 (float16 weights cannot be trained: "
                "--trainer.precision 16-mixed computes in float16 with weights in float32)"
            )
        if max_new_tokens < 1:
            raise ValueError(f"Invalid max_new_tokens: {max_new_tokens}; it must be at least 1")
        self.save_hyperparameters("dtype")  # a checkpoint names no model: what it brings are weights
        self.pretrained, self.dtype_name, self.gradient_checkpointing = pretrained, dtype, gradient_checkpointing
        self.max_new_tokens, self.saves = max_new_tokens, save_pretrained
        self.leave_out, self.perturb, self.optimizer, self.scheduler = leave_out, perturb, optimizer, scheduler
        self.model: Any = None
        self.means = nn.ModuleDict()

    def configure_model(self) -> None:
        """Load the pretrained model; where a checkpoint will bring the weights, only its configuration."""
        if self.model is not None:
            return
        precision = str(self._trainer.precision) if self._trainer else "32-true"
        if self.dtype_name != "float32" and "mixed" in precision:
            raise ValueError(
                f"Invalid dtype: {self.dtype_name!r}; with trainer.precision {precision} weights stay float32. Use "
                "--trainer.precision 32-true with it, or leave it out"
            )
        dtype = torch.bfloat16 if precision == "bf16-true" else getattr(torch, self.dtype_name)
        resumed = self._trainer is not None and self._trainer.ckpt_path is not None
        self.model = load_causal_model(self.pretrained, dtype, weights=not resumed)
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.device_mesh is not None:
            spread(self.model, blocks(self.model), self.device_mesh)
        names = [f"{stage}/{name}" for stage in ("train", "val", "test") for name in _LOSSES]
        # Means over tokens, or steps; self.log's own, over ranks, rounds their average number down.
        self.means = nn.ModuleDict({_key(name): WeightedMean() for name in [*names, "test/exact_match"]})

    @property
    def tokenizer(self) -> Any:
        """The data module's, or else that of the pretrained model."""
        own = getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)
        return load_tokenizer(self.pretrained) if own is None else own

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V) logits: at token t those of token t + 1."""
        assert self.model is not None, "configure_model() loads the model; the Trainer calls it"
        return self.model(batch["tokens"], attention_mask=~batch["padding_mask"], use_cache=False).logits

    def token_losses(self, batch: Batch) -> Tensor:
        """(B, T) cross-entropy of each token given those before it, float32; 0 for the first and at padding."""
        targets = batch["tokens"].masked_fill(batch["padding_mask"], _IGNORED)
        targets = F.pad(targets[:, 1:], (0, 1), value=_IGNORED)
        # Targets move, and the logits, which are the largest tensor of all, are neither cut nor copied.
        each = F.cross_entropy(
            self(batch).flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=_IGNORED
        )
        return F.pad(each.view_as(targets)[:, :-1], (1, 0))

    def _sums(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum of token losses and number of tokens, for each of the reported means."""
        each = self.token_losses(batch)
        real = ~batch["padding_mask"]
        masks = (batch["loss_mask"] & real, real, batch["answer_mask"] & real)
        return {name: _sum(each, mask[:, 1:]) for name, mask in zip(_LOSSES, masks, strict=True)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        self._check(batch, f"training batch {batch_idx + 1}")
        sums = self._sums(batch)
        losses = {name: total / count.clamp(min=1) for name, (total, count) in sums.items()}
        self.log("train/loss", losses["loss"], on_step=True, on_epoch=False, prog_bar=True)
        for name, loss in losses.items():  # a batch without such a token is not counted
            logged = "train/loss_epoch" if name == "loss" else f"train/{name}"
            self._log_mean(f"train/{name}", loss.detach(), sums[name][1].clamp(max=1), logged)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses of one validation batch."""
        self._check(batch, f"validation batch {batch_idx + 1}")
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
        """Losses and generated answers of one test batch; returns "rows", one for each example: id, ..., correct."""
        self._check(batch, f"test batch {batch_idx + 1}")
        self._check_prompts(batch, f"test batch {batch_idx + 1}")
        self._evaluate(batch, "test")
        rows = [{name: values[i] for name, values in _lists(batch).items()} for i in range(len(batch["tokens"]))]
        is_correct = self.trainer.datamodule.is_correct  # type: ignore[attr-defined]
        for row, text in zip(rows, self.generate(batch), strict=True):
            row |= {"generated": text, "correct": bool(is_correct(text, row))}
        right = torch.tensor(float(sum(row["correct"] for row in rows)), device=self.device)
        self._log_mean("test/exact_match", right, len(rows))
        self._say_progress(batch_idx)
        return {"rows": rows}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """B generated answers."""
        self._check_prompts(batch, f"prediction batch {batch_idx + 1}")
        return self.generate(batch)

    def _check(self, batch: Batch, place: str) -> None:
        check_tokens(batch, self._vocab_size, place, masks=_MASKS, contract=_BATCH, way_out=_OTHER_TOKENIZER)

    def _check_prompts(self, batch: Batch, place: str) -> None:
        masks = {"prompt_padding_mask": True}
        check_tokens(batch, self._vocab_size, place, "prompt_tokens", masks, _BATCH, _OTHER_TOKENIZER)

    @property
    def _vocab_size(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    def generate(self, batch: Batch) -> list[str]:
        """The most probable token, again and again, up to the end token or ``max_new_tokens``; B texts."""
        tokenizer = self.tokenizer
        greedy = copy.deepcopy(self.model.generation_config)
        ends = {tokenizer.eos_token_id, *_as_list(greedy.eos_token_id)} - {None}
        greedy.update(do_sample=False, num_beams=1, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0)
        greedy.update(max_new_tokens=self.max_new_tokens, max_length=None, use_cache=True)
        greedy.update(eos_token_id=sorted(ends), pad_token_id=padding_token(tokenizer))
        prompts = batch["prompt_tokens"]
        with torch.no_grad():
            mask = ~batch["prompt_padding_mask"]
            tokens = self.model.generate(prompts, attention_mask=mask, generation_config=greedy)
        return tokenizer.batch_decode(tokens[:, prompts.shape[1] :], skip_special_tokens=True)

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity."""
        self._log_perplexity("val")

    def on_test_epoch_end(self) -> None:
        """Log the perplexity."""
        self._log_perplexity("test")

    def on_fit_end(self) -> None:
        """Save the folder that transformers loads.

        Raises:
            OSError: if it cannot be written, for example on a full disk; the checkpoints are as they were.
        """
        if self.saves and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_model(Path(self.trainer.default_root_dir) / "model")

    def save_model(self, folder: str | Path) -> None:
        """Save weights, configuration and tokenizer as transformers does; called on all ranks, rank 0 writes."""
        save_folder(self.model, self.tokenizer, Path(folder), write=self.global_rank == 0)

    def _evaluate(self, batch: Batch, stage: str) -> None:
        for name, (total, count) in self._sums(batch).items():
            self._log_mean(f"{stage}/{name}", total, count)

    def _log_mean(self, name: str, total: Tensor, weight: Tensor | float, logged: str | None = None) -> None:
        mean = self._mean(name)
        mean.update(total, weight)
        self.log(logged or name, mean, on_step=False, on_epoch=True, prog_bar=True)

    def _mean(self, name: str) -> WeightedMean:
        mean = self.means[_key(name)]
        assert isinstance(mean, WeightedMean)
        return mean

    def _log_perplexity(self, stage: str) -> None:
        value = self._mean(f"{stage}/loss_full").compute().exp()  # asks all ranks
        self.log(f"{stage}/perplexity", value, sync_dist=True)  # the same on all ranks

    def _say_progress(self, batch_idx: int) -> None:
        """Ten times in a test: generation takes long, and bars show no numbers there."""
        batches = self.trainer.num_test_batches[0]
        if isinstance(batches, int) and batches >= 10 and (batch_idx + 1) % (batches // 10) == 0:
            mean = self._mean("test/exact_match")
            self.print(f"exact match so far: {int(mean.total)} of {int(mean.weight)}")


def _key(name: str) -> str:
    return name.replace("/", "_")


def _sum(each: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of (B, T) losses, those of (B, T - 1) targets: the first token has no loss."""
    return (each[:, 1:] * mask).sum(), mask.sum()


def _lists(batch: Batch) -> dict[str, list[Any]]:
    return {name: values for name, values in batch.items() if isinstance(values, list)}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
