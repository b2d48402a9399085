"""The README's commands run, in order. Blocks marked `no-run (reason)` do not."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SMALL = ["--data.train_size=64", "--data.val_size=64", "--data.test_size=64", "--trainer.enable_progress_bar=false"]


def test_every_block_that_does_not_run_says_why():
    for language, words, _ in BLOCKS:
        assert not words or re.fullmatch(r" no-run \(.{10,}\)", words), f"{language}{words}"


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    commands = [
        line.split("#")[0]
        for language, words, text in BLOCKS
        if language == "bash" and not words
        for line in text.splitlines()
        if line.strip()
    ]
    assert len(commands) >= 6
    for command in commands:
        python, flag, package, name, *arguments = shlex.split(command)
        assert (python, flag, package) == ("python", "-m", "lightning_qsgd"), command
        epochs = 2 if "last" in arguments else 1  # a resumed run has some left
        short = [f"--trainer.max_epochs={epochs}"] if name == "fit" else []
        main([name, *arguments, *short, *(() if name in ("doctor", "report") else SMALL)])
    assert (tmp_path / "logs" / "seqcls" / "version_0" / "predictions.csv").is_file()
    assert (tmp_path / "logs" / "report" / "report.html").is_file()


TRAINING, LAYER = (text for language, words, text in BLOCKS if language == "python" and not words)


def test_the_python_example():
    code = TRAINING
    assert len([line for line in code.splitlines() if line.strip() and "import" not in line]) <= 15
    code = code.replace("range(12)", "range(1)").replace("SyntheticSequences()", "SyntheticSequences(train_size=64)")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["circuit"].circuits == 625
    assert names["optimizer"].state[names["model"].head.weight]["step"] == 2


def test_the_layer_example(capsys):
    exec(compile(LAYER, "README.md", "exec"), names := {})
    assert capsys.readouterr().out == "224\n"
    assert names["model"][1].weights.grad.abs().min() > 0


@pytest.mark.slow
def test_the_python_example_trains():
    names = {}
    exec(compile(TRAINING, "README.md", "exec"), names)
    model = names["model"].eval()
    with torch.no_grad():
        right = [
            (model(batch["tokens"]).argmax(-1) == batch["labels"]).float()
            for batch in names["SyntheticSequences"]().val_dataloader()
        ]
    assert torch.cat(right).mean() >= 0.85  # single epochs jump by points


def test_the_picture_names_every_part():
    text = (ROOT / "README.md").read_text()
    picture = text[text.index("## Layout") :].split("```")[1]
    for path in sorted((ROOT / "lightning_qsgd").iterdir()):
        if path.name not in ("__init__.py", "__main__.py", "py.typed", "__pycache__"):
            assert path.name in picture, path.name


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
