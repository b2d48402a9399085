import json
import os
import warnings
from pathlib import Path

import pytest

from lightning_qsgd.datamodules import GSM8K
from tests.tiny_tokenizer import tiny_tokenizer

ROW = {"question": "How many?", "answer": "It costs <<48/2=24>>24.\n#### 1,234"}


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "gsm8k.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_prompt_answer_and_reference(file, tmp_path):
    data = GSM8K(test_file=file(ROW), tokenizer=tiny_tokenizer(tmp_path / "t"))
    batch = next(iter(data.test_dataloader()))
    text = "<bos>Question: How many?\nAnswer: It costs <<48/2=24>>24.\n#### 1,234<eos>"
    assert data.tokenizer.decode(batch["tokens"][0]) == text
    assert data.tokenizer.decode(batch["prompt_tokens"][0]) == "<bos>Question: How many?\nAnswer:"
    assert batch["reference"] == ["1234"]
    assert batch["answer"] == [ROW["answer"]]


def test_predict_needs_no_solutions(file, tmp_path):
    data = GSM8K(predict_file=file({"question": "Why?"}), tokenizer=tiny_tokenizer(tmp_path / "t"))
    batch = next(iter(data.predict_dataloader()))
    assert (batch["prompt"], batch["reference"]) == (["Why?"], [None])


@pytest.mark.parametrize(
    ("generated", "right"),
    [
        ("So it is 7.\n#### 1,234", True),
        ("#### 1234", True),
        ("#### 1234.", True),
        ("#### 1234 dollars\n#### 5", True),
        ("#### 5\n#### 1234", False),
        ("#### 1234.0", False),
        ("#### -1234", False),
        ("#### $1234", False),
        ("The answer is 1234", False),
        ("", False),
    ],
)
def test_exact_match(generated, right):
    assert GSM8K().is_correct(generated, {"reference": "1234"}) is right


def test_negative_and_decimal_numbers():
    assert GSM8K().reference("#### -3.5") == "-3.5"


def test_a_solution_without_a_number_names_its_row(file):
    with pytest.raises(ValueError, match=r"gsm8k.jsonl, line 2: 'answer' has no number after '#### ': 'It is 3'"):
        GSM8K(test_file=file(ROW, ROW | {"answer": "It is 3"})).examples("test")


def test_a_missing_file_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = r"File not found: data/gsm8k/{}.jsonl; download .* from github.com/openai/grade-school-math .*MIT"
    with pytest.raises(FileNotFoundError, match=where.format("train")):
        GSM8K().examples("train")
    with pytest.raises(FileNotFoundError, match=where.format("test")):
        GSM8K().examples("predict")


# ---- the real data, where they are


@pytest.fixture(scope="module")
def files():
    root = Path(os.environ.get("LIGHTNING_QSGD_DATA") or Path(__file__).parents[3] / "shared" / "data") / "gsm8k"
    if not root.is_dir():
        pytest.skip("needs gsm8k in $LIGHTNING_QSGD_DATA")
    return {"train_file": str(root / "train.jsonl"), "test_file": str(root / "test.jsonl")}


def test_all_rows_have_a_number(files):
    data = GSM8K(**files)
    train, val, test = (data.examples(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (7099, 374, 1319)
    commas = [sum("," in e.answer.split("####")[1] for e in rows) for rows in ([*train, *val], test)]
    assert commas == [79, 14]
    for example in [*train, *val, *test]:
        assert float(example.reference) == int(example.reference)
        assert data.is_correct(example.answer, example._asdict())


@pytest.mark.slow
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_real_rows_encoded_in_parts_equal_whole_ones_and_none_is_cut(files, prompt_format):
    tokenizer = os.environ.get("LIGHTNING_QSGD_SMOLLM")
    if not tokenizer:
        pytest.skip("needs $LIGHTNING_QSGD_SMOLLM, a folder made by scripts/smollm.py")
    data = GSM8K(**files, prompt_format=prompt_format, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    texts = [row["tokens"].tolist() for loader in loaders for row in loader.dataset]
    assert len(texts) == 8792
    assert max(map(len, texts)) == {"plain": 543, "chat": 569}[prompt_format]
    decoded = data.tokenizer.batch_decode(texts)
    assert data.tokenizer(decoded, add_special_tokens=False).input_ids == texts
    for text, row in zip(decoded, (row for loader in loaders for row in loader.dataset)):
        assert row["prompt"] in text
        assert text.endswith(row["answer"] + data.tokenizer.eos_token)
