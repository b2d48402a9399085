"""Pretrained causal language models: loading, spreading over processes, and saving as a Hugging Face folder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lightning_qsgd.datamodules.tokenizer import explain_hub_error, import_transformers
from lightning_qsgd.files import atomic_folder
from lightning_qsgd.optim.coordinates import is_dtensor


def load_causal_model(name: str, dtype: torch.dtype, weights: bool = True) -> Any:
    """A transformers model with attention by ``scaled_dot_product_attention``, on the CPU, in training mode.

    Args:
        name: a folder, or a name on the Hugging Face hub. No code of it runs (``trust_remote_code`` is off).
        dtype: of the weights.
        weights: False: only build the model, where a checkpoint will bring its weights. Default: True.

    Raises:
        ValueError: if it is no causal language model, or cannot be found or read; the message says what to do.
        ImportError: without transformers.
    """
    transformers: Any = import_transformers()
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
    missing: set[str] = set()
    try:
        with torch.device("cpu"):  # under another default device transformers would ask for accelerate
            if weights:
                model, info = transformers.AutoModelForCausalLM.from_pretrained(
                    name, output_loading_info=True, **options
                )
                missing = set(info["missing_keys"])
            else:
                config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
                model = transformers.AutoModelForCausalLM.from_config(config, **options)
                model.generation_config = _generation_config(name, model)
    except (OSError, ValueError, KeyError) as error:
        raise explain_hub_error(name, error) from error
    if missing:  # transformers makes them up, with a warning
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
    """Puts float32 tables back before a layer uses them: precisions such as bf16-true round all that a module has, and
    rotary frequencies with 8 bits are those of other positions."""

    def __init__(self, tables: dict[str, torch.Tensor]) -> None:
        self.tables = {name: table.clone() for name, table in tables.items()}

    def __call__(self, part: nn.Module, arguments: Any) -> None:
        for name, table in self.tables.items():
            if (now := part.get_buffer(name)).element_size() < table.element_size():
                setattr(part, name, table.to(now.device))


def _generation_config(name: str, model: Any) -> Any:
    """That of the pretrained model, which names the tokens that end a text; as built where it has none."""
    try:
        return import_transformers().GenerationConfig.from_pretrained(name)
    except OSError:
        return model.generation_config


def blocks(model: Any) -> list[nn.Module]:
    """The model's layers, as it names them itself for being spread over devices."""
    names = set(model._no_split_modules or ())
    return [part for part in model.modules() if type(part).__name__ in names]


def save_folder(model: Any, tokenizer: Any, folder: Path, *, write: bool = True) -> None:
    """Save weights, configuration and tokenizer so that transformers loads them; called on all ranks.

    Args:
        model: a transformers model; its weights may be DTensors, whose parts come together on rank 0.
        tokenizer: a transformers tokenizer.
        folder: appears complete, or stays as it was.
        write: whether this process writes (rank 0 does).

    Raises:
        OSError: if it cannot be written, for example on a full disk.
    """
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    sharded = any(is_dtensor(p) for p in model.parameters())
    weights = get_model_state_dict(model, options=whole) if sharded else None
    if write:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=weights)
            tokenizer.save_pretrained(temporary)
