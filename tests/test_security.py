"""What a file or a configuration must not be able to do: run code, or carry a secret away."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import FEW_SHOTS, SMALL, fails
from tests.runs import program
from tests.traps import Hostile

CONFIG = ["--config=configs/seqcls.yaml", FEW_SHOTS]
OPTIMIZER = "--model.optimizer.init_args"
CIRCUIT = f"{OPTIMIZER}.perturbation.init_args"
DISPLACEMENT = f"{OPTIMIZER}.displacement"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


# ---- class paths


@pytest.mark.parametrize("path", ["tests.traps.Trap", "tests.traps.trap"])
@pytest.mark.parametrize(
    "place",
    [
        "--model", "--data", "--model.optimizer", "--model.scheduler", "--model.head", "--model.attention",
        f"{OPTIMIZER}.perturbation", f"{CIRCUIT}.sampler", f"{OPTIMIZER}.quantum_weight", DISPLACEMENT,
        "--trainer.callbacks", "--trainer.plugins", "--trainer.strategy", "--trainer.accelerator",
        "--trainer.profiler", "--trainer.logger",
    ],
)  # fmt: skip
def test_what_is_no_subclass_is_refused_and_not_called(capsys, tmp_path, mark, place, path):
    fails(capsys, "fit", *CONFIG, *SMALL, f"--trainer.default_root_dir={tmp_path}", f"{place}={path}")
    assert not mark.exists()


@pytest.mark.parametrize("path", ["os.system", "builtins.eval", "builtins.exit", "os._exit", "subprocess.call"])
@pytest.mark.parametrize("place", [f"{OPTIMIZER}.quantum_weight", f"{DISPLACEMENT}.init_args.radius"])
def test_a_schedule_is_no_function_of_the_system(capsys, tmp_path, place, path):
    displacement = [f"{DISPLACEMENT}=lightning_qsgd.optim.MeasuredDisplacement"] if "radius" in place else []
    root = f"--trainer.default_root_dir={tmp_path}"
    last = fails(capsys, "fit", *CONFIG, *SMALL, root, *displacement, f"{place}={path}")
    assert "a function must say what it returns" in last


def test_a_module_of_another_kind_is_no_data_module(capsys, tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    assert "subclass of LightningDataModule" in fails(capsys, "fit", *CONFIG, *SMALL, root, "--data=torch.nn.Linear")


def test_a_function_of_ones_own_can_be_a_schedule(tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    main(["fit", *CONFIG, *SMALL, root, "--trainer.fast_dev_run=1", f"{OPTIMIZER}.quantum_weight=tests.traps.schedule"])


# ---- files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    main(["fit", *CONFIG, *SMALL, f"--trainer.default_root_dir={root}", "--trainer.max_epochs=1"])
    return root / "seqcls" / "version_0" / "checkpoints" / "best.ckpt"


def pickled(path, good):
    path.write_bytes(pickle.dumps({"state_dict": Hostile(), "hyper_parameters": {}}))


def saved(path, good):
    torch.save(torch.load(good, weights_only=True) | {"callbacks": Hostile()}, path)


def replaced(path, good):
    """An archive of torch's, with another pickle in the place of its own."""
    with zipfile.ZipFile(good) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            hostile = name.endswith("data.pkl")
            after.writestr(name, pickle.dumps(Hostile(), protocol=2) if hostile else before.read(name))


def sharded(path, good):
    path.mkdir()
    (path / ".metadata").write_bytes(pickle.dumps(Hostile()))
    torch.save({"state_dict": {}, "hyper_parameters": Hostile()}, path / "meta.pt")


def scripted(path, good):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


