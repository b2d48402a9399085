"""Every YAML instantiates; every overlay runs one step on top of its base and keeps the optimizer's numbers."""

import importlib.util
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.comparison import read_spec
from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.comparison.statistics import seeds_needed
from lightning_qsgd.experiment import Experiment, build
from lightning_qsgd.optim import LiveCircuitPerturbation, MatchedTwin
from tests.any_data import of_series
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS, fails
from tests.optim.common import own_state
from tests.tiny_llm import save_llm, save_rows

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
#: smollm2 goes over gsm8k only.
OVERLAYS = sorted(path for path in (ROOT / "configs" / "overlay").glob("*.yaml") if path.stem != "smollm2")
COMPARISONS = sorted((ROOT / "configs" / "compare").glob("*.yaml"))
#: Comparisons that go over another one.
STACKED = {"seqcls_cosine": "seqcls", "search_test": "search", "search_banking77": "banking77"}
STEP = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
#: What a test must set beyond one step, and why.
OVERRIDES = {
    "textcls": (["--data.train_file={texts}"], "it has no data of its own"),
    "series": (["{series}"], "it has no data of its own"),
    "gsm8k": (
        [
            "--config=configs/overlay/llm_cpu.yaml",
            "--threads=1",
            "--model.pretrained={llm}",
            "--data.train_file={rows}",
        ],
        "its model is gated and needs a GPU",
    ),
    "compile": (["--model.compile={{backend: aot_eager}}"], "inductor takes half a minute"),
    "fp16": (
        ["--trainer.precision=bf16-mixed"],
        "float16 needs a GPU: tests/gpu/test_main_job.py",
    ),
    "ddp2": (["--trainer.devices=1", "--trainer.strategy=auto"], "two processes: tests/test_devices.py"),
    "fsdp": (["--trainer.devices=1", "--trainer.strategy=auto"], "two processes: tests/test_devices.py"),
}
NUMBERS = {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "train.csv"
    path.write_text("text,label\n" + "".join(f"word{i} again,label{i % 2}\n" for i in range(40)))
    files = {"texts": path, "series": of_series(path.parent)}
    if importlib.util.find_spec("transformers"):
        files["llm"] = save_llm(path.parent / "llm")
        files["rows"] = save_rows(path.parent / "rows.jsonl")
    return files


def overrides(name, texts):
    if name == "gsm8k" and "llm" not in texts:
        pytest.skip("needs transformers")
    return [argument.format_map(texts) for argument in OVERRIDES.get(name, ([], ""))[0]]


def run(tmp_path, *arguments):
    main(["fit", *arguments, *STEP, f"--trainer.default_root_dir={tmp_path}"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_each_config_runs_a_step(config, texts, tmp_path):
    run(tmp_path, "--config", str(config), *overrides(config.stem, texts))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_each_overlay_is_short_runs_a_step_and_keeps_the_numbers(overlay, texts, tmp_path):
    lines = [line for line in overlay.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 8
    base = "seqcls_quantum_head" if overlay.stem == "replace_linear" else "seqcls"
    few = [] if overlay.stem == "replace_linear" else [FEW_SHOTS]
    arguments = [
        "--config",
        f"configs/{base}.yaml",
        *few,
        "--config",
        str(overlay),
        *overrides(overlay.stem, texts),
    ]
    experiment = Experiment.typed([*arguments, *STEP, f"--trainer.default_root_dir={tmp_path}"])
    experiment.fit()
    (optimizer,) = experiment.trainer.optimizers
    assert {name: optimizer.defaults[name] for name in NUMBERS} == NUMBERS | {"betas": tuple(NUMBERS["betas"])}


PERTURBATION = "--model.optimizer.init_args.perturbation"
#: What may stand before or after a twin's overlay.
CHANGES = {
    "a circuit": ["--config=configs/overlay/live.yaml", "--config=configs/overlay/zero_rotations.yaml",
                  "--config=configs/overlay/fake_manila.yaml", f"{PERTURBATION}.init_args.num_qubits=3"],
    "a sine": ["--config=configs/overlay/sine.yaml"],
}  # fmt: skip


def stacked(*arguments):
    return Experiment.typed(["--config=configs/seqcls.yaml", *arguments]).settings


@pytest.mark.parametrize("kind", ["frozen", "matched"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_twin_is_a_twin_of_the_perturbation_that_the_other_configurations_describe(kind, change):
    twin, alone = f"--config=configs/overlay/{kind}.yaml", stacked(*change)
    for stack in ([*change, twin], [twin, *change]):
        config = stacked(*stack)
        assert config["model"]["init_args"]["optimizer"]["init_args"].pop("twin") == kind
        expected = alone["model"]["init_args"]["optimizer"]["init_args"]
        assert config["model"]["init_args"]["optimizer"]["init_args"] == {
            name: value for name, value in expected.items() if name != "twin"
        }


def test_of_two_twins_the_last_counts_and_is_a_control_of_the_runs_own_circuit(tmp_path):
    configs = ["seqcls", "overlay/frozen", "overlay/live", "overlay/zero_rotations", "overlay/matched"]
    options = [f"{PERTURBATION}.init_args.num_qubits=2", f"--trainer.default_root_dir={tmp_path}"]
    optimizer = build(configs, options).module.optimizer([torch.nn.Parameter(torch.zeros(3))])
    assert isinstance(optimizer.perturbation, MatchedTwin)
    assert optimizer.perturbation.num_qubits == 2
    circuit = optimizer.perturbation.reference
    assert isinstance(circuit, LiveCircuitPerturbation)
    assert (circuit.rotations, circuit.num_qubits, circuit.sampler.shots) == ("zero", 2, 1024)


def trained(root, *arguments):
    """The checkpoint after a small run."""
    main(["fit", *arguments, *SMALL, *TINY_ARGUMENTS, f"--trainer.default_root_dir={root}"])
    return torch.load(root / "seqcls" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_frozen_twin_takes_the_runs_first_step_and_repeats_from_its_own_configuration(tmp_path):
    base = ["--config=configs/seqcls.yaml", "--model.optimizer.scale=adam", "--model.optimizer.scope=all"]
    base += [f"{PERTURBATION}.init_args.num_qubits=2", "--trainer.max_steps=1"]
    twin, own = "--config=configs/overlay/frozen.yaml", "--config=configs/overlay/zero_rotations.yaml"
    run = trained(tmp_path / "run", *base, own)
    frozen = trained(tmp_path / "frozen", *base, twin, own)
    config = tmp_path / "frozen" / "seqcls" / "version_0" / "config.yaml"
    again = trained(tmp_path / "again", f"--config={config}")
    for name, value in run["state_dict"].items():
        assert torch.equal(value, frozen["state_dict"][name])
        assert torch.equal(value, again["state_dict"][name])
    states = [own_state(saved["optimizer_states"][0]) for saved in (frozen, again)]
    assert states[0]["identity"] == states[1]["identity"]
    assert states[0]["identity"].startswith("ControlPerturbation(frozen, CircuitPerturbation(num_qubits=2")


def test_what_does_not_fit_a_twin_is_refused(capsys):
    base, frozen = "--config=configs/seqcls.yaml", "--config=configs/overlay/frozen.yaml"
    for overlay in ("adamw", "sam"):
        last = fails(capsys, "fit", base, f"--config=configs/overlay/{overlay}.yaml", frozen)
        assert "no option 'twin'" in last
    last = fails(capsys, "fit", base, frozen, f"{PERTURBATION}.init_args.reference.init_args.rotations=zero")
    assert "model.optimizer.perturbation: unrecognized arguments: --reference.init_args.rotations=zero" in last
    assert "twin" in fails(capsys, "fit", base, "--model.optimizer.init_args.twin=icy")


@pytest.mark.parametrize("overlay", ["adamw", "lambda01", "smollm2"])
def test_fine_tuning_keeps_its_numbers_in_each_arm(overlay, texts, tmp_path):
    arguments = ["--config", "configs/gsm8k.yaml", "--config", f"configs/overlay/{overlay}.yaml"]
    run(tmp_path, *arguments, *overrides("gsm8k", texts))
    optimizer = Experiment.typed(arguments).settings["model"]["init_args"]["optimizer"]["init_args"]
    assert {name: optimizer[name] for name in NUMBERS} == NUMBERS | {"lr": 2e-5, "weight_decay": 0.01}


@pytest.mark.parametrize(
    "configs", [CONFIGS, pytest.param(OVERLAYS, marks=pytest.mark.slow)], ids=["complete", "overlay"]
)
def test_a_printed_configuration_prints_itself_again(configs, tmp_path, capsys):
    def printed(*arguments):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", *arguments, "--print_config"])
        return capsys.readouterr().out

    for config in configs:
        base = ["--config", "configs/seqcls.yaml"] if configs is OVERLAYS else []
        (tmp_path / config.name).write_text(first := printed(*base, "--config", str(config)))
        assert len(first.splitlines()) > 100
        assert printed("--config", str(tmp_path / config.name)) == first, config.stem


def test_the_table_of_overrides_names_only_what_exists():
    assert set(OVERRIDES) <= {path.stem for path in CONFIGS + OVERLAYS}


@pytest.mark.parametrize("config", COMPARISONS, ids=lambda p: p.stem)
def test_each_arm_of_each_comparison_has_a_configuration(config):
    below = [config.with_stem(STACKED[config.stem])] if config.stem in STACKED else []
    comparison = read_spec([*below, config])
    arms = Arms(comparison)
    plans = [arms.plan(name, seed, "evaluation", {}) for name in comparison.all_arms() for seed in (1, 2)]
    assert len({plan.folder for plan in plans}) == len(plans) == len({str(plan.config) for plan in plans})
    if config.stem == "search":  # it only tunes
        return
    assert comparison.gatekeeper is not None
    others = len(comparison.contrasts) - 1
    exploratory = "banking77" in config.stem or config.stem == "gsm8k"  # and says so
    assert (len(comparison.seeds.evaluation) >= seeds_needed(others)) != exploratory
