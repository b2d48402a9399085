"""Errors that say what to change: precisions that cannot train, and memory that ran out. Level 1."""

from collections.abc import Mapping
from typing import Any

import torch

_FLOAT16 = {"16-mixed": "16-mixed", "16": "16-mixed", "16-true": "16-true"}
# What torch, its CPU allocator, the operating system and the libraries of a GPU say.
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


def refuse_precision(precision: Any, accelerator: Any, training: bool) -> None:
    """Refuse what Lightning would replace by another precision with a warning, and what cannot train.

    Args:
        precision: the Trainer's argument, such as "16-mixed", or None.
        accelerator: the Trainer's argument, such as "auto" or "cpu".
        training: whether weights will be trained, or only evaluated.

    Raises:
        ValueError: for 16-mixed on a CPU (Lightning takes bfloat16 instead), and for training in 16-true: Adam's eps
            of 1e-8 is 0 in float16 and nothing scales the loss, so that weights become NaN within a few steps.
    """
    name = _FLOAT16.get(str(precision))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if name == "16-mixed" and on_cpu:
        raise ValueError(
            f"Invalid precision: {name}; float16 with a scaled loss needs a GPU, and this run is on the CPU. Use "
            "--trainer.precision bf16-mixed, or a machine with a GPU"
        )
    if name == "16-true" and training:
        raise ValueError(
            f"Invalid precision: {name}; Adam's eps of 1e-08 is 0 in float16, and weights become NaN. Use "
            f"--trainer.precision {'' if on_cpu else '16-mixed, '}bf16-mixed or bf16-true"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: a GPU's, or this machine's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in _OUT_OF_MEMORY)


def memory_advice(error: BaseException, config: Mapping[str, Any], training: bool) -> str:
    """One line: what ran out, and which settings save memory, with their present values.

    Args:
        error: what was raised.
        config: the whole configuration of the command, as plain values.
        training: whether weights were trained, or only evaluated.
    """
    said = " ".join(str(error).split())
    for words in _OUT_OF_MEMORY:  # torch puts the place in its sources before, and advice of its own behind
        if (start := said.find(words)) >= 0:
            said = said[start:].split(". If reserved")[0]
            break
    trainer, data, model = (config.get(name) or {} for name in ("trainer", "data", "model"))
    data, model = data.get("init_args") or {}, model.get("init_args") or {}
    optimizer = (model.get("optimizer") or {}).get("init_args") or {}
    attention = model.get("attention")
    kernel = (attention.get("init_args") or {}).get("kernel") if isinstance(attention, Mapping) else None
    ways = []
    if "batch_size" in data:
        window = f" with more trainer.accumulate_grad_batches (now {trainer.get('accumulate_grad_batches', 1)})"
        ways.append(f"a smaller batch_size (now {data['batch_size']}){window if training else ''}")
    if training and model.get("checkpoint_activations") is False:
        ways.append("model.checkpoint_activations true (now false)")
    if training and model.get("gradient_checkpointing") is False:
        ways.append("model.gradient_checkpointing true (now false)")
    if str(trainer.get("precision")) in ("32-true", "32", "64-true", "64", "None"):
        ways.append(f"trainer.precision bf16-mixed or bf16-true (now {trainer.get('precision')})")
    if kernel in ("plain", "compiled"):
        ways.append(f"model.attention.kernel fused (now {kernel})")
    if training and optimizer.get("scope") == "all":
        ways.append("model.optimizer.init_args.scope first_of_tensor (now all)")
    ways.append("a smaller model")
    return f"Out of memory ({said or type(error).__name__}). What saves memory: {'; '.join(ways)}"
