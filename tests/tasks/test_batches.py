import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_qsgd.tasks import CausalLanguageModeling, SequenceClassification
from tests.common import TINY
from tests.tiny_llm import save_llm


def batches(**changes):
    """Two training batches of four rows with three tokens below 5 and classes 0 to 2; ``changes`` to the second."""
    tokens, labels = torch.arange(24).view(8, 3) % 5, torch.arange(8) % 3
    first, second = ({"tokens": tokens[i : i + 4], "labels": labels[i : i + 4]} for i in (0, 4))
    return [first, {key: value for key, value in (second | changes).items() if value is not None}]


def trainer(**options):
    return L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", **options,
    )  # fmt: skip


def run(stage, data):
    module = SequenceClassification(vocab_size=5, num_classes=3, **TINY)
    getattr(trainer(), stage)(module, DataLoader(data, batch_size=None))


TOKENS = torch.arange(12).view(4, 3) % 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([1, 2, 3, 1])},
         r"Invalid labels: 3 in labels\[2\] of training batch 2; they must be 0 to 2 \(those of this batch are 1 to "
         r"3\): count classes from 0"),
        ({"labels": torch.tensor([0, 1, 2, -100])}, r"Invalid labels: -100 in labels\[3\] of training batch 2"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0, 0.0])}, r"Invalid labels: float32 \(4,\) in training batch 2"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, r"Invalid labels: int64 \(4, 1\) in training batch 2"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"Invalid labels: int64 \(3,\) .*they must be int64 \(4,\)"),
        ({"labels": None}, "Invalid training batch 2: it has no tensor 'labels'; there are: tokens; a batch is a dict"),
        ({"labels": [0, 1, 2, 0]}, "Invalid training batch 2: it has no tensor 'labels'"),
        ({"tokens": None}, "Invalid training batch 2: it has no tensor 'tokens'; there are: labels"),
        ({"tokens": TOKENS + 1},
         r"Invalid tokens: 5 in tokens\[1, 1\] of training batch 2; they must be 0 to 4 .* raise vocab_size"),
        ({"tokens": TOKENS - 1}, r"Invalid tokens: -1 in tokens\[0, 0\] of training batch 2"),
        ({"tokens": TOKENS.float()}, r"Invalid tokens: float32 \(4, 3\) in training batch 2"),
        ({"tokens": TOKENS[0]}, r"Invalid tokens: int64 \(3,\) in training batch 2; they must be int64 \(B, T\)"),
        ({"tokens": TOKENS[:, :0]}, r"Invalid tokens: int64 \(4, 0\) .* at least one row and one token"),
        ({"tokens": TOKENS[:0], "labels": TOKENS[:0, 0]}, r"Invalid tokens: int64 \(0, 3\)"),
        ({"tokens": TOKENS.repeat(1, 11)}, "33 per sequence; max_length is 32"),
        ({"padding_mask": torch.zeros(4, 3)}, r"Invalid padding_mask: float32 \(4, 3\) .* bool \(4, 3\), .*mask == 0"),
        ({"padding_mask": torch.zeros(4, 2, dtype=torch.bool)}, r"Invalid padding_mask: bool \(4, 2\) in training"),
    ],
)  # fmt: skip
def test_a_wrong_batch_is_named_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        run("fit", batches(**changes))


@pytest.mark.parametrize(("stage", "name"), [("validate", "validation"), ("test", "test"), ("predict", "prediction")])
def test_all_stages_look(stage, name):
    with pytest.raises(ValueError, match=rf"Invalid tokens: 7 in tokens\[0, 0\] of {name} batch 2"):
        run(stage, batches(tokens=torch.full((4, 3), 7)))
    if stage == "predict":
        run(stage, batches(labels=None))
        return
    with pytest.raises(ValueError, match=rf"Invalid labels: 3 in labels\[1\] of {name} batch 2"):
        run(stage, batches(labels=torch.tensor([1, 3, 2, 1])))


def test_tuples_are_no_batches():
    with pytest.raises(ValueError, match="Invalid training batch 1: a list; a batch is a dict of tokens"):
        run("fit", [[TOKENS, TOKENS[:, 0]]])


def test_int32_tokens_train():
    run("fit", [batch | {"tokens": batch["tokens"].int()} for batch in batches()])


def test_batches_of_language_models(tmp_path):
    pytest.importorskip("transformers")
    module = CausalLanguageModeling(save_llm(tmp_path))
    mask = torch.zeros(1, 3, dtype=torch.bool)
    batch = {"tokens": torch.tensor([[1, 2, 9999]]), "padding_mask": mask, "answer_mask": ~mask, "loss_mask": ~mask}
    prompts = {"prompt_tokens": batch["tokens"] - 9999, "prompt_padding_mask": mask}

    def refuses(stage, batch, message):
        with pytest.raises(ValueError, match=message):
            getattr(trainer(), stage)(module, DataLoader([batch], batch_size=None))

    wanted = r"Invalid tokens: 9999 in tokens\[0, 2\] of training batch 1; .*: take the tokenizer of this model"
    refuses("fit", batch, wanted)
    refuses("validate", batch | {"loss_mask": mask.int()}, r"Invalid loss_mask: int32 \(1, 3\) in validation batch 1")
    refuses(
        "validate", {"tokens": batch["tokens"], "padding_mask": mask}, "no tensor 'answer_mask'; .*a batch is a dict"
    )
    refuses("predict", prompts, r"Invalid prompt_tokens: -9998 in prompt_tokens\[0, 0\] of prediction batch 1")
