"""What several tests of the command line share."""

from pathlib import Path

import pytest

from lightning_qsgd.cli import main

#: Over a configuration whose circuit runs on shots: fewer of them, for tests of anything else.
FEW_SHOTS = f"--config={Path(__file__).with_name('few_shots.yaml')}"

#: A main job of three batches, in silence.
SMALL = [
    "--data.train_size=96",
    "--data.val_size=64",
    "--data.test_size=70",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]

#: Options of a model that is built and trained in no time.
TINY = {"embed_dim": 8, "num_heads": 2, "feedforward_dim": 8, "num_layers": 1, "max_length": 32}
TINY_ARGUMENTS = [f"--model.{name}={value}" for name, value in TINY.items()]


def fails(capsys, *arguments):
    """The last line of a command that ends with an error."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last
