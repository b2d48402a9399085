"""Prompts and answers as token ids, in plain text or by a chat template."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptFormat = Literal["plain", "chat"]

#: What templates that write today's date get instead, so that a run is the same tomorrow: Llama 3.2's own default.
DATE = "26 Jul 2024"


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
