"""TextClassification: your own texts and labels, from CSV or JSON files.

Shapes: B batch, T tokens of the longest text in the batch, V words in the vocabulary.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lightning as L
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_qsgd.datamodules.duplicates import equal_rows, look_alikes, stratified
from lightning_qsgd.datamodules.loading import check_at_least, evaluation_loader, train_loader
from lightning_qsgd.datamodules.rows import (
    check_filled,
    check_labels,
    check_texts,
    empty_rows,
    first_three,
    in_lines,
    read_rows,
    warn_of_empty,
)

Split = list["Example"]


class Example(NamedTuple):
    """A row of a file: its number (from 0), text, label ("" if it has none), and its first line (from 1)."""

    id: int
    text: str
    label: str
    line: int


class TextClassification(L.LightningDataModule):
    """Texts with class labels, with a word vocabulary that is made from the training split and saved in checkpoints.

    A file is CSV with a header, or JSON (``.jsonl``, ``.ndjson``, ``.json``): one object per line, or an array of
    objects. Without ``val_file``, a share of ``train_file`` is set aside, stratified by label; likewise for
    ``test_file``.

    Word ids begin at 0 with the most frequent word. After them come the unknown word (V) and padding (V + 1). Padding
    is last because scope first_of_tensor perturbs the first coordinates of the embedding, and the row of padding has no
    gradient.

    Batches are dicts of ``tokens`` (B, T) int64, ``padding_mask`` (B, T) bool, True at padding, ``labels`` (B,) int64
    except for predict, and the lists ``id`` and ``text``.

    Args:
        train_file: file of training texts. Required for fit.
        val_file: file of validation texts. Default: None, ``val_share`` of the training file.
        test_file: file of test texts. Default: None, ``test_share`` of the training file.
        predict_file: file of texts to label, without a label column. An empty text gets no label. Default: None, the
            test texts.
        text_column: name of the text's column or key. Default: "text".
        label_column: name of the label's column or key. Default: "label".
        val_share, test_share: shares of the training file to set aside if there is no file, in (0, 1). Default: 0.1.
        split_seed: seed of that split, at least 0. Default: 0.
        group_equal_texts: whether texts with the same words stay in one split when shares are set aside. The shares
            then differ from the given ones by at most half of a group of equal texts. Default: False.
        max_words: maximum number of words of a text, at least 1. Longer texts are cut, with a warning. Default: 64.
        max_vocab: maximum number of words in the vocabulary, at least 1; the most frequent are kept. Default: 20000.
        min_count: words that occur less often in the training split are unknown; at least 1. Default: 1.
        batch_size: texts per batch and process, at least 1. Default: 32.
        num_workers: processes that load batches, at least 0. Default: 0.

    Attributes:
        labels: class names in the order of the model's outputs (sorted), known after ``setup``.
        class_counts: number of training texts of each class, known after ``setup``.

    Raises:
        ValueError: for an invalid argument; for an empty file, a missing column, or an unknown or missing label, with
            file and line.
        FileNotFoundError: for a missing file.
    """

    def __init__(
        self,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        max_words: int = 64,
        max_vocab: int = 20_000,
        min_count: int = 1,
        batch_size: int = 32,
        num_workers: int = 0,
        group_equal_texts: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(locals(), split_seed=0, max_words=1, max_vocab=1, min_count=1, batch_size=1, num_workers=0)
        for name, value in {"val_share": val_share, "test_share": test_share}.items():
            if not 0 < value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be in (0, 1)")
        self.files = {"train": train_file, "val": val_file, "test": test_file, "predict": predict_file}
        self.text_column, self.label_column = text_column, label_column
        self.shares, self.split_seed = {"val": val_share, "test": test_share}, split_seed
        self.group_equal_texts = group_equal_texts
        self.max_words, self.max_vocab, self.min_count = max_words, max_vocab, min_count
        self.batch_size, self.num_workers = batch_size, num_workers
        self.vocabulary: list[str] = []
        self.labels: list[str] = []
        self.class_counts: list[int] = []

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None before ``setup``."""
        return len(self.labels) or None

    @property
    def vocab_size(self) -> int | None:
        """Number of word ids, including the unknown word and padding; None before ``setup``."""
        return len(self.vocabulary) + 2 if self.vocabulary else None

    def setup(self, stage: str) -> None:
        """Before fit, make vocabulary and labels from the training split. Otherwise a checkpoint brings them."""
        if stage == "fit":
            train = self.examples("train")
            counts = Counter(word for example in train for word in words(example.text))
            kept = [(word, n) for word, n in counts.most_common(self.max_vocab) if n >= self.min_count]
            self.vocabulary = [word for word, _ in kept]
            if not self.vocabulary:
                raise ValueError(f"No word of {self.files['train']} occurs min_count={self.min_count} times")
            classes = Counter(example.label for example in train)
            self.labels = sorted(classes)
            self.class_counts = [classes[label] for label in self.labels]
            if len(self.labels) < 2:
                raise ValueError(f"{self.files['train']} has {len(self.labels)} label ({self.labels}); two are needed")
            self._tell({"training": train, "validation": self.examples("val"), "test": self.examples("test")})

    def _tell(self, splits: dict[str, Split]) -> None:
        """Print the sizes of the splits, and warn about data that make scores unreliable."""
        counts = {name: Counter(example.label for example in examples) for name, examples in splits.items()}
        train, val, test = (count.total() for count in counts.values())
        rank_zero_info(
            f"{train} texts to train, {val} to validate, {test} to test; {len(self.labels)} classes, "
            f"{len(self.vocabulary)} words"
        )
        absent = [
            "{} ({} to train, {} to validate, {} to test)".format(label, *(count[label] for count in counts.values()))
            for label in self.labels
            if not all(count[label] for count in counts.values())
        ]
        if absent:
            rank_zero_warn(
                f"Classes without texts to validate or test: {first_three(absent)}; raise val_share and test_share, or "
                "set val_file and test_file"
            )
        lines: dict[str, list[int]] = {}
        for example in sorted(example for part in self._parts.values() for example in part):
            lines.setdefault(example.label, []).append(example.line)
        if alike := look_alikes(lines):
            rank_zero_warn(f"{self.files['train']}: labels that look alike are different classes: {alike}")
        way = "--data.group_equal_texts true keeps them together in shares of one file; remove them from other files"
        if self.group_equal_texts or (self.files["val"] and self.files["test"]):
            way = "Remove them from one of the files"
        pairs = {name: [(_key(e.text), e.label) for e in examples] for name, examples in splits.items()}
        if found := equal_rows(pairs, "label", way):
            rank_zero_warn(found)

    def examples(self, split: str) -> Split:
        """The rows of a split: "train", "val", "test" or "predict"."""
        path = self.files[split]
        if split == "predict":
            if path:
                return self._read(path, labelled=False)
            if not self.files["test"] and not self.files["train"]:
                self._no_file(split)
            return self.examples("test")
        if split != "train" and path:
            return self._read(path)
        if not self.files["train"]:
            self._no_file(split)
        return self._parts[split]

    def _no_file(self, split: str) -> NoReturn:
        or_else = " (or train_file, of which a share is set aside)" if split in ("val", "test") else ""
        raise ValueError(
            f"No file for {split}: set {split}_file{or_else}, for example --data.{split}_file=data/{split}.csv"
        )

    @cached_property
    def _parts(self) -> dict[str, Split]:
        """The parts of the training file: stratified shares that are set aside by split_seed, and the rest to train."""
        examples = self._read(self.files["train"])
        classes = [example.label for example in examples]
        keys = [_key(example.text) for example in examples] if self.group_equal_texts else None
        aside = [split for split in ("val", "test") if not self.files[split]]
        rows = stratified(classes, keys, [self.shares[split] for split in aside], self.split_seed)
        parts: dict[str, Split] = {"train": [], "val": [], "test": []}
        for split, part in zip([*aside, "train"], rows, strict=True):
            parts[split] = [examples[i] for i in part]
        for split, part in parts.items():
            if not part and not (split != "train" and self.files[split]):
                texts, labels, why = len(examples), len({example.label for example in examples}), ";"
                if 2 * labels > texts:
                    why = f": {texts} texts have {labels} different labels. "
                    why += f"Is {self.label_column!r} the right column? If so,"
                raise ValueError(
                    f"{self.files['train']} is too small to set {split} aside{why} set {split}_file, or a larger share"
                )
        return parts

    def _read(self, path: str | None, labelled: bool = True) -> Split:
        assert path is not None
        text, label = self.text_column, self.label_column
        rows = read_rows(Path(path), (text, label)[: 1 + labelled])
        check_texts(Path(path), rows, text)
        if labelled:
            check_filled(Path(path), rows, (text, label))
            check_labels(Path(path), rows, label)
        else:
            warn_of_empty(Path(path), rows, text)
        return [
            Example(i, row[text] or "", str(row[label]) if labelled else "", line) for i, (line, row) in enumerate(rows)
        ]

    def encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The word ids of each text, (words,) int64. An empty text is one unknown word."""
        index = {word: i for i, word in enumerate(self.vocabulary)}
        unknown = len(self.vocabulary)
        rows = [[index.get(word, unknown) for word in words(text)[: self.max_words]] for text in texts]
        return [torch.tensor(row or [unknown]) for row in rows]

    def _dataset(self, split: str) -> list[dict[str, Any]]:
        if not self.vocabulary:
            raise ValueError("The vocabulary is unknown: run fit, or load a checkpoint of this module (--ckpt_path)")
        examples = self.examples(split)
        tokens = self.encode([example.text for example in examples])
        if cut := sum(len(words(example.text)) > self.max_words for example in examples):
            rank_zero_warn(
                f"{cut} of {len(examples)} {split} texts are cut, because they have more than "
                f"max_words={self.max_words} words; raise --data.max_words, and --model.max_length with it"
            )
        known = {label: i for i, label in enumerate(self.labels)}
        dataset: list[dict[str, Any]] = [
            {"tokens": ids, "id": example.id, "text": example.text}
            for example, ids in zip(examples, tokens, strict=True)
        ]
        if split == "predict":
            return dataset
        if unknown := [example for example in examples if example.label not in known]:
            raise ValueError(
                f"{self.files[split] or self.files['train']}, {in_lines([e.line for e in unknown])}: label "
                f"{unknown[0].label!r} is not a label of the training data: {first_three(self.labels)}"
            )
        for row, example in zip(dataset, examples, strict=True):
            row["label"] = known[example.label]
        return dataset

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split, in an order that depends on seed and epoch only."""
        dataset: Any = self._dataset("train")
        return train_loader(dataset, self.batch_size, self.trainer, **self._options())

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of the texts to label, in order."""
        return self._in_order("predict")

    def _in_order(self, split: str) -> DataLoader:
        dataset: Any = self._dataset(split)
        return evaluation_loader(dataset, 4 * self.batch_size, self.trainer, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"collate_fn": partial(_collate, len(self.vocabulary) + 1), "num_workers": self.num_workers}

    def state_dict(self) -> dict[str, Any]:
        """Vocabulary and labels to save in a checkpoint."""
        return {"vocabulary": self.vocabulary, "labels": self.labels, "class_counts": self.class_counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load vocabulary and labels from a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)


def words(text: str) -> list[str]:
    """Split a text into lower-case words and single punctuation marks, in languages that separate words."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _key(text: str) -> str:
    """A key that is equal for texts that a model cannot distinguish."""
    return " ".join(words(text))


def _collate(padding: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = pad_sequence([row["tokens"] for row in rows], batch_first=True, padding_value=padding)  # (B, T)
    batch = {"tokens": tokens, "padding_mask": tokens == padding}
    if "label" in rows[0]:
        batch["labels"] = torch.tensor([row["label"] for row in rows])
    batch |= empty_rows([row["text"] for row in rows])
    return batch | {name: [row[name] for row in rows] for name in ("id", "text")}
