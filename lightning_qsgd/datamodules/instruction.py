"""InstructionTuning: your own prompts and answers for a causal language model; and GSM8K.

Shapes: B batch, T tokens of the longest text (prompt and answer) in the batch, P tokens of its longest prompt.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_qsgd.datamodules.duplicates import equal_rows, grouped, set_aside
from lightning_qsgd.datamodules.loading import check_at_least, evaluation_loader, train_loader
from lightning_qsgd.datamodules.rows import (
    check_filled,
    check_is_file,
    check_texts,
    empty_rows,
    read_rows,
    warn_of_empty,
)
from lightning_qsgd.datamodules.tokenizer import PromptFormat, encode, load_tokenizer, padding_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")  # of GSM8K
Split = Literal["train", "val", "test", "predict"]


class Example(NamedTuple):
    """A row of a file: its number (from 0), prompt, answer ("" if it has none), the part of the answer that counts (see
    ``reference``), and its first line (from 1)."""

    id: int
    prompt: str
    answer: str
    reference: str | None
    line: int


class InstructionTuning(L.LightningDataModule):
    """Prompts with answers, as tokens of a pretrained model.

    A file is JSON (``.jsonl``, ``.ndjson``, ``.json``): one object per line, or an array of objects; or CSV with a
    header. Without ``val_file``, a share of ``train_file`` is set aside. Prompt and answer are encoded separately and
    joined, so that masks follow from lengths.

    Batches are dicts of ``tokens`` (B, T) int64, padded on the right; ``padding_mask`` (B, T) bool, True at padding;
    ``answer_mask`` (B, T) bool, True at the tokens of the answer, including its end token; ``loss_mask`` (B, T) bool,
    True at tokens that are targets of training; and ``id``, a list of row numbers from 0. Batches of test and predict
    also have ``prompt_tokens`` (B, P) int64, padded on the left, ``prompt_padding_mask`` (B, P) bool, and lists of
    length B: ``prompt`` and ``answer`` as in the file, ``reference`` (see :meth:`reference`), and, if prompts are
    empty, ``empty``, True at these.

    Args:
        train_file: file of training rows. Required for fit.
        val_file: file of validation rows. Default: None, ``val_share`` of the training file.
        test_file: file of test rows. Required for test.
        predict_file: file of prompts to answer; answers are not needed. An empty prompt gets no answer. Default: None,
            the test rows.
        prompt_key, answer_key: keys of the values in a row. Defaults: "prompt", "answer".
        prompt_format: "plain": the tokenizer's begin token if it adds one, the prompt, a space, the answer, and the end
            token. "chat": the tokenizer's chat template with one turn each, for models that were trained for chat.
            Default: "plain".
        mask_prompt: whether only the answer is learned, and not the prompt. Default: False.
        max_length: maximum number of tokens of prompt and answer, at least 2. Longer ones are cut at the end, with a
            warning. Default: 2048.
        val_share: share of the training file to set aside if there is no val_file, in (0, 1). Default: 0.05.
        split_seed: seed of that split, at least 0. Default: 0.
        group_equal_texts: whether equal prompts stay in one split when a share is set aside. The share then differs
            from val_share by at most half of a group of equal prompts. Default: False.
        limit: number of rows to use from each split, at least 1, the first ones. Default: None, all.
        batch_size: rows per batch and process, at least 1. Default: 1.
        eval_batch_size: the same for validation, test and predict. Default: 8.
        num_workers: processes that load batches, at least 0. Default: 0.
        tokenizer: folder, or name on the hub. Default: None, the model's (its attribute ``pretrained``).

    Raises:
        ValueError: for an invalid argument; for an empty file, a missing or empty value in a row, or a prompt that
            leaves no room for an answer, with file and line; for a tokenizer that cannot be loaded or has no chat
            template.
        FileNotFoundError: for a missing file.
        ImportError: if transformers is not installed.
    """

    #: Where to get the files, for the error about a missing one.
    where_to_get = ""

    def __init__(
        self,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        prompt_key: str = "prompt",
        answer_key: str = "answer",
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
        super().__init__()
        check_at_least(locals(), max_length=2, split_seed=0, batch_size=1, eval_batch_size=1, num_workers=0)
        if limit is not None:
            check_at_least(locals(), limit=1)
        if not 0 < val_share < 1:
            raise ValueError(f"Invalid val_share: {val_share}; it must be in (0, 1)")
        if prompt_format not in get_args(PromptFormat):
            raise ValueError(f"Invalid prompt_format: {prompt_format!r}; it must be plain or chat")
        self.files = {"train": train_file, "val": val_file, "test": test_file, "predict": predict_file}
        self.prompt_key, self.answer_key = prompt_key, answer_key
        self.prompt_format: PromptFormat = prompt_format
        self.mask_prompt, self.max_length = mask_prompt, max_length
        self.val_share, self.split_seed, self.limit = val_share, split_seed, limit
        self.group_equal_texts = group_equal_texts
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self._tokenizer_name = tokenizer
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._datasets: dict[str, list[dict[str, Any]]] = {}
        self._examples: dict[tuple[str, bool], list[Example]] = {}  # by file, and whether with answers

    def setup(self, stage: str) -> None:
        """Before fit, warn about prompts that are in several splits."""
        if stage != "fit":
            return
        splits = {"training": self.examples("train"), "validation": self.examples("val")}
        if Path(self.files["test"] or "").is_file():
            splits["test"] = self.examples("test")
        way = "--data.group_equal_texts true keeps them together in shares of one file; remove them from other files"
        if self.group_equal_texts or self.files["val"]:
            way = "Remove them from one of the files"
        pairs = {name: [(_key(e.prompt), e.answer.strip()) for e in examples] for name, examples in splits.items()}
        if found := equal_rows(pairs, "answer", way):
            rank_zero_warn(found)

    def plain_prompt(self, prompt: str) -> str:
        """The text of a prompt in the plain format; the answer follows after a space."""
        return prompt

    def reference(self, answer: str) -> str | None:
        """The part of an answer that :meth:`is_correct` compares; None for all of it.

        Raises:
            ValueError: if the answer does not contain it. The caller puts file, line and key before the message.
        """
        return None

    def is_correct(self, generated: str, row: Mapping[str, Any]) -> bool:
        """Whether a generated text equals the answer, apart from whitespace around them.

        Args:
            generated: the text after the prompt, without the end token.
            row: ``answer`` and ``reference``, as in a batch of test.
        """
        return generated.strip() == row["answer"].strip()

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer, loaded at first use."""
        if self._tokenizer is None:
            model = self.trainer.lightning_module if self.trainer else None
            name = self._tokenizer_name or getattr(model, "pretrained", None)
            if name is None:
                raise ValueError(
                    "Invalid tokenizer: None; the model has no attribute `pretrained` to take it from: set "
                    "--data.tokenizer to a folder or a name on the Hugging Face hub"
                )
            self._tokenizer = load_tokenizer(name)
            if self._tokenizer.pad_token_id is None:
                padding = self._tokenizer.convert_ids_to_tokens(padding_token(self._tokenizer))
                rank_zero_info(f"The tokenizer {name!r} has no padding token: short rows are padded with {padding}")
        return self._tokenizer

    def examples(self, split: Split) -> list[Example]:
        """The rows of a split: "train", "val", "test" or "predict"."""
        source = self._source(split)
        rows = self._read(source, answered=split != "predict" or source == self.files["test"])
        if split in ("train", "val") and not self.files["val"]:
            groups = grouped([_key(row.prompt) for row in rows], self.group_equal_texts)
            size = round(self.val_share * len(rows))
            val, train = set_aside(groups, [size], np.random.default_rng(self.split_seed))
            if not val or not train:
                raise ValueError(f"{source} is too small to set val aside; set val_file, or another val_share")
            rows = [rows[i] for i in sorted(val if split == "val" else train)]
        return rows[: self.limit]

    def _source(self, split: str) -> str:
        """The file that contains a split."""
        or_else = {"val": "train", "predict": "test"}.get(split, split)
        path = self.files[split] or self.files[or_else]
        if not path:
            names = " or ".join(f"{name}_file" for name in dict.fromkeys((split, or_else)))
            raise ValueError(f"No file for {split}: set {names}, for example --data.{split}_file=data/{split}.jsonl")
        check_is_file(path, self.where_to_get)
        return path

    def _read(self, path: str, answered: bool) -> list[Example]:
        if (path, answered) in self._examples:
            return self._examples[path, answered]
        columns = (self.prompt_key, self.answer_key)[: 1 + answered]
        rows = read_rows(Path(path), columns)
        for column in columns:
            check_texts(Path(path), rows, column)
        if answered:
            check_filled(Path(path), rows, columns)
        else:
            warn_of_empty(Path(path), rows, self.prompt_key)
        examples = []
        for i, (line, row) in enumerate(rows):
            answer = row[self.answer_key] if answered else ""
            try:
                reference = self.reference(answer) if answered else None
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {self.answer_key!r} {error}") from error
            examples.append(Example(i, row[self.prompt_key] or "", answer, reference, line))
        self._examples[path, answered] = examples
        return examples

    def _dataset(self, split: Split) -> Any:
        """Encoded rows, which are made once: values of the example, ``tokens``, and ``prompt_length``, the number of
        tokens before the answer."""
        if split not in self._datasets:
            examples = self.examples(split)
            texts = [
                (e.prompt if self.prompt_format == "chat" else self.plain_prompt(e.prompt), e.answer) for e in examples
            ]
            dataset, too_long = [], 0
            for example, (prompt, answer) in zip(
                examples, encode(self.tokenizer, texts, self.prompt_format), strict=True
            ):
                prompt = prompt or [padding_token(self.tokenizer)]  # an empty prompt, which gets no prediction
                if len(prompt) >= self.max_length:
                    raise ValueError(
                        f"{self._source(split)}, line {example.line}: the prompt has {len(prompt)} tokens, which "
                        f"leaves no room for an answer in max_length={self.max_length}; raise --data.max_length"
                    )
                tokens = torch.tensor(prompt + answer)
                too_long += len(tokens) > self.max_length
                dataset.append(example._asdict() | {"tokens": tokens[: self.max_length], "prompt_length": len(prompt)})
            if too_long:
                rank_zero_warn(
                    f"{too_long} of {len(dataset)} {split} answers are cut, because prompt and answer have more than "
                    f"max_length={self.max_length} tokens; raise --data.max_length to keep all of them"
                )
            self._datasets[split] = dataset
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Batches of the training rows, in an order that depends on seed and epoch only."""
        return train_loader(self._dataset("train"), self.batch_size, self.trainer, **self._options())

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test rows, in order."""
        return self._in_order("test", prompts=True)

    def predict_dataloader(self) -> DataLoader:
        """Batches of the prompts to answer, in order."""
        return self._in_order("predict", prompts=True)

    def _in_order(self, split: Split, prompts: bool = False) -> DataLoader:
        return evaluation_loader(self._dataset(split), self.eval_batch_size, self.trainer, **self._options(prompts))

    def _options(self, prompts: bool = False) -> dict[str, Any]:
        collate = partial(_collate, padding_token(self.tokenizer), self.mask_prompt, prompts)
        return {"collate_fn": collate, "num_workers": self.num_workers}


