from functools import partial

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_qsgd.models import QuantumBody
from lightning_qsgd.tasks import Supervised

ADAMW = partial(torch.optim.AdamW, lr=0.03)


class Rows(L.LightningDataModule):
    """48 rows of 3 features; two targets of different size, or two classes."""

    input_shape = (3,)

    def __init__(self, predicts="numbers", **changes):
        super().__init__()
        self.predicts = predicts
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(48, 3, generator=generator)
        y = torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)
        if predicts == "numbers":
            self.num_targets, self.target_mean, self.target_scale = 2, [1e4, -3.0], [2.0, 0.5]
            self.columns = {"inputs": x, "targets": y, "persistence": x[:, :2]}
        else:
            self.num_classes, self.labels, self.class_counts = 2, ["no", "yes"], [12, 36]
            self.columns = {"inputs": x, "labels": (y[:, 0] > 0).long()}
        self.columns |= changes

    def loader(self, size=20):
        columns = {name: values for name, values in self.columns.items() if values is not None}
        rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
        return DataLoader(rows, batch_size=size)

    train_dataloader = val_dataloader = test_dataloader = loader

    def predict_dataloader(self):
        return DataLoader([{"inputs": row} for row in self.columns["inputs"]], batch_size=20)


def trainer(**options):
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(**{"max_epochs": 1, "enable_model_summary": False} | silent | options)


def fitted(data, **arguments):
    module = Supervised(**{"optimizer": ADAMW} | arguments)
    fitting = trainer()
    fitting.fit(module, data)
    return module, fitting


def test_metrics_of_numbers_are_in_their_units_and_of_the_whole_split():
    data = Rows()
    module, fitting = fitted(data, encoder="mlp")
    found = {name: float(value) for name, value in fitting.callback_metrics.items()}
    fitting.test(module, data, verbose=False)
    found |= {name: float(value) for name, value in fitting.callback_metrics.items()}
    with torch.no_grad():
        outputs = module.eval()({"inputs": data.columns["inputs"]}).double()
    targets, last = data.columns["targets"].double(), data.columns["persistence"].double()
    off = (outputs - targets) * torch.tensor([2.0, 0.5])
    variance = (targets - targets.mean(0)).square().mean(0)
    expected = {
        "loss": F.mse_loss(outputs, targets),
        "mse": off.square().mean(),
        "mae": off.abs().mean(),
        "r2": (1 - (outputs - targets).square().mean(0) / variance).mean(),
        "skill": 1 - F.mse_loss(outputs, targets) / F.mse_loss(last, targets),
    }
    assert {name.removeprefix("test/") for name in found if name.startswith("test/")} == set(expected)
    for name, value in expected.items():
        assert found[f"test/{name}"] == found[f"val/{name}"] == pytest.approx(float(value), rel=1e-5), name
    predicted = torch.cat(fitting.predict(module, data))
    torch.testing.assert_close(predicted.double(), outputs * torch.tensor([2.0, 0.5]) + torch.tensor([1e4, -3.0]))


def test_test_step_gives_numbers_in_their_units():
    data = Rows()
    module, _ = fitted(data)
    seen = []

    class Keep(L.Callback):
        def on_test_batch_end(self, trainer, module, outputs, *_):
            seen.append(outputs)

    trainer(callbacks=[Keep()]).test(module, data, verbose=False)
    assert seen[0].keys() == {"predictions", "targets", "persistence"}
    unit = torch.tensor([2.0, 0.5]), torch.tensor([1e4, -3.0])
    for name in ("targets", "persistence"):
        there = torch.cat([outputs[name] for outputs in seen])
        torch.testing.assert_close(there, data.columns[name].double() * unit[0] + unit[1])


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_units_of_every_size_keep_their_digits(unit):
    data = Rows()
    data.target_mean, data.target_scale = [1e6 * unit, 0.0], [unit, unit]
    module, fitting = fitted(data)
    found = fitting.callback_metrics
    assert float(found["val/mse"]) == pytest.approx(unit**2 * float(found["val/loss"]), rel=1e-5)
    outputs, targets = module.eval()({"inputs": data.columns["inputs"]}), data.columns["targets"]
    r2 = (1 - (outputs - targets).square().mean(0) / targets.var(0, correction=0)).mean()
    assert float(found["val/r2"]) == pytest.approx(float(r2), rel=1e-5)
    predicted = torch.cat(fitting.predict(module, data))[:, 0].tolist()
    assert [value / unit - 1e6 for value in predicted] == pytest.approx(outputs[:, 0].tolist(), abs=1e-6)


def test_without_persistence_there_is_no_skill_and_without_variation_no_r2():
    columns = Rows().columns
    one = {name: values[:1] for name, values in columns.items() if name != "persistence"}
    module, fitting = fitted(Rows(persistence=None))
    assert "val/skill" not in fitting.callback_metrics
    assert "val/r2" in fitting.callback_metrics
    (metrics,) = fitting.validate(module, Rows(**one | {"persistence": None}), verbose=False)
    assert metrics["val/r2"] != metrics["val/r2"]
    assert metrics["val/mse"] > 0
    equal = columns["targets"].clone()
    equal[:, 1] = 0.1
    (metrics,) = fitting.validate(module, Rows(persistence=None, targets=equal), verbose=False)
    assert metrics["val/r2"] != metrics["val/r2"]
    small = columns["targets"] * 1e-4
    (metrics,) = fitting.validate(module, Rows(persistence=None, targets=small), verbose=False)
    assert metrics["val/r2"] < -100  # of predictions that are 10,000 times too large