@pytest.mark.parametrize("make", [pickled, saved, replaced, sharded, scripted], ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_no_command_runs_what_a_checkpoint_brings(capsys, tmp_path, mark, trained, make):
    make(tmp_path / "hostile.ckpt", trained)
    for command in ("fit", "validate", "test", "predict"):
        root = f"--trainer.default_root_dir={tmp_path}"
        last = fails(capsys, command, *CONFIG, *SMALL, root, f"--ckpt_path={tmp_path / 'hostile.ckpt'}")
        assert "hostile.ckpt" in last
        assert not mark.exists()


@pytest.mark.parametrize("value", ["tests.traps.Trap", {"class_path": "tests.traps.Trap"}], ids=["path", "class"])
@pytest.mark.parametrize("name", ["head", "attention", "optimizer", "scheduler"])
def test_what_a_checkpoint_says_of_classes_is_not_believed(capsys, tmp_path, mark, trained, name, value):
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"][name] = value
    torch.save(checkpoint, tmp_path / "hostile.ckpt")
    root = f"--trainer.default_root_dir={tmp_path}"
    last = fails(capsys, "test", *CONFIG, *SMALL, root, f"--ckpt_path={tmp_path / 'hostile.ckpt'}")
    assert f"Invalid {name} of checkpoint" in last
    assert "names a class" in last
    assert not mark.exists()


def test_a_calibration_runs_nothing(capsys, tmp_path, mark):
    path = tmp_path / "hostile.npz"
    values = np.array([Hostile()], dtype=object)
    np.savez(path, coefficients=values, points=values, frequencies=values, kinds=values, provenance=values)
    root = f"--trainer.default_root_dir={tmp_path}"
    arguments = ("fit", *CONFIG, *SMALL, root, f"{CIRCUIT}.calibration={path}")
    assert "hostile.npz cannot be read" in fails(capsys, *arguments)
    path.write_bytes(pickle.dumps(Hostile()))
    assert "hostile.npz cannot be read" in fails(capsys, *arguments)
    assert not mark.exists()


def test_a_jobs_file_runs_nothing(tmp_path, mark):
    from lightning_qsgd.quantum.jobs import JobsFile

    (tmp_path / "jobs.json").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(RuntimeError, match=r"jobs\.json is damaged"):
        JobsFile(tmp_path / "jobs.json").read()
    assert not mark.exists()


# ---- secrets

SECRETS = {
    "QISKIT_IBM_TOKEN": "ibm-0123456789abcdef-secret", "HF_TOKEN": "hf_secretsecretsecret",
    "WANDB_API_KEY": "wandb0123456789secret", "AWS_SECRET_ACCESS_KEY": "aws/secret/0123456789",
}  # fmt: skip


def holders(folder):
    """Files with a secret in them, members of archives included."""
    found = []
    for path in filter(Path.is_file, folder.rglob("*")):
        parts = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        if any(secret.encode() in part for secret in SECRETS.values() for part in parts):
            found.append(path)
    return found


def run(tmp_path, *arguments):
    code, said = program(tmp_path.with_suffix(".log"), *arguments, environment=SECRETS)
    assert not [name for name, secret in SECRETS.items() if secret in said]
    assert holders(tmp_path) == []
    return code, said


@pytest.mark.slow
def test_no_secret_of_the_environment_is_in_what_commands_write_or_say(tmp_path):
    common = [*CONFIG, *SMALL]
    root = f"--trainer.default_root_dir={tmp_path}"
    assert run(tmp_path, "fit", *common, root, "--trainer.max_epochs=1")[0] == 0
    for command in ("validate", "test", "predict"):
        assert run(tmp_path, command, *common, root, "--ckpt_path=last")[0] == 0
    assert run(tmp_path, "calibrate", *CONFIG, "--output", str(tmp_path / "device.npz"))[0] == 0
    assert run(tmp_path, "doctor")[0] == 0
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) >= 10


@pytest.mark.parametrize("debug", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_secret_in_an_error_is_cut_out(tmp_path, debug):
    root = f"--trainer.default_root_dir={tmp_path}"
    code, said = run(
        tmp_path, "fit", *CONFIG, *SMALL, root, "--trainer.callbacks=tests.traps.Indiscreet", *["--debug"] * debug
    )
    assert code == (1 if debug else 2)
    assert "refused for ***" in said
    assert ("Traceback" in said) == debug


def test_the_search_for_secrets_finds_them(tmp_path):
    torch.save({"note": SECRETS["HF_TOKEN"]}, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("note", SECRETS["HF_TOKEN"] * 9)
    assert len(holders(tmp_path)) == 2
