import csv
import json
import sys
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_qsgd.callbacks import AttentionMonitor
from lightning_qsgd.callbacks.figures import curve_figure, pixels, score_window, spectrum_figure
from lightning_qsgd.cli import main
from lightning_qsgd.models import QuantumAttention
from lightning_qsgd.quantum import AerSampler, ExactSampler
from tests.common import SMALL
from tests.ranks import on_two_ranks

CONFIG = "configs/seqcls_quantum_attention.yaml"
MEANS = {"phi_spread", "score_spread", "phi_share", "entropy", "entropy_without", "moved", "gain", "scale"}
NOISY = {
    "FakeBackendSampler": ["--model.attention.sampler=lightning_qsgd.quantum.FakeBackendSampler"],
    "AerSampler": ["--model.attention.sampler=lightning_qsgd.quantum.AerSampler",
                   "--model.attention.sampler.noise=depolarizing"],
}  # fmt: skip


def run(command, root, *arguments):
    main([command, "--config", CONFIG, *SMALL, f"--trainer.default_root_dir={root}", *arguments])
    return root / "seqcls_quantum_attention" / "version_0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs of three steps, watched every second step; its folder."""
    root = tmp_path_factory.mktemp("logs")
    return run("fit", root, "--trainer.max_epochs=2", "--attention_monitor.every_n_steps=2")


@pytest.fixture(scope="module")
def events(trained):
    return EventAccumulator(str(trained), size_guidance={"images": 0, "histograms": 0}).Reload()


class Rows(L.LightningDataModule):
    """Two batches of four rows, eight tokens of six numbers each."""

    def loader(self):
        x = torch.randn(8, 8, 6, generator=torch.Generator().manual_seed(0))
        rows = [{"x": row, "labels": torch.tensor(k % 3)} for k, row in enumerate(x)]
        return torch.utils.data.DataLoader(rows, batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = loader


class Tiny(L.LightningModule):
    """A quantum layer of one small circuit, with what a test asks of its steps."""

    def __init__(self, fails=False, **options):
        super().__init__()
        self.attention = QuantumAttention(6, 2, heads=[1], num_qubits=3, depth=1, **options)
        self.out = nn.Linear(6, 3)
        self.fails, self.watched = fails, []

    def forward(self, batch):
        self.watched.append(self.attention.watch)
        return self.out(self.attention(batch["x"]).mean(1))

    def training_step(self, batch, _):
        loss = nn.functional.cross_entropy(self(batch), batch["labels"])
        if self.fails:
            self.attention.watch = True  # as if the failure came before the layer was reached
            raise RuntimeError("as asked")
        return loss

    def validation_step(self, batch, _):
        self(batch)

    def test_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_with(*callbacks, folder=None, **options):
    logger = [] if folder is None else [CSVLogger(folder, "", ""), TensorBoardLogger(folder, "", "")]
    return L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=logger, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False, enable_checkpointing=False, **{"max_epochs": 2, "log_every_n_steps": 1, **options},
    )  # fmt: skip


def test_scalars_and_angles_of_each_layer(trained, events):
    names = {tag.removeprefix("attention/") for tag in events.Tags()["scalars"] if tag.startswith("attention/")}
    assert names == {f"{name}/blocks.{layer}" for name in MEANS for layer in (0, 1)}
    number = {name: [(e.step, e.value) for e in events.Scalars(f"attention/{name}/blocks.0")] for name in MEANS}
    assert all([step for step, _ in values] == [0, 2, 4] for values in number.values())
    assert number["gain"][0][1] == pytest.approx(1, abs=2e-3)
    assert 0 < number["phi_share"][0][1] < 1
    assert number["entropy_without"][0][1] < np.log(32)
    for histogram in events.Histograms("attention/angles/blocks.1"):
        assert histogram.histogram_value.num == 4 * 12
        assert -np.pi <= histogram.histogram_value.min < histogram.histogram_value.max < np.pi
    with open(trained / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["attention/moved/blocks.1"]]
    assert [row["step"] for row in rows] == ["0", "2", "4"]


def test_pictures_at_the_start_and_at_each_validation(events):
    assert set(events.Tags()["images"]) == {
        f"attention/{kind}/blocks.{layer}" for kind in ("spectrum", "curve") for layer in (0, 1)
    }
    for tag in events.Tags()["images"]:
        images = events.Images(tag)
        assert [image.step for image in images] == [0, 3, 6]
        assert {(image.width, image.height) for image in images} == {(640, 400)}
        assert images[0].encoded_image_string != images[2].encoded_image_string


