"""YAML says one thing: in every command, a key given twice is an error, and an empty part sets nothing."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_qsgd.cli import main
from lightning_qsgd.comparison import read_spec
from lightning_qsgd.comparison.arms import Arms, nested
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.parser import OneLineErrorParser
from lightning_qsgd.yaml_files import check_yaml, dump_yaml, read_yaml
from tests.common import fails

CONFIG = "configs/seqcls.yaml"
SPEC = "name: t\nbase: [seqcls]\nmetric: {margin: 0.01}\nbaseline: a\n"
TWICE = "trainer: {max_epochs: 1}\ndata:\n  init_args:\n    seed: 1\ntrainer: {max_steps: 2}\n"


@pytest.fixture
def overlay(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def settings(arguments):
    return Experiment.typed(arguments).settings


@pytest.fixture(scope="module")
def plain():
    return settings(["--config", CONFIG])


def read(path):
    """A file, as the commands read it, with a few settings only."""
    parser = OneLineErrorParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--experiment", type=str)
    parser.add_argument("--lr", type=float)
    parser.add_class_arguments(ModelCheckpoint, "checkpoint")
    return parser.parse_args(["--config", path])


@pytest.mark.parametrize("command", ["fit", "test", "audit", "calibrate", "compare"])
def test_a_key_given_twice_is_refused_by_every_command(capsys, overlay, command):
    path = overlay(TWICE)
    base = [] if command == "compare" else ["--config", CONFIG]
    last = fails(capsys, command, *base, "--config", path)
    assert (
        last == f"error: {path}, line 5: the key 'trainer' is given twice, first in line 1; merge them, or remove one"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:\n  init_args:\n    seed: 1\n    seed: 2\n", "line 4: the key 'data.init_args.seed' is given twice, fi"),
        ("trainer.max_epochs: 1\ntrainer: {max_epochs: 2}\n", "line 2: the key 'trainer.max_epochs' is given twice"),
        (
            "trainer: {callbacks: [{class_path: a,\n class_path: b}]}\n",
            "line 2: the key 'trainer.callbacks[0].class",
        ),
        ('{"threads": 1,\n "threads": 2}\n', "line 2: the key 'threads' is given twice"),
        ("trainer: {<<: {max_epochs: 1}, <<: {max_steps: 1}}\n", "line 1: the key 'trainer.<<' is given twice"),
        ("trainer:\n  max_epochs: 010\n", "line 2: trainer.max_epochs: 010 is 8 in YAML, an octal number; write a d"),
        ("trainer: {max_time: 12:00:00:00}\n", "12:00:00:00 is 2592000 in YAML, a number of base 60; write"),
        ("model: {init_args: {compile: {on: 1}}}\n", "the key on is read as a truth value; write 'on' in quotes"),
        ("trainer: &a {max_epochs: 1, x: *a}\n", "trainer.x contains itself"),
        ("trainer:\n\tmax_epochs: 1\n", "line 2: no YAML: found character that cannot start any token"),
        ("threads: 1\n---\nthreads: 2\n", "line 2: no YAML: but found another document"),
        ("trainer:max_epochs\n", "has no settings; it must have keys and values"),
        ("checkpoint: null\n", "line 1: checkpoint cannot be null; remove it"),
    ],
)
def test_what_would_be_lost_or_read_otherwise_is_refused(overlay, text, words):
    path = overlay(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read(path)
    assert str(caught.value).startswith(path)


def test_a_file_that_a_setting_names(capsys, overlay):
    path = overlay("class_path: lightning_qsgd.datamodules.SyntheticSequences\nclass_path: x\n", "data.yaml")
    words = "line 2: the key 'class_path' is given twice"
    assert f"{path}, {words}" in fails(capsys, "fit", "--config", CONFIG, "--data", path)
    outer = overlay("data: data.yaml\n", "outer.yaml")
    assert f"{path}, {words}" in fails(capsys, "fit", "--config", CONFIG, "--config", outer)


def test_values_of_the_command_line(capsys):
    last = fails(capsys, "fit", "--config", CONFIG, "--trainer", "{max_epochs: 1, max_epochs: 2}")
    assert "the key 'max_epochs' is given twice" in last
    assert settings(["--config", CONFIG, "--experiment", "{a: 1, a: 2}"])["experiment"] == "{a: 1, a: 2}"  # a text


def test_a_text_may_look_like_yaml(overlay):
    prompt = "Question: one\nAnswer: 1\nQuestion: two\nAnswer:"
    assert read(overlay(dump_yaml({"experiment": prompt}))).experiment == prompt


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("experiment: für\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml is no text in UTF-8"):
        read(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "checkpoint:\n", "\ufeffcheckpoint:\r\n  # x\r\n"])
def test_an_empty_file_sets_nothing(overlay, text):
    assert read(overlay(text)).checkpoint == read(overlay("lr: 0.1\n", "other.yaml")).checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "trainer:\n  # max_epochs: 3\nmodel:\ndata:\ncheckpoint:\n",
        "model:\n  init_args:\n    optimizer:\n      init_args:\ndata:\n  init_args:\n",
    ],
)
def test_empty_parts_set_nothing(overlay, plain, text):
    assert settings(["--config", CONFIG, "--config", overlay(text)]) == plain


def test_an_empty_part_of_many(overlay, plain):
    text = "experiment: 'ä€'\ntrainer:\nmodel:\n  # later\nthreads: 2\n"
    assert settings(["--config", CONFIG, "--config", overlay(text)]) == plain | {
        "experiment": "ä€",
        "threads": 2,
    }


def test_merge_keys_and_anchors(overlay):
    text = "trainer: {<<: [{max_epochs: 1, max_steps: 7}, {max_steps: 8}], max_epochs: 3}\n"
    text += "data: {init_args: &a {train_size: 10, val_size: 20}}\nmodel: {init_args: {embed_dim: 32}}\n"
    config = settings(["--config", CONFIG, "--config", overlay(text)])
    assert (config["trainer"]["max_epochs"], config["trainer"]["max_steps"]) == (3, 7)
    text = "a: &a {<<: {x: 1}, x: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a, x: 4}\n"
    check_yaml(text, "text")
    assert yaml.safe_load(text)["c"] == {"x": 4}


@pytest.mark.parametrize(
    ("value", "found"),
    [("1e-3", 0.001), ("1E-3", 0.001), (".5", 0.5), ("+1.e-2", 0.01), ("5", 5.0), ("1_0.5", 10.5)],
)
def test_numbers_are_what_they_look_like(overlay, value, found):
    assert read(overlay(f"lr: {value}\n")).lr == found


@pytest.mark.parametrize("name", ["1e-3", "1e5", ".5e3", "2020-01-01", "on", "010", "12:30", "null", "1", "x: y"])
def test_texts_that_look_like_numbers_stay_texts(overlay, name):
    assert read(overlay(dump_yaml({"experiment": name}))).experiment == name


def test_a_printed_configuration_runs(capsys, overlay):
    def printed(*arguments):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", *arguments, "--print_config"])
        return capsys.readouterr().out

    first = printed("--config", CONFIG, "--experiment", "1e-3")
    assert printed("--config", overlay(first)) == first
    assert "experiment: '1e-3'" in first


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), plain_values))
def test_what_is_written_is_accepted_and_read_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_yaml(value), encoding="utf-8")
    assert read_yaml(path) == value


@pytest.mark.parametrize(
    "text",
    [
        "arms:\n  a:\n  b: {set: {optimizer.lr: 0.1}}\n",
        "arms: {a: {set: , overlays: , twins: }, b: {set: {optimizer.lr: 0.1}}}\ncontrasts:\nseeds:\ntuning:\nset:\n",
    ],
)
def test_empty_parts_of_a_comparison(overlay, text):
    arms = Arms(read_spec([overlay(SPEC + text)]))
    assert arms.default("a", ["optimizer.lr"]) == {"optimizer.lr": 0.001}
    assert arms.default("b", ["optimizer.lr"]) == {"optimizer.lr": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arms: {a: {}, a: {}}\n", "the key 'arms.a' is given twice"),
        ("arms: {a: {}, on: {}}\n", "the key on is read as a truth value"),
        ("arms: {a: {}}\nseeds: {evaluation: [1:10]}\n", "seeds.evaluation[0]: 1:10 is 70 in YAML"),
        (
            "arms: {a: {set: {optimizer.lr: 0.1, model.init_args.optimizer.init_args.lr: 0.2}}}\n",
            "Invalid set: 'model.init_args.optimizer.init_args.lr' is given twice, as 0.1 and as 0.2",
        ),
        ("arms: {a: {set: {model.init_args.embed_dim: 8, model: x.Y}}}\n", "Invalid set: 'model' is given twice"),
        (
            "arms: {a: {space: {optimizer.lr: [1.0]}}}\n"
            "tuning: {trials: 1, space: {model.init_args.optimizer.init_args.lr: [0.1]}}\n",
            "Invalid space of arm a",
        ),
    ],
)
def test_a_setting_given_twice_in_a_comparison(capsys, overlay, text, words):
    assert words in fails(capsys, "compare", "--dry_run", "--config", overlay(SPEC + text))


def test_a_later_key_may_change_a_part_of_a_nested_setting():
    whole = {"model.init_args.optimizer": {"class_path": "x.Y", "init_args": {"lr": 0.1, "betas": [0, 1]}}}
    found = nested(whole | {"lr": 0.2}, lambda key: key.replace("lr", "model.init_args.optimizer.init_args.lr"))
    assert found["model"]["init_args"]["optimizer"]["init_args"] == {"lr": 0.2, "betas": [0, 1]}
    with pytest.raises(ValueError, match="given twice"):
        nested({"a.b": 1} | {"a": {"b": 2}})


def test_a_base_of_a_comparison(capsys, overlay):
    base = overlay(Path(CONFIG).read_text() + "threads: 1\n", "base.yaml")
    spec = overlay(SPEC.replace("[seqcls]", f"[{base}]") + "arms: {a: {}}\n")
    assert "base.yaml, line" in fails(capsys, "compare", "--dry_run", "--config", spec)
