"""Tokenizers of pretrained models, and what it means when the Hugging Face hub gives none."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Llama 3's token for padding, which its tokenizer does not declare.
_LLAMA_PADDING = "<|finetune_right_pad_id|>"


def import_transformers() -> ModuleType:
    """The package transformers, which only language models need.

    Raises:
        ImportError: where it is not installed; the message says how to.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"Language models need transformers ({error}): pip install transformers") from error
    return transformers


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a pretrained model; code that comes with it does not run.

    Args:
        name: a folder, or a name on the Hugging Face hub.

    Raises:
        ImportError: without transformers.
        ValueError: if there is none; see :func:`explain_hub_error`.
    """
    tokenizers: Any = import_transformers().AutoTokenizer
    try:
        return tokenizers.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise explain_hub_error(name, error) from error


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id to fill short rows with: the padding token, else Llama's, else the end token, else 0.

    Any will do, because masks go by length.
    """
    vocabulary = tokenizer.get_vocab()
    candidates = (tokenizer.pad_token_id, vocabulary.get(_LLAMA_PADDING), tokenizer.eos_token_id, 0)
    return next(i for i in candidates if isinstance(i, int))


def explain_hub_error(name: str, error: Exception) -> ValueError:
    """What to raise when transformers could not load ``name``: one clear message with the way out.

    Args:
        name: of the model, as given: a folder, or a name on the hub.
        error: what transformers raised.
    """
    kinds = {kind.__name__ for link in _causes(error) for kind in type(link).__mro__}
    if isinstance(error, ImportError):
        what = f"it needs a package that is not installed: {_first_line(error)}"
    elif Path(name).exists():
        what = (
            f"transformers cannot read it: {_first_line(error)}; it must be a folder with config.json, the weights "
            f"(*.safetensors) and the tokenizer's files, as save_pretrained writes it"
        )
    elif "GatedRepoError" in kinds:
        what = (
            f"access to it is restricted: accept its licence on https://huggingface.co/{name}, then log in with "
            f"`hf auth login`; or name the folder of a copy"
        )
    elif kinds & {"HFValidationError", "RepositoryNotFoundError"}:
        what = (
            "there is no such folder, and no model of that name on huggingface.co; check the spelling (a private model "
            "needs `hf auth login`)"
        )
    elif kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}:
        offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")
        why = "HF_HUB_OFFLINE is set" if offline else "huggingface.co cannot be reached"
        what = (
            f"there is no such folder, it was not downloaded before, and {why}; where there is a network run "
            f"`hf download {name} --local-dir FOLDER`, and name that folder"
        )
    else:
        what = _first_line(error)
    return ValueError(f"Invalid pretrained: {name!r}: {what}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(" .:") if lines else type(error).__name__