@pytest.mark.parametrize("sampler", NOISY)
def test_a_sampler_beside_simulation(trained, sampler, capsys):
    run("test", trained.parents[1], "--ckpt_path=best", *NOISY[sampler])
    out = capsys.readouterr().out
    noisy = json.loads((trained / "test.json").read_text())
    heads = 2 * 4
    assert (noisy["circuits"], noisy["shots"]) == (heads * 17, heads * 17 * 1024)
    for words in (f"Quantum attention on {sampler}", "blocks.1", heads * 17 * 1024, heads * 408, heads * 408 * 1024):
        assert str(words) in out
    assert 0.003 < noisy["test/series_error"] < noisy["test/phi_spread"]
    run("test", trained.parents[1], "--ckpt_path=best")
    exact = json.loads((trained / "test.json").read_text())
    assert noisy["test/accuracy_simulated"] == exact["test/accuracy"]
    assert noisy["test/loss"] != exact["test/loss"]
    assert not {"test/series_error", "test/accuracy_simulated", "circuits"} & exact.keys()
    assert "Quantum attention on" not in capsys.readouterr().out


def test_summary_counts_the_circuits_of_attention(tmp_path):
    tiny = ["heads=[0]", "num_qubits=3", "depth=1", "sampler=lightning_qsgd.quantum.AerSampler"]
    folder = run("fit", tmp_path, "--model.num_layers=1", "--trainer.max_epochs=1", "--trainer.limit_val_batches=2",
                 "--trainer.num_sanity_val_steps=0", *(f"--model.attention.{option}" for option in tiny))  # fmt: skip
    circuits = 3 * (7 + 7 * 3 * 2) + 7  # three steps: 7 nodes, three gates, each shifted twice; one validation
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["circuits"], summary["shots"]) == (circuits, circuits * 1024)
    assert summary["circuit_seconds"] > 0


@pytest.mark.parametrize("sampler", [None, AerSampler])
def test_watching_changes_nothing_and_runs_no_circuits(tmp_path, sampler):
    outcomes = []
    for watching in (True, False):
        torch.manual_seed(1)
        model = Tiny(sampler=None if sampler is None else sampler(shots=64))
        trainer = trainer_with(*[AttentionMonitor(1)] * watching, folder=tmp_path / str(watching))
        trainer.fit(model, Rows())
        trainer.test(model, Rows(), verbose=False)
        outcomes.append((model.attention.series.circuits, model.attention.series.exact, model.state_dict()))
    (circuits, exact, weights), (*plain, others) = outcomes
    assert [circuits, exact] == plain
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (circuits > 0) == (sampler is not None)


def test_numbers_of_a_test_are_those_of_the_series(capsys):
    model = Tiny(sampler=AerSampler(shots=64), gain=2.0)
    trainer = trainer_with(AttentionMonitor())
    trainer.test(model, Rows(), verbose=False)
    series = model.attention.series
    assert series.circuits == series.circuits_per_evaluation == 7
    logged = trainer.callback_metrics
    assert logged["test/series_error"] == pytest.approx(series.error().item())
    series.exact = True
    assert logged["test/phi_spread"] == pytest.approx(series.spread().item())
    table = capsys.readouterr().out
    assert f"simulated {_accuracy(model):.4f}" in " ".join(table.split())
    assert logged["test/accuracy_simulated"] == pytest.approx(_accuracy(model))
    assert str(7 * 64) in table
    assert str(42 * 64) in table
    trainer.test(model, Rows(), verbose=False)  # exact by wish: nothing to compare
    assert "test/series_error" not in trainer.callback_metrics


@torch.no_grad()
def _accuracy(model):
    right = [model(batch).argmax(-1) == batch["labels"] for batch in Rows().test_dataloader()]
    return torch.cat(right).float().mean().item()


def test_one_forward_pass_with_accumulated_gradients(tmp_path):
    model = Tiny()
    trainer = trainer_with(AttentionMonitor(2), folder=tmp_path, accumulate_grad_batches=2, max_epochs=4)
    trainer.fit(model, Rows())
    # two sanity batches; in each epoch two batches of one step, and two of validation
    assert [k for k, watched in enumerate(model.watched) if watched] == [2, 2 + 2 * 4]
    assert not model.attention.watch
    assert model.attention.statistics is None
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("attention/moved/attention")] == [0, 2]


def test_an_exception_leaves_nothing_on(tmp_path):
    model = Tiny(fails=True)
    with pytest.raises(RuntimeError, match="as asked"):
        trainer_with(AttentionMonitor(1), folder=tmp_path).fit(model, Rows())
    assert not model.attention.watch
    assert model.attention.statistics is None


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_any_precision(tmp_path, precision):
    model = Tiny(sampler=ExactSampler())
    trainer = trainer_with(AttentionMonitor(1), folder=tmp_path, precision=precision, max_epochs=1)
    trainer.fit(model, Rows())
    trainer.test(model, Rows(), verbose=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert len(events.Scalars("attention/phi_share/attention")) == 2
    assert len(events.Images("attention/curve/attention")) == 2
    assert trainer.callback_metrics["test/series_error"] < 1e-5
    assert "test/accuracy_simulated" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("interval", "options"), [(0, {}), (1, {"gain": 0.0, "learn_gain": False})], ids=["off", "classical"]
)
def test_silence(tmp_path, interval, options):
    trainer_with(AttentionMonitor(interval), folder=tmp_path).fit(Tiny(**options), Rows())
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert not [tag for kind in ("scalars", "images", "histograms") for tag in tags[kind] if "attention" in tag]


