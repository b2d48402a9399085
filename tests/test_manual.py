import contextlib
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from lightning_qsgd import manual
from lightning_qsgd.cli import main
from tests.common import fails

#: Settings that a first page may leave out, because all commands have them, or have no need of them.
LEFT_OUT = {"weights_only", "ckpt_path", "seed_everything", "experiment", "threads", "config", "verbose"}


def printed(capsys, *arguments):
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main(list(arguments))
    done = capsys.readouterr()
    assert "error: " not in done.err
    return done.out


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=os.environ
    ).stdout


def test_help_needs_no_torch():
    code = "import sys; from lightning_qsgd.__main__ import main; main(); assert 'torch' not in sys.modules"
    assert python(code, "--help") == manual.overview()
    assert python(code, "fit", "--config", "configs/seqcls.yaml", "-h") == manual.page("fit")


def test_whole_helps_need_no_qiskit():
    code = """
import contextlib, sys
from lightning_qsgd.cli import main
for command in ("fit", "calibrate", "compare", "report"):
    with contextlib.suppress(SystemExit):
        main([command, "--help", "all"])
assert not {"qiskit", "qiskit_aer", "tensorboard"} & sys.modules.keys()
"""
    assert "--held_out" in python(code)


def test_all_commands_on_one_page(capsys):
    page = printed(capsys, "--help")
    for command, line in manual.COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(line)}$", page, re.MULTILINE)
    assert len(page.splitlines()) <= 40
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("command", manual.COMMANDS)
def test_a_first_page_is_short_and_its_examples_parse(command, capsys, tmp_path, monkeypatch):
    page = printed(capsys, command, "--help")
    assert page == manual.page(command)
    assert len(page.splitlines()) <= 45
    assert max(map(len, page.splitlines())) <= 120
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "logs" / "seqcls" / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 1}}))
    examples = re.findall(r"^  lightning-qsgd (.*)$", page, re.MULTILINE)
    assert examples or command == "doctor"
    for example in examples:
        name, *arguments = shlex.split(example)
        if name in ("fit", "validate", "test", "predict", "compare") and "my_data" not in example:  # tests/test_init.py
            assert printed(capsys, name, *arguments, "--print_config").count(": ") > 10, example


@pytest.mark.parametrize("command", ["fit", "test", "calibrate", "compare", "report", "audit"])
def test_a_first_page_names_what_exists_and_all_groups(command, capsys):
    whole = printed(capsys, command, "--help", "all")
    entries = re.findall(r"^  (-.*)", whole, re.MULTILINE)
    names = re.findall(r"--([\w.-]+)", "\n".join(entries))
    exist = {name.replace("-", "_") for name in names} | {"help", "print_config", "model", "data"}
    text = re.sub(r"^  lightning-qsgd .*\n", "", manual.page(command), flags=re.MULTILINE)  # examples have a test
    named = {name.rstrip(".").replace("-", "_") for name in re.findall(r"--([\w.-]+)", text)} - {"SETTING"}
    assert {name for name in named if name not in exist and not name.startswith(("model.", "data."))} == set()
    groups = {name.split(".")[0] for name in exist - LEFT_OUT}
    assert groups - {name.split(".")[0] for name in named} <= {"help", "print_config", "model", "data"}


def test_a_word_finds_settings(capsys):
    found = printed(capsys, "fit", "--help", "precision")
    assert re.findall(r"^  (\S+)", found, re.MULTILINE) == ["--trainer.precision"]
    assert "(type:" in found
    assert "--seeds.tuning" in printed(capsys, "compare", "--help", "SEEDS")
    assert "--model.optimizer.quantum_weight QUANTUM_WEIGHT" in printed(capsys, "fit", "--help", "quantum_weight")
    assert "--data.train_file TRAIN_FILE" in printed(capsys, "fit", "--config=textcls", "--help", "train_file")
    assert "no name of a setting contains it" in fails(capsys, "fit", "--config=seqcls", "--help", "train_file")
    assert "no name of a setting contains it" in fails(capsys, "fit", "--help", "nonsense")


def test_a_command_that_does_not_exist(capsys):
    last = fails(capsys, "fti", "--config", "configs/seqcls.yaml")
    assert last == "error: Invalid command: 'fti'; close: fit; all: lightning-qsgd --help"
    assert "close: fit, validate, test, predict" in fails(capsys, "xyz")


def test_no_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    err = capsys.readouterr().err
    assert manual.overview() in err
    assert err.splitlines()[-1] == "error: No command; for example: lightning-qsgd fit --config seqcls"


def test_doctor_takes_no_arguments(capsys):
    assert "doctor takes no arguments: now" in fails(capsys, "doctor", "now")


def test_the_help_of_a_class_lists_no_imported_classes(capsys):
    text = printed(capsys, "fit", "--model.help", "lightning_qsgd.tasks.SequenceClassification")
    assert text.startswith("usage: lightning-qsgd [")
    assert "--model.head HEAD" in text
    assert "known" not in text
    assert len(text.splitlines()) < 150
