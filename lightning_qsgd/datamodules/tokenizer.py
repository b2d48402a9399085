"""Load tokenizers of pretrained models, and encode prompts and answers with them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptFormat = Literal["plain", "chat"]

#: The date for chat templates that write today's, so that runs can be repeated. It is Llama 3.2's default.
DATE = "26 Jul 2024"
#: Llama 3's padding token, which its tokenizer does not declare.
_LLAMA_PADDING = "<|finetune_right_pad_id|>"


def import_transformers() -> ModuleType:
    """Import the package transformers, which only language models need.

    Raises:
        ImportError: if it is not installed; the message says how to install it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"Language models need transformers ({error}): pip install transformers") from error
    return transformers


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a pretrained model, without running code that comes with it.

    Args:
        name: a folder, or a name on the Hugging Face hub.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if the tokenizer cannot be loaded; see :func:`explain_hub_error`.
    """
    tokenizers: Any = import_transformers().AutoTokenizer
    try:
        return tokenizers.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise explain_hub_error(name, error) from error


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token id that short rows are padded with: the padding token, or Llama 3's, or the end token, or 0.

    Any token works, because masks are made from lengths.
    """
    vocabulary = tokenizer.get_vocab()
    candidates = (tokenizer.pad_token_id, vocabulary.get(_LLAMA_PADDING), tokenizer.eos_token_id, 0)
    return next(i for i in candidates if isinstance(i, int))


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str]], prompt_format: PromptFormat
) -> list[tuple[list[int], list[int]]]:
    """Encode prompts and their answers separately.

    Args:
        tokenizer: a tokenizer; a fast one encodes thousands of texts per second.
        texts: pairs of prompt and answer. An empty answer has no tokens.
        prompt_format: "plain" puts the tokenizer's begin token, if it adds one, before the prompt, a space before the
            answer, and the tokenizer's end token, if it has one, after the answer. "chat" uses the tokenizer's chat
            template for one turn of the user and one of the assistant, up to the end of the latter.

    Returns:
        For each text, the token ids of prompt and answer.

    Raises:
        ValueError: for "chat", if there is no template, or the template does not continue a prompt with its answer.
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
    # verbose=False: the tokenizer does not warn about long texts, which the caller handles.
    ids: Any = tokenizer(both, add_special_tokens=False, verbose=False).input_ids if both else []
    return [
        (begin + prompt, answer + end if answer else []) for prompt, answer in zip(ids[::2], ids[1::2], strict=True)
    ]


def _chats(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs in the chat template: all text before the answer, and the answer with the end of its turn."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"Invalid prompt_format: chat; the tokenizer {tokenizer.name_or_path!r} has no chat template: use plain, "
            "or a model that was trained for chat (often named ...-Instruct)"
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
    """Make the error to raise if transformers could not load a model, with one clear message and a way out.

    Args:
        name: name of the model as given: a folder, or a name on the hub.
        error: the error of transformers.
    """
    kinds = {kind.__name__ for link in _causes(error) for kind in type(link).__mro__}
    if isinstance(error, ImportError):
        what = f"it needs a package that is not installed: {_first_line(error)}"
    elif Path(name).exists():
        what = (
            f"transformers cannot read it: {_first_line(error)}; it must be a folder with config.json, the weights "
            "(*.safetensors) and the tokenizer's files, as save_pretrained writes them"
        )
    elif "GatedRepoError" in kinds:
        what = (
            f"access to it is restricted: accept its licence on https://huggingface.co/{name}, then log in with "
            "`hf auth login`; or name a folder with a copy"
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
            f"there is no such folder, it was not downloaded before, and {why}; on a machine with network access run "
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
