import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.callbacks.run_monitor import run_page
from tests.callbacks.test_perturbation_monitor import run


def test_the_page_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "geheim-1234567")
    folder = run(tmp_path, "--experiment=seqcls", "--run_monitor.every_n_steps=7", "--data.seed=3")
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("run/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "    lightning-qsgd fit \\\n" in text
    assert "--run_monitor.every_n_steps=7" in text
    assert "| torch | 2." in text
    config = yaml.safe_load(text.split("### Configuration")[1])
    assert config == yaml.safe_load((folder / "config.yaml").read_text())


def test_secrets_are_cut_out(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "geheim-1234567")
    page = run_page(
        ["fit", "--trainer.logger.url=https://host/?apikey=abcdef", "--x", "geheim-1234567"], "y: geheim-1234567"
    )
    assert "geheim" not in page
    assert "abcdef" not in page
    assert "--trainer.logger.url" in page
