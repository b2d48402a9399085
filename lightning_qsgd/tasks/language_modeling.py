"""CausalLanguageModeling: fine-tunes a pretrained language model on prompts with answers.

Shapes: B batch, T tokens, V vocabulary.
"""

import copy
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn import functional as F
from torchmetrics import Metric

from lightning_qsgd.datamodules.tokenizer import explain_hub_error, import_transformers, load_tokenizer, padding_token
from lightning_qsgd.files import atomic_folder
from lightning_qsgd.optim import SuperpositionalGradientDescent
from lightning_qsgd.optim.coordinates import is_dtensor
from lightning_qsgd.optim.param_groups import Kind
from lightning_qsgd.tasks.batches import check_tokens
from lightning_qsgd.tasks.training import OptimizedTask, spread

Batch = dict[str, Any]
Dtype = Literal["float32", "bfloat16"]
#: The reported means: over the tokens that are trained on, all tokens, and those of the answer.
_LOSSES = ("loss", "loss_full", "loss_answer")
_IGNORED = -100
_MASKS = {"padding_mask": True, "answer_mask": True, "loss_mask": True}
_BATCH = (
    "a batch is a dict of tokens (B, T) int64, and of padding_mask, answer_mask and loss_mask (B, T) bool; to generate "
    "answers also of prompt_tokens (B, P) and prompt_padding_mask (B, P)"
)
_OTHER_TOKENIZER = "take the tokenizer of this model (data.tokenizer: null)"


