"""The command line wins over files and checkpoints, files over checkpoints, and what nobody names stays as it was."""

import json
import shutil

import pytest
import torch
import yaml

from lightning_qsgd.cli import main
from lightning_qsgd.settings import Named, compare, flat, named_in, so_that_arguments_win
from tests.common import fails
from tests.own import RUN

AER = ["--model.sampler=lightning_qsgd.quantum.AerSampler", "--model.sampler.shots=50"]


def test_arguments_before_a_file_are_moved_behind_it():
    words = ["test", "--m=A", "--m.x", "-1", "--config", "a.yaml", "--t.l+=3", "-c", "c.yaml", "--y=2"]
    won = ["test", "--m=A", "--config", "a.yaml", "-c", "c.yaml", "--m=A", "--m.x", "-1", "--t.l+=3", "--y=2"]
    assert so_that_arguments_win(words) == won
    words = ["fit", "--config=a", "--d.n=3", "--d.class_path=B", "--config=b"]  # n is of the class before
    assert so_that_arguments_win(words) == ["fit", "--config=a", "--config=b", "--d.n=3", "--d.class_path=B"]
    for same in (["test", "--config", "a.yaml", "--x=1"], ["--config"], ["fit"], [], ["-c", "a", "fit"]):
        assert so_that_arguments_win(same) == same


