import json
import warnings
from types import SimpleNamespace

import pytest
import torch

from lightning_qsgd.datamodules import InstructionTuning, load_tokenizer
from tests.tiny_tokenizer import TEMPLATE, tiny_tokenizer

ROWS = [
    {"prompt": f"How many apples are {i} apples?", "answer": "There are " + "so " * (i % 3) + str(i)} for i in range(40)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def lines(tmp_path):
    """Writes rows as JSON lines; returns the path."""

    def write(rows=ROWS, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def first(loader):
    return next(iter(loader))


def test_the_validation_share_is_disjoint_and_a_function_of_its_seed(lines):
    def ids(split, **arguments):
        return [example.id for example in InstructionTuning(lines(), val_share=0.1, **arguments).examples(split)]

    train, val = ids("train"), ids("val")
    assert (len(val), sorted(train + val)) == (4, list(range(40)))
    assert (ids("train"), ids("val")) == (train, val)
    assert ids("val", split_seed=1) != val
    assert ids("train", limit=3) == train[:3]
    assert ids("val", limit=3) == val[:3]
    other = lines(ROWS[:5], "val.jsonl")
    assert (ids("train", val_file=other), ids("val", val_file=other)) == (list(range(40)), list(range(5)))


@pytest.mark.parametrize(
    ("prompt_format", "prompt", "answer"),
    [
        ("plain", "<bos>How many?", " There are 12<eos>"),
        ("chat", "<bos><turn>user\nHow many?<end>\n<turn>assistant\n", "There are 12<end>"),
    ],
)
@pytest.mark.parametrize("mask_prompt", [False, True])
def test_a_batch(lines, tokenizer, prompt_format, prompt, answer, mask_prompt):
    rows = [{"prompt": "How many?", "answer": "There are 12"}, {"prompt": "How many apples?", "answer": "There are 3"}]
    data = InstructionTuning(
        test_file=lines(rows), prompt_format=prompt_format, mask_prompt=mask_prompt, tokenizer=tokenizer
    )
    batch = first(data.test_dataloader())
    decode = data.tokenizer.decode
    assert decode(batch["tokens"][0][~batch["padding_mask"][0]]) == prompt + answer
    assert decode(batch["tokens"][0][batch["answer_mask"][0]]) == answer
    trained = answer if mask_prompt else (prompt + answer).removeprefix("<bos>")
    assert decode(batch["tokens"][0][batch["loss_mask"][0]]) == trained
    assert decode(batch["prompt_tokens"][0][~batch["prompt_padding_mask"][0]]) == prompt
    assert (batch["tokens"][batch["padding_mask"]] == data.tokenizer.pad_token_id).all()
    short = batch["prompt_padding_mask"][0]
    assert short.tolist() == [True] * short.sum() + [False] * (~short).sum()
    assert short.sum() > 0
    assert not batch["prompt_padding_mask"][1].any()
    assert batch["tokens"].dtype == batch["prompt_tokens"].dtype == torch.int64
    assert {batch[name].dtype for name in ("padding_mask", "answer_mask", "loss_mask")} == {torch.bool}
    assert batch["prompt"] == ["How many?", "How many apples?"]
    assert batch["answer"] == ["There are 12", "There are 3"]
    assert batch["reference"] == [None, None]
    assert batch["id"] == [0, 1]


def test_masks_go_by_length_where_padding_is_the_end_token(lines, tmp_path):
    folder = tiny_tokenizer(tmp_path / "t", pad_token=None)
    batch = first(InstructionTuning(lines(), tokenizer=folder, eval_batch_size=40).val_dataloader())
    end = load_tokenizer(folder).eos_token_id
    lengths = (~batch["padding_mask"]).sum(1)
    assert lengths.unique().numel() > 1
    assert (batch["tokens"][batch["padding_mask"]] == end).all()
    assert all(batch["tokens"][i, n - 1] == end and batch["loss_mask"][i, n - 1] for i, n in enumerate(lengths))
    assert torch.equal(batch["loss_mask"].sum(1), lengths - 1)


def test_prompts_without_answers_to_predict(lines, tokenizer):
    data = InstructionTuning(predict_file=lines([{"prompt": "How many?"}]), tokenizer=tokenizer)
    batch = first(data.predict_dataloader())
    assert data.tokenizer.decode(batch["tokens"][0]) == "<bos>How many?"
    assert not batch["answer_mask"].any()
    tested = InstructionTuning(test_file=lines(), tokenizer=tokenizer)
    assert first(tested.predict_dataloader())["answer"] == [row["answer"] for row in ROWS[:8]]


def test_the_order_of_training_follows_seed_and_epoch_and_that_of_evaluation_the_file(lines, tokenizer, monkeypatch):
    def order(epoch=0):
        loader = InstructionTuning(lines(), batch_size=2, tokenizer=tokenizer).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [i for batch in loader for i in batch["id"]]

    one = order()
    assert order() == one
    assert order(epoch=1) != one
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert order() != one
    loader = InstructionTuning(test_file=lines(), tokenizer=tokenizer, eval_batch_size=16).test_dataloader()
    assert [i for batch in loader for i in batch["id"]] == list(range(40))


def test_the_tokenizer_is_that_of_the_model_unless_named(lines, tokenizer):
    data = InstructionTuning(lines())
    with pytest.raises(ValueError, match=r"Invalid tokenizer: None; .* set --data.tokenizer"):
        data.train_dataloader()
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(pretrained=tokenizer))
    assert data.tokenizer.name_or_path == tokenizer
    assert data.tokenizer is data.tokenizer


def test_long_answers_are_cut_and_counted_and_long_prompts_refused(lines, tokenizer):
    rows = [{"prompt": "How many?", "answer": "3 " * n} for n in (1, 20, 30)]
    path = lines(rows)
    whole = InstructionTuning(test_file=path, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = first(whole.test_dataloader())["tokens"][1]
    data = InstructionTuning(test_file=path, tokenizer=tokenizer, max_length=20)
    with pytest.warns(UserWarning, match=r"2 of 3 test answers are cut, .* max_length=20 tokens") as caught:
        batch = first(data.test_dataloader())
    assert len([w for w in caught if "are cut" in str(w.message)]) == 1
    assert torch.equal(batch["tokens"][1], full[:20])
    prompt = int((~whole.test_dataloader().collate_fn(whole.test_dataloader().dataset)["prompt_padding_mask"])[0].sum())
    with pytest.raises(
        ValueError, match=rf"train.jsonl, line 1: the prompt has {prompt} tokens, .*max_length={prompt}"
    ):
        InstructionTuning(test_file=path, tokenizer=tokenizer, max_length=prompt).test_dataloader()


def test_chat_format_needs_a_template_that_goes_on_with_the_answer(lines, tmp_path):
    def load(template):
        folder = tiny_tokenizer(tmp_path / "t", chat_template=template)
        return first(InstructionTuning(lines(), prompt_format="chat", tokenizer=folder).val_dataloader())

    with pytest.raises(ValueError, match=r"Invalid prompt_format: chat; .* has no chat template: use plain"):
        load(None)
    with pytest.raises(ValueError, match="does not continue the prompt 'How many apples"):
        load(TEMPLATE.replace("<turn>assistant\n' }}{% endif", "<turn>assistant\n(thinks)' }}{% endif"))


def test_dates_in_chats_are_fixed(lines, tmp_path):
    def text(template):
        folder = tiny_tokenizer(tmp_path / "t", chat_template=template)
        data = InstructionTuning(lines(), prompt_format="chat", tokenizer=folder)
        return data.tokenizer.decode(first(data.val_dataloader())["tokens"][0])

    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Today: 26 Jul 2024\n" in text(dated + "{{ 'Today: ' + date_string + '\n' }}" + TEMPLATE)
    with pytest.warns(UserWarning, match="writes today's date into each prompt"):
        text("{{ strftime_now('%d %b %Y') }}" + TEMPLATE)


def test_equal_texts_are_correct():
    data = InstructionTuning()
    assert data.is_correct(" yes\n", {"answer": "yes"})
    assert not data.is_correct("yes!", {"answer": "yes"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train.jsonl is empty"),
        ([ROWS[0], {"prompt": "a"}], r"train.jsonl, line 2: column 'answer' is missing; there are: prompt"),
        ([ROWS[0], {"prompt": " ", "answer": "b"}], "train.jsonl, line 2: column 'prompt' is empty; remove it"),
        ([{"prompt": "a", "answer": 3}], "train.jsonl, line 1: 'answer' is not a text: 3; write it in quotes"),
        (ROWS[:1], "train.jsonl is too small to set val aside; set val_file"),
    ],
)
def test_bad_files_name_the_row(lines, rows, message):
    with pytest.raises(ValueError, match=message):
        InstructionTuning(lines(rows)).examples("train")


def test_missing_files():
    with pytest.raises(FileNotFoundError, match=r"File not found: nowhere.jsonl$"):
        InstructionTuning("nowhere.jsonl").examples("train")
    with pytest.raises(ValueError, match=r"No file for val: set val_file or train_file, for example --data.val_file="):
        InstructionTuning().examples("val")
    with pytest.raises(ValueError, match="No file for test: set test_file, for"):
        InstructionTuning().examples("test")


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_length": 1},
        {"val_share": 0.0},
        {"split_seed": -1},
        {"limit": 0},
        {"prompt_format": "json"},
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"num_workers": -1},
    ],
)
def test_invalid_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Invalid {name}: {value!r}; it must be"):
        InstructionTuning(**arguments)
