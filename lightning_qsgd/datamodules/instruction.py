"""InstructionTuning: your own prompts and answers for a causal language model; GSM8K.

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

from lightning_qsgd.datamodules.duplicates import equal_texts, grouped, set_aside
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
    """One row of a file: its number (from 0), prompt, answer ("" where there is none), what its answer comes to, and
    its line (from 1)."""

    id: int
    prompt: str
    answer: str
    reference: str | None
    line: int


class InstructionTuning(L.LightningDataModule):
    """Prompts with answers, as tokens of a pretrained model.

    A file is JSON lines (``.jsonl``, ``.json``: one object a line), or CSV with a header. Without ``val_file`` a share
    of ``train_file`` is set aside. Prompt and answer are encoded apart and joined, so that masks go by length.

    Batches are dicts of ``tokens`` (B, T) int64, padded on the right; ``padding_mask`` (B, T) bool, True at padding;
    ``answer_mask`` (B, T) bool, True at the answer's tokens with its end token; ``loss_mask`` (B, T) bool, True at
    tokens to learn as targets; ``id``, a list of row numbers from 0. Batches of test and predict also have
    ``prompt_tokens`` (B, P) int64, padded on the left, ``prompt_padding_mask`` (B, P) bool, and lists of B: ``prompt``
    and ``answer`` as in the file, ``reference`` (see :meth:`reference`), and where prompts are empty ``empty``, True at
    those.

    Args:
        train_file: training rows. Needed for fit.
        val_file: validation rows. Default: ``val_share`` of the training file.
        test_file: test rows. Needed for test.
        predict_file: prompts to answer; needs no answers. An empty prompt gets no answer. Default: the test rows.
        prompt_key, answer_key: names of the values in a row. Defaults: "prompt", "answer".
        prompt_format: "plain" (default): the prompt as it is, a space, the answer, the tokenizer's end token; and its
            begin token in front where it adds one. "chat": the tokenizer's chat template with one turn of each; for
            models that were trained to chat.
        mask_prompt: learn the answer only. Default: False: the prompt too.
        max_length: tokens of prompt and answer, at least 2; longer ones are cut at the end, with a warning.
            Default: 2048.
        val_share: share of the training file, in (0, 1), where there is no val_file. Default: 0.05.
        split_seed: of that split, at least 0. Default: 0.
        group_equal_texts: keep equal prompts in one split where a share is set aside. The share then differs from
            val_share by at most half of the prompts that are equal. Default: False.
        limit: rows of each split, the first of the file, at least 1. Default: None: all.
        batch_size: rows per batch and process. Default: 1.
        eval_batch_size: the same for validation, test and predict. Default: 8.
        num_workers: processes that load batches. Default: 0.
        tokenizer: folder or hub name. Default: None: that of the model (its attribute ``pretrained``).

    Raises:
        ValueError: for an invalid value, an empty file, a missing or empty value in a row, a prompt that leaves no room
            for an answer: with its file and line; for a tokenizer that cannot be loaded or has no chat template.
        FileNotFoundError: for a missing file.
        ImportError: without transformers.
    """

    #: Where to get the files, for the error when one is missing.
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
        """Before fit, warn of prompts that several splits have."""
        if stage != "fit":
            return
        splits = {"training": self.examples("train"), "validation": self.examples("val")}
        if Path(self.files["test"] or "").is_file():
            splits["test"] = self.examples("test")
        way = "In shares of one file --data.group_equal_texts true keeps them together; from other files remove them"
        if self.group_equal_texts or self.files["val"]:
            way = "Remove them from one of the files"
        pairs = {name: [(_key(e.prompt), e.answer.strip()) for e in examples] for name, examples in splits.items()}
        if found := equal_texts(pairs, "answer", way):
            rank_zero_warn(found)

    def plain_prompt(self, prompt: str) -> str:
        """The text that stands for a prompt in the plain format; the answer follows after a space."""
        return prompt

    def reference(self, answer: str) -> str | None:
        """What counts of an answer in :meth:`is_correct`; None: all of it.

        Raises:
            ValueError: if the answer lacks it, with a message that goes on after the row's name.
        """
        return None

    def is_correct(self, generated: str, row: Mapping[str, Any]) -> bool:
        """Whether a generated text equals the answer but for spaces around it.

        Args:
            generated: what the model wrote after the prompt, without its end token.
            row: ``answer`` and ``reference`` as in a batch of test.
        """
        return generated.strip() == row["answer"].strip()

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer, loaded when first asked for."""
        if self._tokenizer is None:
            model = self.trainer.lightning_module if self.trainer else None
            name = self._tokenizer_name or getattr(model, "pretrained", None)
            if name is None:
                raise ValueError(
                    "Invalid tokenizer: None; the model has no `pretrained` to take it from: set --data.tokenizer to a "
                    "folder or a name on the Hugging Face hub"
                )
            self._tokenizer = load_tokenizer(name)
            if self._tokenizer.pad_token_id is None:
                padding = self._tokenizer.convert_ids_to_tokens(padding_token(self._tokenizer))
                rank_zero_info(f"The tokenizer {name!r} has no padding token: short rows are filled with {padding}")
        return self._tokenizer

    def examples(self, split: Split) -> list[Example]:
        """Rows of a split."""
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
        """The file that a split comes from, wholly or in part."""
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
        """Encoded rows, made once: the example's values, ``tokens``, and ``prompt_length``, its tokens before the
        answer."""
        if split not in self._datasets:
            examples = self.examples(split)
            texts = [
                (e.prompt if self.prompt_format == "chat" else self.plain_prompt(e.prompt), e.answer) for e in examples
            ]
            dataset, too_long = [], 0
            for example, (prompt, answer) in zip(
                examples, encode(self.tokenizer, texts, self.prompt_format), strict=True
            ):
                prompt = prompt or [padding_token(self.tokenizer)]  # an empty one, which is predicted nothing for
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
                    f"max_length={self.max_length} tokens; raise --data.max_length to keep them whole"
                )
            self._datasets[split] = dataset
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Batches in an order that is a function of (seed, epoch)."""
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
    r"""GSM8K: 8792 grade-school word problems, and exact match of the number after ``####``.

    Paper: https://arxiv.org/abs/2110.14168. Data: https://github.com/openai/grade-school-math (MIT).

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


def _key(prompt: str) -> str:
    """Equal for prompts that differ by spaces only."""
    return " ".join(prompt.split())


def _collate(padding: int, mask_prompt: bool, prompts: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [row["tokens"] for row in rows]
    lengths = torch.tensor([len(text) for text in texts])[:, None]  # (B, 1)
    starts = torch.tensor([row["prompt_length"] for row in rows])[:, None]  # (B, 1)
    tokens = pad_sequence(texts, batch_first=True, padding_value=padding)  # (B, T)
    place = torch.arange(tokens.shape[1])  # (T,)
    answer_mask = (place >= starts) & (place < lengths)
    loss_mask = answer_mask if mask_prompt else (place > 0) & (place < lengths)  # nothing foretells the first token
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