def test_who_named_a_setting(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("model: {class_path: a.B, init_args: {width: 3}}\ntrainer: {max_epochs: 2}\n")
    nested = "--model={class_path: a.B, init_args: {depth: 4}}"
    named = named_in(["fit", "--config", str(file), "--model.init_args.lr=0.1", "--data", "c.D", nested])
    sources = {
        "model.init_args.width": "configuration",
        "model.class_path": "command line",
        "trainer.max_epochs": "configuration",
        "model.init_args.lr": "command line",
        "model.init_args.depth": "command line",
        "data": "command line",
        "data.init_args.x": None,
    }
    assert {key: named.source(key) for key in sources} == sources


def test_what_nobody_names_is_kept_and_other_classes_are_compared_as_a_whole():
    recorded = flat({"model": {"a": 1, "b": 2, "head": {"class_path": "x.Y", "init_args": {"n": 1}}}, "data": {"c": 3}})
    now = flat({"model": {"a": 5, "b": 6, "head": None, "new": 7}, "data": {"c": 4}, "trainer": {"d": 0}})
    kept, asked = compare(recorded, now, Named({"model.b"}, {"model.new"}), keep=("model",))
    assert kept == {"model.a": (1, 5)}
    assert asked == {
        "model.b": (2, 6),
        "data.c": (3, 4),
        "model.head.class_path": ("x.Y", None),
        "model.new": (None, 7),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of modules with and without hyper-parameters: width and activation from the command line."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("Regression", "Remembered"):
        arguments = [f"--model=tests.own.{name}", f"--experiment={name}", "--checkpoint.monitor=val/mse"]
        arguments += ["--checkpoint.mode=min", "--model.width=3", "--model.activation=relu"]
        main(["fit", *RUN, *arguments, f"--trainer.default_root_dir={root}"])
    return root


@pytest.fixture
def root(folder, tmp_path):
    """A copy of the runs."""
    return shutil.copytree(folder, tmp_path / "runs")


def evaluate(root, command, name, *arguments, model=None):
    where = ["--ckpt_path=best", f"--experiment={name}", f"--trainer.default_root_dir={root}"]
    main([command, *RUN, f"--model=tests.own.{model or name}", *where, *arguments])
    path = root / name / "version_0" / f"{command}.json"
    return json.loads(path.read_text()) if path.is_file() else None


@pytest.mark.parametrize("name", ["Regression", "Remembered"])
def test_the_sampler_of_the_command_line_runs_and_is_named(root, name, capsys):
    with pytest.warns(UserWarning, match="Unlike in the run: model.init_args.sampler.class_path None -> light.*AerS"):
        noisy = evaluate(root, "test", name, *AER)
    (engine,) = noisy["engines"]
    assert (engine["engine"], engine["shots"], engine["circuits"]) == ("AerSampler", 50, 12)
    assert (noisy["circuits"], noisy["shots"]) == (12, 600)
    assert "Circuits ran on: AerSampler on aer_simulator, 50 shots, 12 circuits (model)" in capsys.readouterr().out
    exact = evaluate(root, "validate", name)
    assert exact["engines"] == [
        {"part": "model", "engine": "CircuitSimulator (native)", "device": None, "shots": None, "circuits": None}
    ]
    assert abs(exact["val/mse"] - noisy["test/mse"]) > 1e-4


@pytest.mark.parametrize("name", ["Regression", "Remembered"])
def test_what_nobody_names_is_that_of_the_run(root, name):
    with pytest.warns(UserWarning, match=r"As in the run.*init_args.activation=relu \(not tanh\).*width=3 \(not 2\)"):
        found = evaluate(root, "test", name)["test/mse"]
    assert found == evaluate(root, "test", name, "--model.activation=relu", "--model.width=3")["test/mse"]


def test_a_file_wins_where_it_gives_weights_no_other_shape(root, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {width: 5, activation: tanh}}")
    with (
        pytest.warns(UserWarning, match=r"width=3 \(not 5\)"),
        pytest.warns(UserWarning, match="activation relu -> tanh"),
    ):
        found = evaluate(root, "test", "Regression", f"--config={overlay}")["test/mse"]
    assert found == evaluate(root, "test", "Regression", "--model.activation=tanh")["test/mse"]
    assert found != evaluate(root, "test", "Regression")["test/mse"]


def test_the_command_line_wins_or_is_refused(root, capsys):
    last = root / "Regression" / "version_0" / "checkpoints" / "best.ckpt"
    command = ["test", *RUN, "--model=tests.own.Regression", f"--ckpt_path={last}", "--model.width=5"]
    assert "Invalid --model.width: 5; the weights in" in fails(capsys, *command)
    resume = ["fit", *RUN, "--model=tests.own.Regression", f"--ckpt_path={last}", "--trainer.max_epochs=4"]
    assert "Invalid experiment: own; a resumed run stays in its folder" in fails(capsys, *resume)
    more = [
        f"--ckpt_path={last}",
        "--weights_from=x.ckpt",
        "--experiment=Regression",
        f"--trainer.default_root_dir={root}",
    ]
    assert "Invalid weights_from: with --ckpt_path" in fails(capsys, "fit", *RUN, "--model=tests.own.Regression", *more)


def test_a_resumed_run_is_compared_with_its_last_configuration(root):
    arguments = ["fit", *RUN, "--model=tests.own.Regression", "--ckpt_path=last", "--experiment=Regression"]
    arguments += [f"--trainer.default_root_dir={root}", "--checkpoint.monitor=val/mse", "--checkpoint.mode=min"]
    with pytest.warns(
        UserWarning, match="Resumed with changes: model.init_args.lr 0.05 -> 0.02, trainer.max_epochs 2 -> 3"
    ):
        main([*arguments, "--trainer.max_epochs=3", "--model.lr=0.02"])
    config = yaml.safe_load((root / "Regression/version_0/config_from_step_6.yaml").read_text())
    assert {k: config["model"]["init_args"][k] for k in ("lr", "activation")} == {"lr": 0.02, "activation": "relu"}
    with pytest.warns(UserWarning, match=r"lr=0.02 \(not 0.05\)"):
        main([*arguments, "--trainer.max_epochs=4"])


def test_a_sampler_among_the_hyper_parameters(tmp_path):
    arguments = ["--model=tests.own.Remembered", f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"]
    main(["fit", *RUN, *arguments, *AER, "--checkpoint.monitor=val/mse", "--checkpoint.mode=min"])
    saved = torch.load(tmp_path / "own/version_0/checkpoints/best.ckpt", weights_only=True)
    assert saved["hyper_parameters"] == {"width": 2, "activation": "tanh"}  # objects come from the configuration
    with pytest.warns(UserWarning, match=r"sampler.class_path light.* -> None"):
        main(["test", *RUN, *arguments, "--ckpt_path=best"])


def test_checkpoints_of_plain_lightning(tmp_path, recwarn):
    import lightning as L

    from tests.own import Points, Regression

    trainer = L.Trainer(
        max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, logger=False
    )
    trainer.fit(Regression(), Points())
    (file,) = tmp_path.glob("checkpoints/*.ckpt")
    arguments = [*RUN, "--model=tests.own.Regression", f"--ckpt_path={file}", f"--trainer.default_root_dir={tmp_path}"]
    arguments.remove("--experiment=own")
    main(["test", *arguments])
    main(["predict", *arguments, "--predictions.filename=null"])
    assert json.loads((tmp_path / "test.json").read_text())["step"] == 3
    main(["fit", *arguments])
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert any("holds no states of generators" in str(warning.message) for warning in recwarn)


def test_a_batch_size_without_a_name_is_explained(root, capsys):
    where = ["--ckpt_path=best", "--experiment=Regression", f"--trainer.default_root_dir={root}"]
    said = fails(capsys, "predict", *RUN, "--model=tests.own.Regression", "--data=tests.own.Positional", *where)
    assert said.endswith("write DataLoader(dataset, batch_size=...) in your predict_dataloader")


def test_a_dict_is_one_value_and_a_file_of_a_model_names_what_it_holds(tmp_path):
    where = [f"--trainer.default_root_dir={tmp_path}", "--checkpoint.monitor=val/mse", "--checkpoint.mode=min"]
    main(["fit", *RUN, *where, "--model=tests.own.Regression", "--model.options={a: 5}", "--model.lr=0.3"])
    with pytest.warns(UserWarning, match=r"lr=0.3 \(not 0.05\), model.init_args.options=\{'a': 5\} \(not None\)"):
        main(["validate", *RUN, *where, "--model=tests.own.Regression", "--ckpt_path=last"])
    (tmp_path / "own.yaml").write_text("class_path: tests.own.Regression\ninit_args: {lr: 0.9, options: {a: 5, b: 6}}")
    with pytest.warns(UserWarning, match=r"lr 0.3 -> 0.9, model.init_args.options \{'a': 5\} -> \{'a': 5, 'b': 6\}"):
        main(["validate", *RUN, *where, f"--model={tmp_path / 'own.yaml'}", "--ckpt_path=last"])


def test_what_is_typed_before_a_file_wins_over_it(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.embed_dim=8", "--data.train_size=33", "--config=seqcls", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["model"]["init_args"]["embed_dim"], config["data"]["init_args"]["train_size"]) == (8, 33)


def test_a_checkpoint_alone_brings_what_was_learned_of_the_data(tmp_path):
    """Without config.yaml beside it: sizes that no configuration names, weights of classes that it calls balanced."""
    (tmp_path / "texts.csv").write_text(
        "text,label\n" + "".join(f"word{i % 7} good,{'ab'[i % 2]}\n" for i in range(40))
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {class_weights: balanced, vocab_size: null}}")
    arguments = ["--config=textcls", f"--config={overlay}", f"--data.train_file={tmp_path / 'texts.csv'}", *RUN[1:]]
    arguments += ["--model.embed_dim=8", "--model.num_heads=2", "--model.feedforward_dim=8", "--trainer.max_epochs=1"]
    main(["fit", *arguments, f"--trainer.default_root_dir={tmp_path}"])
    alone = shutil.copy(tmp_path / "own/version_0/checkpoints/best.ckpt", tmp_path / "alone.ckpt")
    with pytest.warns(UserWarning, match=r"As in the run.*class_weights=\[1.0, 1.0\] \(not balanced\).*vocab_size"):
        main(["test", *arguments, f"--ckpt_path={alone}"])
    assert json.loads((tmp_path / "test.json").read_text())["examples"] == 4


def test_another_head_is_named_where_its_weights_do_not_fit(tmp_path, capsys):
    small = ["--config=seqcls", "--config=overlay/sine", "--data.train_size=32", "--data.test_size=32", *RUN[1:]]
    small += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1", "--data.val_size=32"]
    main(["fit", *small])
    head = "--model.head=lightning_qsgd.models.QuantumHead"
    said = fails(capsys, "test", *small, "--ckpt_path=last", head)
    assert "model.init_args.head.class_path torch.nn.Linear -> lightning_qsgd.models.QuantumHead" in said
