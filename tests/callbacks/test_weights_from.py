"""A new run that starts from the weights of another one."""

import json

import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import fails
from tests.own import RUN

OWN = ["--model=tests.own.Regression", *RUN, "--checkpoint.monitor=val/mse", "--checkpoint.mode=min"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    main(["fit", *OWN, f"--trainer.default_root_dir={root}"])
    return root / "own/version_0/checkpoints/last.ckpt"


def test_weights_and_nothing_else(trained, tmp_path, caplog):
    arguments = [
        f"--trainer.default_root_dir={tmp_path}",
        f"--weights_from={trained}",
        "--model.lr=0",
        "--seed_everything=7",
    ]
    main(["fit", *OWN, *arguments, "--trainer.max_epochs=1"])
    assert f"Weights from {trained}, after step 6 of its run" in caplog.text
    before = torch.load(trained, weights_only=True)
    after = torch.load(tmp_path / "own/version_0/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in before["state_dict"])
    assert (after["global_step"], after["epoch"]) == (3, 1)
    folder = tmp_path / "own/version_0"
    assert json.loads((folder / "summary.json").read_text())["weights_from"] == str(trained)
    again = [f"--config={folder / 'config.yaml'}", "--ckpt_path=last"]  # which knows nothing of the weights
    main(["test", *again])
    main(["fit", *again, "--trainer.max_epochs=2"])
    main(["fit", *OWN, *arguments, "--ckpt_path=auto", "--trainer.max_epochs=3"])  # the same job, started again


def test_weights_alone_are_enough(trained, tmp_path):
    alone = tmp_path / "alone.ckpt"
    torch.save({"state_dict": torch.load(trained, weights_only=True)["state_dict"]}, alone)
    main(["fit", *OWN, f"--trainer.default_root_dir={tmp_path}", f"--weights_from={alone}", "--trainer.max_epochs=1"])


def test_the_weights_of_another_model_are_refused(trained, tmp_path, capsys):
    root = f"--trainer.default_root_dir={tmp_path}"
    said = fails(capsys, "fit", *OWN, root, f"--weights_from={trained}", "--model.width=3")
    assert said.startswith(f"error: Invalid weights_from: {trained} has the weights of another model:")
    assert "enter.0.weight" in said
    assert "no.ckpt; there is no such file" in fails(capsys, "fit", *OWN, root, "--weights_from=no.ckpt")


def test_texts_with_other_words_are_warned_of(tmp_path):
    for name, words in (("first", ("good film", "bad film")), ("second", ("fine play", "poor play"))):
        rows = "".join(
            f"{text} {i},{label}\n" for i in range(20) for text, label in zip(words, ("pos", "neg"), strict=True)
        )
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    small = ["--config=textcls", "--model.embed_dim=8", "--model.num_heads=2", "--model.feedforward_dim=8", *RUN[1:]]
    small += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1", "--model.num_layers=1"]
    main(["fit", *small, f"--data.train_file={tmp_path / 'first.csv'}"])
    weights = tmp_path / "own/version_0/checkpoints/last.ckpt"
    with pytest.warns(UserWarning, match="had another vocabulary: words or classes may have other numbers"):
        main(["fit", *small, f"--data.train_file={tmp_path / 'second.csv'}", f"--weights_from={weights}"])