def test_controls_without_circuits_have_no_angles(tmp_path):
    trainer_with(AttentionMonitor(1), folder=tmp_path).fit(Tiny(phi="series"), Rows())
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert "attention/curve/attention" in tags["images"]
    assert tags["histograms"] == []


def test_a_forward_of_another_signature_loses_the_accuracy_only():
    class Other(Tiny):
        def forward(self, x, scale):
            return scale * self.out(self.attention(x).mean(1))

        def test_step(self, batch, batch_idx):
            return self(batch["x"], 2.0)

    trainer = trainer_with(AttentionMonitor())
    model = Other(sampler=ExactSampler())
    with pytest.warns(UserWarning, match=r"No test/accuracy_simulated: Other.forward"):
        trainer.test(model, Rows(), verbose=False)
    assert trainer.callback_metrics["test/series_error"] < 1e-5
    assert "test/accuracy_simulated" not in trainer.callback_metrics
    assert not model.attention.series.exact


class FailsOnRank1(Tiny):
    def forward(self, batch):
        if self.attention.series.exact and self.trainer.global_rank == 1:
            raise ValueError("only here")
        return super().forward(batch)


def outcome_on_a_rank():
    trainer = trainer_with(AttentionMonitor(), devices=2, strategy="ddp_fork")
    trainer.strategy._launcher = None  # the ranks are here already
    model = FailsOnRank1(sampler=ExactSampler())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = trainer.test(model, Rows(), verbose=False)[0]
    return metrics, model.attention.series.circuits, [text for w in caught if "only here" in (text := str(w.message))]


def test_a_comparison_that_fails_on_one_rank_leaves_no_rank_waiting(tmp_path):
    (first, circuits, warned), (second, _, silent) = on_two_ranks(outcome_on_a_rank, tmp_path)
    assert first == second
    assert "test/accuracy_simulated" not in first
    assert first["test/series_error"] < 1e-5
    assert circuits == 7  # one head of 3 qubits at depth 1
    assert ("FailsOnRank1.forward(batch) failed: only here" in warned[0], silent) == (True, [])


def test_a_model_without_circuits_never_asks_for_qiskit(tmp_path, monkeypatch):
    class Classical(Tiny):
        def __init__(self):
            L.LightningModule.__init__(self)
            self.out, self.fails = nn.Linear(6, 3), False

        def forward(self, batch):
            return self.out(batch["x"].mean(1))

    for name in ("qiskit", "lightning_qsgd.quantum"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    trainer, model = trainer_with(AttentionMonitor(1), folder=tmp_path), Classical()
    trainer.fit(model, Rows())
    trainer.test(model, Rows(), verbose=False)
    assert not any("attention" in tag for tag in EventAccumulator(str(tmp_path)).Reload().Tags()["images"])


def test_invalid_interval():
    with pytest.raises(ValueError, match="Invalid every_n_steps: -1"):
        AttentionMonitor(-1)


@pytest.mark.parametrize(("heads", "frequencies"), [(1, 2), (4, 8), (16, 36)])
def test_figures_fit_their_heads_and_frequencies(heads, frequencies):
    amplitudes = np.random.default_rng(0).random((heads, frequencies))
    spectrum = spectrum_figure(amplitudes, range(1, frequencies + 1), range(heads))
    labels = [label.get_text() for label in spectrum.axes[0].get_xticklabels()]
    assert labels[0] == "1"
    assert len(labels) <= 12
    scores = np.linspace(-1, 1, 50)
    curve = curve_figure(scores, np.sin(scores) * np.ones((heads, 1)), range(heads), (-0.5, 0.5))
    assert len(curve.axes[0].lines) == heads + 1
    assert len(curve.legends) == (heads <= 8)
    for figure in (spectrum, curve):
        assert pixels(figure).shape == (400, 640, 3)


def test_curves_show_at_most_two_periods():
    assert score_window(None, 1.0) == (-4, 4)
    assert score_window((-1.0, 3.0), 1.0) == (-3, 5)
    low, high = score_window((-35.0, 10.0), 2.0)
    assert (low + high) / 2 == -12.5
    assert high - low == pytest.approx(2 * np.pi)
    assert score_window((0.0, 1.0), 0.0) == (-0.5, 1.5)


@pytest.mark.parametrize("angles", ["learned", "frozen"])
def test_a_run_that_diverges_is_not_stopped_by_its_pictures(tmp_path, angles):
    class Diverging(Tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * float("nan")

    trainer = trainer_with(AttentionMonitor(every_n_steps=1), folder=tmp_path)
    trainer.fit(Diverging(angles=angles), Rows())
    assert trainer.state.finished


def test_averaged_weights_load_again(tmp_path):
    arguments = ["--config", "configs/seqcls_quantum_attention.yaml", *SMALL, f"--trainer.default_root_dir={tmp_path}"]
    short = ["--config", "configs/overlay/ema.yaml", "--trainer.max_epochs=1"]
    main(["fit", *arguments, *short])
    main(["test", *arguments, "--ckpt_path=last"])
    (folder,) = (tmp_path / "seqcls_quantum_attention").iterdir()
    assert (folder / "test.json").is_file()