class WeightedMean(Metric):
    """The mean over all updates and ranks. It keeps NaN."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, total: Tensor, weight: Tensor | float) -> None:
        """Add the sum ``total`` of ``weight`` values."""
        # Not in place: bf16-true casts the zeros to bfloat16, and an addition makes them float32 again.
        self.total = self.total + total.float()
        self.weight = self.weight + torch.as_tensor(weight, dtype=torch.float32, device=total.device)

    def compute(self) -> Tensor:
        """The mean; NaN without values."""
        return self.total / self.weight


class CausalLanguageModeling(OptimizedTask):
    """Fine-tune a pretrained causal language model with next-token cross-entropy, computed in float32.

    It works with any data module whose batches are dicts of

    - ``tokens`` (B, T) int64, padded on the right,
    - ``padding_mask`` (B, T) bool, True at padding,
    - ``answer_mask`` (B, T) bool, True at the tokens of the answer, including its end token,
    - ``loss_mask`` (B, T) bool, True at the tokens that are trained on as targets,
    - for test and predict ``prompt_tokens`` (B, P) and ``prompt_padding_mask`` (B, P), padded on the left, and lists
      ``prompt`` and ``answer`` of B texts.

    The data module needs a method ``is_correct(generated, row)``; ``row`` holds one example's values of the lists.

    The loss of a batch is the mean over its target tokens. It logs

    - ``train/loss``: the loss of each step,
    - ``train/loss_epoch``: its mean over the batches of the epoch (with batches of 1, the paper's training loss),
    - ``train/loss_full``, ``train/loss_answer``: the same means with all tokens except the first as targets, or those
      of the answer, whichever tokens are trained on,
    - ``val/...`` and ``test/...``: means over all target tokens of the split, and ``perplexity``, exp of ``loss_full``,
    - ``test/exact_match``: the share of generated answers (greedy decoding) that the data module finds correct.

    At the end of fit, weights, configuration and tokenizer are saved as transformers does, to the folder ``model/`` in
    the run folder. ``pretrained`` accepts this folder.

    Args:
        pretrained: a folder, or a name on the Hugging Face hub.
        dtype: "float32" or "bfloat16", the dtype of the weights. bfloat16 takes half the memory, but steps below 0.2 %
            of a weight round to nothing. Mixed precision is an option of the trainer and keeps weights in float32.
            Default: "float32".
        gradient_checkpointing: whether the backward pass recomputes each layer, which saves memory. Default: False.
        max_new_tokens: largest number of tokens in a generated answer, at least 1. Default: 256.
        save_pretrained: whether to write the folder ``model/`` at the end of fit. Default: True.
        leave_out: kinds of parameters that are not perturbed, of "norms", "biases" and "embeddings"; see
            :func:`lightning_qsgd.optim.perturbed_groups`. Default: none.
        perturb: regular expression; only parameters whose name it matches somewhere are perturbed. Default: all.
        optimizer: called with the parameters. Default:
            :class:`lightning_qsgd.optim.SuperpositionalGradientDescent`.
        scheduler: called with the optimizer; it is stepped after each optimizer step. Default: None, a constant
            learning rate.

    Raises:
        ValueError: if an option is invalid, or token ids of a batch are out of range or have another shape or type. In
            ``configure_model``, if the model cannot be loaded or is not a causal language model.
        ImportError: if transformers (extra ``llm``) is not installed.
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
        self.save_hyperparameters("dtype")  # a checkpoint does not name the model; it holds its weights
        self.pretrained, self.dtype_name, self.gradient_checkpointing = pretrained, dtype, gradient_checkpointing
        self.max_new_tokens, self.saves = max_new_tokens, save_pretrained
        self.leave_out, self.perturb, self.optimizer, self.scheduler = leave_out, perturb, optimizer, scheduler
        self.model: Any = None
        self.means = nn.ModuleDict()

    def configure_model(self) -> None:
        """Load the pretrained model, or only its configuration if a checkpoint will restore the weights."""
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
            names = set(self.model._no_split_modules or ())  # the classes of its blocks
            blocks = [part for part in self.model.modules() if type(part).__name__ in names]
            spread(self.model, blocks, self.device_mesh)
        names = [f"{stage}/{name}" for stage in ("train", "val", "test") for name in _LOSSES]
        # Means over tokens or steps. (Those of self.log round the average number per rank down.)
        self.means = nn.ModuleDict({_key(name): WeightedMean() for name in [*names, "test/exact_match"]})

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the data module, or else of the pretrained model."""
        own = getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)
        return load_tokenizer(self.pretrained) if own is None else own

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) of a batch; those at token t predict token t + 1."""
        assert self.model is not None, "configure_model() loads the model; the Trainer calls it"
        return self.model(batch["tokens"], attention_mask=~batch["padding_mask"], use_cache=False).logits

    def token_losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each token given those before it, (B, T) float32; 0 for the first and at padding."""
        targets = batch["tokens"].masked_fill(batch["padding_mask"], _IGNORED)
        targets = F.pad(targets[:, 1:], (0, 1), value=_IGNORED)
        # The targets are shifted, not the logits: they are the largest tensor, and need no copy this way.
        each = F.cross_entropy(
            self(batch).flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=_IGNORED
        )
        return F.pad(each.view_as(targets)[:, :-1], (1, 0))

    def _sums(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum of token losses and number of tokens for each reported mean."""
        each = self.token_losses(batch)[:, 1:]  # the first token has no loss
        real = ~batch["padding_mask"]
        masks = [mask[:, 1:] for mask in (batch["loss_mask"] & real, real, batch["answer_mask"] & real)]
        return {name: ((each * mask).sum(), mask.sum()) for name, mask in zip(_LOSSES, masks, strict=True)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the loss of one batch."""
        self._check(batch, f"training batch {batch_idx + 1}")
        sums = self._sums(batch)
        losses = {name: total / count.clamp(min=1) for name, (total, count) in sums.items()}
        self.log("train/loss", losses["loss"], on_step=True, on_epoch=False, prog_bar=True)
        for name, loss in losses.items():  # a batch without target tokens is not counted
            logged = "train/loss_epoch" if name == "loss" else f"train/{name}"
            self._log_mean(f"train/{name}", loss.detach(), sums[name][1].clamp(max=1), logged)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of one validation batch."""
        self._check(batch, f"validation batch {batch_idx + 1}")
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
        """Log losses and exact matches of one test batch; return "rows", one per example: id, ..., correct."""
        self._check(batch, f"test batch {batch_idx + 1}")
        self._check_prompts(batch, f"test batch {batch_idx + 1}")
        self._evaluate(batch, "test")
        lists = {name: values for name, values in batch.items() if isinstance(values, list)}
        rows = [{name: values[i] for name, values in lists.items()} for i in range(len(batch["tokens"]))]
        is_correct = self.trainer.datamodule.is_correct  # type: ignore[attr-defined]
        for row, text in zip(rows, self.generate(batch), strict=True):
            row |= {"generated": text, "correct": bool(is_correct(text, row))}
        right = torch.tensor(float(sum(row["correct"] for row in rows)), device=self.device)
        self._log_mean("test/exact_match", right, len(rows))
        self._say_progress(batch_idx)
        return {"rows": rows}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """Generated answers of a batch, B texts."""
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
        """Generate B answers by greedy decoding, each up to its end token or ``max_new_tokens``."""
        tokenizer = self.tokenizer
        greedy = copy.deepcopy(self.model.generation_config)
        end = greedy.eos_token_id
        ends = {tokenizer.eos_token_id, *(end if isinstance(end, (list, tuple)) else [end])} - {None}
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
        """Save the folder ``model/``, unless ``save_pretrained`` is False.

        Raises:
            OSError: if it cannot be written, for example on a full disk. Checkpoints are not affected.
        """
        if self.saves and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_model(Path(self.trainer.default_root_dir) / "model")

    def save_model(self, folder: str | Path) -> None:
        """Save weights, configuration and tokenizer so that transformers can load them.

        It must be called on all ranks: the parts of sharded weights come together on rank 0, which writes. The folder
        appears complete, or is not changed.

        Raises:
            OSError: if it cannot be written, for example on a full disk.
        """
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        sharded = any(is_dtensor(p) for p in self.model.parameters())
        weights = get_model_state_dict(self.model, options=whole) if sharded else None
        tokenizer = self.tokenizer
        if self.global_rank == 0:
            with atomic_folder(Path(folder)) as temporary:
                self.model.save_pretrained(temporary, state_dict=weights)
                tokenizer.save_pretrained(temporary)

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
        value = self._mean(f"{stage}/loss_full").compute().exp()  # over all ranks
        self.log(f"{stage}/perplexity", value, sync_dist=True)  # the same on all ranks

    def _say_progress(self, batch_idx: int) -> None:
        """Print the exact matches ten times in a test: generation is slow, and its progress bar shows no metrics."""
        batches = self.trainer.num_test_batches[0]
        if isinstance(batches, int) and batches >= 10 and (batch_idx + 1) % (batches // 10) == 0:
            mean = self._mean("test/exact_match")
            self.print(f"exact match so far: {int(mean.total)} of {int(mean.weight)}")


def _key(name: str) -> str:
    return name.replace("/", "_")


def load_causal_model(name: str, dtype: torch.dtype, weights: bool = True) -> Any:
    """Load a transformers model on the CPU, in training mode, with attention by ``scaled_dot_product_attention``.

    Args:
        name: a folder, or a name on the Hugging Face hub. Its code does not run (``trust_remote_code`` is off).
        dtype: dtype of the weights.
        weights: whether to load the weights; if False, they are random, for a checkpoint to restore. Default: True.

    Raises:
        ValueError: if it is not a causal language model, or cannot be found or read; the message says what to do.
        ImportError: if transformers is not installed.
    """
    transformers: Any = import_transformers()
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
    missing: set[str] = set()
    try:
        with torch.device("cpu"):  # with another default device transformers requires accelerate
            if weights:
                model, info = transformers.AutoModelForCausalLM.from_pretrained(
                    name, output_loading_info=True, **options
                )
                missing = set(info["missing_keys"])
            else:
                config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
                model = transformers.AutoModelForCausalLM.from_config(config, **options)
                with suppress(OSError):  # it names the tokens that end a text; some models have none
                    model.generation_config = transformers.GenerationConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise explain_hub_error(name, error) from error
    if missing:  # transformers draws them at random, with a warning
        raise ValueError(
            f"Invalid pretrained: {name!r} holds no causal language model: it lacks {', '.join(sorted(missing)[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; use one whose config.json names an architecture ...ForCausalLM"
        )
    for part in model.modules():
        tables = {name: part.get_buffer(name) for name in part._non_persistent_buffers_set}
        if tables := {name: table for name, table in tables.items() if table.dtype == torch.float32}:
            part.register_forward_pre_hook(_Unrounded(tables))
    return model.train()


class _Unrounded:
    """A forward pre-hook that restores a layer's float32 tables.

    Precisions such as bf16-true cast all buffers. Rotary frequencies with 8 bits would encode other positions.
    """

    def __init__(self, tables: dict[str, torch.Tensor]) -> None:
        self.tables = {name: table.clone() for name, table in tables.items()}

    def __call__(self, part: nn.Module, arguments: Any) -> None:
        for name, table in self.tables.items():
            if (now := part.get_buffer(name)).element_size() < table.element_size():
                setattr(part, name, table.to(now.device))
