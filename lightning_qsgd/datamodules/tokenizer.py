"""Tokenizers of pretrained models: loading one, and encoding prompts and answers with it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptFormat = Literal["plain", "chat"]

#: The date that templates get which write today's, so that a run can be repeated: Llama 3.2's own default.
DATE = "26 Jul 2024"
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


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str]], prompt_format: PromptFormat
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of their answers, encoded apart.

    Args:
        tokenizer: a fast one encodes thousands of texts a second.
        texts: pairs of prompt and answer; an empty answer has no tokens.
        prompt_format: "plain" puts the tokenizer's begin token before the prompt where it adds one, a space before
            the answer, and its end token after it, if it has one. "chat" takes what the tokenizer's chat template
            writes for a user's turn and the assistant's, up to the end of the latter.

    Raises:
        ValueError: for "chat", if there is no template, or it does not continue a prompt with its answer.
    """
    begin, end = [], []
    if prompt_format == "chat":
        texts = _chats(tokenizer, texts)
    else:
        texts = [(prompt, f" {answer}" if answer else "") for prompt, answer in texts]
        if tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
            begin = [tokenizer.bos_token_id]
        if isinstance(tokenizer.eos_token_id, int):
            end = [tokenizer.eos_token_id]
    both = [text for pair in texts for text in pair]
    # Longer ones are dealt with by the caller: verbose=False keeps the tokenizer from warning of them.
    ids: Any = tokenizer(both, add_special_tokens=False, verbose=False).input_ids if both else []
    return [
        (begin + prompt, answer + end if answer else []) for prompt, answer in zip(ids[::2], ids[1::2], strict=True)
    ]


def _chats(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same as a chat template writes them: all up to the answer, and the answer with the end of its turn."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"Invalid prompt_format: chat; the tokenizer {tokenizer.name_or_path!r} has no chat template: use plain "
            f"or a model that was trained to chat (often named ...-Instruct)"
        )
    if "strftime_now" in str(tokenizer.chat_template) and "date_string" not in str(tokenizer.chat_template):
        rank_zero_warn(f"The chat template of {tokenizer.name_or_path!r} writes today's date into each prompt")

    def render(turns: Any, **options: Any) -> Any:
        return tokenizer.apply_chat_template(turns, tokenize=False, date_string=DATE, **options)

    asked = [[{"role": "user", "content": prompt}] for prompt, _ in texts]
    answered = [
        [*turn, {"role": "assistant", "content": answer}] for turn, (_, answer) in zip(asked, texts, strict=True)
    ]
    chats = []
    for (prompt, answer), start, whole in zip(
        texts, render(asked, add_generation_prompt=True), render(answered), strict=True
    ):
        if answer and not whole.startswith(start):
            raise ValueError(
                f"Invalid prompt_format: chat; the chat template of {tokenizer.name_or_path!r} does not continue the "
                f"prompt {prompt[:40]!r} with its answer: use plain"
            )
        chats.append((start, whole[len(start) :].rstrip() if answer else ""))
    return chats


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