def test_classes_have_the_metrics_of_classification():
    data = Rows("classes")
    module, fitting = fitted(data, encoder="mlp", body="circuit", class_weights="balanced")
    assert module.loss_weight.tolist() == pytest.approx([2.0, 2 / 3])
    with torch.no_grad():
        logits = module.eval()({"inputs": data.columns["inputs"]})
    accuracy = multiclass_accuracy(logits, data.columns["labels"], 2, average="micro")
    torch.testing.assert_close(fitting.callback_metrics["val/accuracy"], accuracy)
    assert {"val/loss", "val/f1", "train/loss"} <= set(fitting.callback_metrics)
    torch.testing.assert_close(torch.cat(fitting.predict(module, data)), logits.softmax(-1))


def test_what_it_learned_about_the_data_stays_in_the_checkpoint(tmp_path):
    body = partial(QuantumBody, options={"depth": 1})
    module, fitting = fitted(Rows(), encoder="identity", body=body)
    fitting.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
    assert saved == {
        "encoder": "identity", "input_shape": [3], "vocab_size": None, "num_classes": None, "num_targets": 2,
        "class_weights": None, "target_mean": [1e4, -3.0], "target_scale": [2.0, 0.5],
    }  # fmt: skip
    loaded = Supervised.load_from_checkpoint(tmp_path / "x.ckpt", body=body).eval()
    batch = {"inputs": torch.randn(4, 3)}
    torch.testing.assert_close(loaded.predict_step(batch, 0), module.eval().predict_step(batch, 0))


def test_tokens_train_as_in_sequence_classification():
    tokens = torch.arange(48 * 4).view(48, 4) % 7
    data = Rows("classes", inputs=None, tokens=tokens)
    data.input_shape, data.vocab_size = None, 7
    module, _ = fitted(data, encoder="transformer")
    assert module.hparams["vocab_size"] == 7
    with pytest.raises(ValueError, match=r"Invalid tokens: 7 in tokens\[0, 0\] of validation batch 1"):
        trainer().validate(module, Rows("classes", inputs=None, tokens=tokens + 7))


X = torch.zeros(48, 3)


@pytest.mark.parametrize(
    ("predicts", "changes", "message"),
    [
        ("numbers", {"inputs": torch.zeros(48, 4)}, r"Invalid inputs: float32 \(20, 4\) in training .*\(B, 3\)"),
        ("numbers", {"inputs": X.long()}, r"Invalid inputs: int64 \(20, 3\)"),
        ("numbers", {"inputs": None}, "Invalid training batch 1: it has no tensor 'inputs'; there are: targets"),
        ("numbers", {"targets": X}, r"Invalid targets: float32 \(20, 3\) in training batch 1; .*\(20, 2\)"),
        ("numbers", {"targets": X[:, :2].long()}, r"Invalid targets: int64"),
        ("numbers", {"targets": None}, "no tensor 'targets'; .*a batch is a dict of inputs"),
        ("numbers", {"persistence": X}, r"Invalid persistence: float32 \(20, 3\)"),
        ("classes", {"labels": torch.full((48,), 2)}, r"Invalid labels: 2 in labels\[0\] of training batch 1"),
        ("classes", {"labels": None}, "no tensor 'labels'; there are: inputs; a batch is a dict of inputs"),
    ],
)  # fmt: skip
def test_a_wrong_batch_is_named(predicts, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(num_sanity_val_steps=0).fit(Supervised(optimizer=ADAMW), Rows(predicts, **changes))


def of_data(kind="numbers", **attributes):
    data = Rows(kind)
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (of_data(num_targets=None), {}, r"Invalid num_classes: None; set it, or num_targets, in the config"),
        (of_data(input_shape=None), {}, r"Invalid input_shape: None; set it, or vocab_size"),
        (of_data(num_classes=2, predicts=None), {}, "Invalid num_targets: 2, since num_classes is 2; leave one"),
        (of_data(vocab_size=2), {}, r"Invalid vocab_size: 2, since input_shape is \(3,\); leave one"),
        (of_data(), {"class_weights": [1.0, 1.0]}, r"Invalid class_weights: \[1.0, 1.0\]; the data have numbers"),
        (of_data(target_scale=[1.0]), {}, r"Invalid target_scale: \[1.0\]; it must be a number for each of 2 targets"),
        (of_data("classes", num_targets=2), {}, None),
        (of_data("classes"), {"num_targets": 2}, "Invalid num_targets: 2; the data module predicts classes: leave it"),
        (of_data(), {"num_classes": 3}, "Invalid num_classes: 3; the data module predicts numbers: leave it out"),
        (of_data("classes"), {"class_weights": [1.0, float("nan")]}, r"Invalid class_weights: \[1.0, nan\]"),
        (
            of_data("classes"),
            {"class_weights": [0.0, 0.0]},
            "Invalid class_weights: .*; it must be 2 numbers .* not all 0",
        ),
    ],
)
def test_sizes_that_are_missing_or_ambiguous(data, arguments, message):
    module = Supervised(optimizer=ADAMW, **arguments)
    if message is None:
        trainer().fit(module, data)
        assert module.predicts_classes
        return
    with pytest.raises(ValueError, match=message):
        trainer().fit(module, data)


def test_one_target_may_come_without_an_axis():
    data = Rows(persistence=None)
    data.num_targets, data.target_mean, data.target_scale = 1, None, None
    data.columns["targets"] = data.columns["targets"][:, 0]
    module, fitting = fitted(data)
    assert module({"inputs": X}).shape == (48, 1)
    assert fitting.callback_metrics["val/mse"] == pytest.approx(float(fitting.callback_metrics["val/loss"]))
