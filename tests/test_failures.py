"""What ends a run, said in one line; the checkpoints that are there stay whole."""

import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.failures import explain
from tests.common import SMALL

FAULTY = ["--config=configs/seqcls.yaml", *SMALL, "--data=tests.faulty_data.FaultyData", "--data.num_workers=2"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit", ["A process that loads data died: DataLoader worker (pid", "exited unexpectedly", "--shm-size"]),
        pytest.param("kill", ["A process that loads data died: DataLoader worker (pid"], marks=pytest.mark.slow),
        ("raise", ["error: Loading data failed in process ", ": ValueError: row 41: the text is broken"]),
    ],
)
def test_a_data_loading_process_that_fails(capsys, tmp_path, fault, words):
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.root={tmp_path}", f"--data.fault={fault}"]
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *FAULTY, *arguments, "--trainer.max_epochs=3"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert len(last) < 500
    for word in words:
        assert word in last
    saved = torch.load(tmp_path / "seqcls" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 3 <= saved["global_step"] < 6  # of the first epoch's end, or of the last whole step before the fault


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n lines"), "two lines"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("Error(s) in loading state_dict for X"), "The checkpoint belongs to another model: Error(s)"),
        (RuntimeError("x" * 5000), "x" * 1000),
    ],
)
def test_one_line(error, line):
    assert explain(error).startswith(line)
    assert len(explain(error)) <= 1000