class GSM8K(InstructionTuning):
    r"""GSM8K: 8792 grade-school word problems, scored by exact match of the number after ``####``.

    Paper: https://arxiv.org/abs/2110.14168. Data: https://github.com/openai/grade-school-math (MIT).

    In the plain format, a prompt is ``Question: ...\nAnswer:``. Prompt and match are those of the task gsm8k in
    https://github.com/EleutherAI/lm-evaluation-harness (strict match), without the 5 solved examples that the harness
    puts before each question. The marks of calculations (``<<48/2=24>>``) stay in the solutions.

    Args:
        train_file: file of 7473 problems. Default: "data/gsm8k/train.jsonl".
        val_file: file of validation problems. Default: None, ``val_share`` of the training file.
        test_file: file of 1319 problems. Default: "data/gsm8k/test.jsonl".
        predict_file: file of problems to solve; solutions are not needed. Default: None, the test file.
        prompt_format, mask_prompt, max_length: see :class:`InstructionTuning`.
        val_share, split_seed, group_equal_texts, limit: see :class:`InstructionTuning`.
        batch_size, eval_batch_size, num_workers, tokenizer: see :class:`InstructionTuning`.

    Raises:
        ValueError: see :class:`InstructionTuning`; also for a solution without a number after ``####``.
        FileNotFoundError: for a missing file; the message says where to get it.
    """

    where_to_get = (
        "; download train.jsonl and test.jsonl from github.com/openai/grade-school-math "
        "(grade_school_math/data, MIT licence) to data/gsm8k"
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
        """The question in the format of lm-evaluation-harness."""
        return f"Question: {prompt}\nAnswer:"

    def reference(self, answer: str) -> str:
        """The number after ``####`` as text, without commas: "1234" for "#### 1,234".

        Raises:
            ValueError: if there is no such number.
        """
        number = _number(answer)
        if number is None:
            raise ValueError(f"has no number after '#### ': {answer[-40:]!r}")
        return number

    def is_correct(self, generated: str, row: Mapping[str, Any]) -> bool:
        """Whether the first number after ``####`` in a generated text equals the row's ``reference``, as text."""
        return _number(generated) == row["reference"]


def _key(prompt: str) -> str:
    """A key that is equal for prompts that differ only in whitespace."""
    return " ".join(prompt.split())


def _collate(padding: int, mask_prompt: bool, prompts: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [row["tokens"] for row in rows]
    lengths = torch.tensor([len(text) for text in texts])[:, None]  # (B, 1)
    starts = torch.tensor([row["prompt_length"] for row in rows])[:, None]  # (B, 1)
    tokens = pad_sequence(texts, batch_first=True, padding_value=padding)  # (B, T)
    place = torch.arange(tokens.shape[1])  # (T,)
    answer_mask = (place >= starts) & (place < lengths)
    loss_mask = answer_mask if mask_prompt else (place > 0) & (place < lengths)  # nothing predicts the first token
    batch: dict[str, Any] = {"tokens": tokens, "padding_mask": place >= lengths, "answer_mask": answer_mask}
    batch |= {"loss_mask": loss_mask, "id": [row["id"] for row in rows]}
    if prompts:
        asked = [row["tokens"][: row["prompt_length"]] for row in rows]
        batch["prompt_tokens"] = pad_sequence(asked, True, padding, padding_side="left")  # (B, P)
        batch["prompt_padding_mask"] = torch.arange(-batch["prompt_tokens"].shape[1], 0) < -starts
        batch |= {name: [row[name] for row in rows] for name in ("prompt", "answer", "reference")}
        batch |= empty_rows(batch["prompt"])
    return batch


def _number(text: str) -> str | None:
    found = _NUMBER.search(text)
    return found[1].replace(",", "").removesuffix(".") if found else None
