"""GSM8K: 8792 grade-school word problems whose answers end in a number.

Paper: https://arxiv.org/abs/2110.14168. Data: https://github.com/openai/grade-school-math (MIT).
"""

import re
from collections.abc import Mapping
from typing import Any

from lightning_qsgd.datamodules.instruction import InstructionTuning
from lightning_qsgd.datamodules.prompts import PromptFormat

_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")


class GSM8K(InstructionTuning):
    r"""Word problems with their solutions, and exact match of the number after ``####``.

    In the plain format a prompt reads ``Question: ...\nAnswer:``. Prompt and match are those of the task gsm8k in
    https://github.com/EleutherAI/lm-evaluation-harness (strict match), but without the 5 solved examples that it puts
    before each question. The marks of calculations (``<<48/2=24>>``) stay in the solutions.

    Args:
        train_file: 7473 problems. Default: "data/gsm8k/train.jsonl".
        val_file: problems to validate with. Default: None: ``val_share`` of the training file.
        test_file: 1319 problems. Default: "data/gsm8k/test.jsonl".
        predict_file: problems to solve; needs no solutions. Default: None: those of test_file.
        prompt_format, mask_prompt, max_length: as in :class:`InstructionTuning`.
        val_share, split_seed, group_equal_texts, limit: as in :class:`InstructionTuning`.
        batch_size, eval_batch_size, num_workers, tokenizer: as in :class:`InstructionTuning`.

    Raises:
        ValueError: as InstructionTuning, and for a solution without a number after ``####``.
        FileNotFoundError: for a missing file; the message says where to get it.
    """

    where_to_get = (
        "; take train.jsonl and test.jsonl from github.com/openai/grade-school-math "
        "(grade_school_math/data, MIT licence) and put them into data/gsm8k"
    )

    def __init__(
        self,
        train_file: str | None = "data/gsm8k/train.jsonl",
        val_file: str | None = None,
        test_file: str | None = "data/gsm8k/test.jsonl",
        predict_file: str | None = None,
        prompt_format: PromptFormat = "plain",
        mask_prompt: bool = False,
        max_length: int = 2048,
        val_share: float = 0.05,
        split_seed: int = 0,
        limit: int | None = None,
        batch_size: int = 1,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        tokenizer: str | None = None,
        group_equal_texts: bool = False,
    ) -> None:
        super().__init__(
            train_file,
            val_file,
            test_file,
            predict_file,
            prompt_key="question",
            answer_key="answer",
            prompt_format=prompt_format,
            mask_prompt=mask_prompt,
            max_length=max_length,
            val_share=val_share,
            split_seed=split_seed,
            group_equal_texts=group_equal_texts,
            limit=limit,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            tokenizer=tokenizer,
        )

    def plain_prompt(self, prompt: str) -> str:
        """The question between the words that lm-evaluation-harness puts around it."""
        return f"Question: {prompt}\nAnswer:"

    def reference(self, answer: str) -> str:
        """The number after ``####``, without commas: "1234" for "#### 1,234".

        Raises:
            ValueError: if there is none.
        """
        number = _number(answer)
        if number is None:
            raise ValueError(f"has no number after '#### ': {answer[-40:]!r}")
        return number

    def is_correct(self, generated: str, row: Mapping[str, Any]) -> bool:
        """Whether the first number after ``####`` in a generated text is the row's ``reference``, as text."""
        return _number(generated) == row["reference"]


def _number(text: str) -> str | None:
    found = _NUMBER.search(text)
    return found[1].replace(",", "").removesuffix(".") if found else None
