"""A live circuit whose sampler dies: what stops, what a series answers, and what is left untouched."""

import copy
import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from qiskit.primitives import BaseSamplerV2

from lightning_qsgd.cli import main
from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.live_circuit import RETRY_AFTER
from lightning_qsgd.quantum import AerSampler, ExactSampler, calibrate
from tests.common import FEW_SHOTS, SMALL
from tests.optim.common import ask, own_state, random_angles
from tests.runs import commands_on_two_ranks

TOKEN = "crn-secret-0123456789"


class Dying(BaseSamplerV2):
    """A device that answers some calls and then fails, for some calls or for ever."""

    def __init__(self, good: int = 3, bad: int = 1_000_000):
        self.good, self.bad, self.calls = good, bad, 0
        self.sampler = ExactSampler()

    def run(self, pubs, *, shots=None):
        self.calls += 1
        if self.good < self.calls <= self.good + self.bad:
            raise RuntimeError(f"the backend is gone; Authorization: Bearer {TOKEN}")
        return self.sampler.run(pubs, shots=shots)


def live(on_failure="series", **options):
    return LiveCircuitPerturbation(num_qubits=2, on_failure=on_failure, **options)


def train(perturbation, steps, weight=None, optimizer=None):
    if optimizer is None:
        weight = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.4]))
        optimizer = SuperpositionalGradientDescent([weight], lr=0.05, perturbation=perturbation)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    return weight, optimizer


def test_a_new_optimizer_tries_circuits_again():
    circuit = live(sampler=Dying(good=5, bad=1))
    train(circuit, 8)
    assert circuit.fallback_steps == 3
    train(circuit, 2)
    assert circuit.fallback_steps == 3


def test_stop_raises_before_anything_of_the_step_is_applied():
    weight, optimizer = train(live("stop", sampler=Dying(good=3)), 3)
    before = weight.detach().clone()
    moments = {name: value.clone() for name, value in optimizer.state[weight].items()}
    count = own_state(optimizer.state_dict())["step"]
    with pytest.raises(RuntimeError, match="the backend is gone"):
        train(None, 1, weight, optimizer)
    assert torch.equal(weight, before)
    assert all(torch.equal(optimizer.state[weight][name], value) for name, value in moments.items())
    assert own_state(optimizer.state_dict())["step"] == count == 3


def test_the_series_answers_what_the_perfect_circuit_would(caplog):
    broken, whole = live(sampler=Dying(good=3)), live("stop")
    ours, _ = train(broken, 8)
    theirs, _ = train(whole, 8)
    torch.testing.assert_close(ours, theirs)
    assert (broken.fallback_steps, broken.circuits) == (5, 3)
    (warning,) = [record.getMessage() for record in caplog.records if "Circuits failed" in record.getMessage()]
    assert "failed in step 3 (RuntimeError: the backend is gone; Authorization: Bearer ***)" in warning
    assert TOKEN not in caplog.text


def test_circuits_are_tried_again_after_a_while():
    broken = live(sampler=Dying(good=2, bad=1))
    train(broken, 2 + RETRY_AFTER + 4)
    assert broken.fallback_steps == RETRY_AFTER
    assert broken.sampler.calls == 2 + 1 + 4


def test_circuits_that_never_ran_are_no_device_that_went_away():
    with pytest.raises(RuntimeError, match="the backend is gone"):
        train(live(sampler=Dying(good=0)), 1)


def test_weights_that_are_not_finite_are_not_the_devices_fault():
    perturbation = live()
    with pytest.raises(ValueError, match="some are not finite"):
        ask(perturbation, torch.full((1, 2), torch.nan))
    assert perturbation.fallback_steps == 0


def test_a_resumed_run_goes_on_with_the_series():
    first, optimizer = train(live(sampler=Dying(good=2)), 4)
    state = copy.deepcopy(optimizer.state_dict())
    again = live(sampler=Dying(good=100))
    weight = torch.nn.Parameter(first.detach().clone())
    resumed = SuperpositionalGradientDescent([weight], lr=0.05, perturbation=again)
    resumed.load_state_dict(state)
    train(None, 3, first, optimizer)
    train(None, 3, weight, resumed)
    assert torch.equal(first, weight)
    assert (again.fallback_steps, again.sampler.calls) == (5, 0)


def test_states_go_between_runs_with_and_without_a_fallback():
    first, optimizer = train(live(sampler=Dying(good=2)), 4)
    _, plain = train(live("stop"), 2)
    stop, series = live("stop"), live()
    SuperpositionalGradientDescent([first], perturbation=stop).load_state_dict(optimizer.state_dict())
    SuperpositionalGradientDescent([first], perturbation=series).load_state_dict(plain.state_dict())
    assert (stop.fallback_steps, series.fallback_steps) == (0, 0)


def test_a_calibration_can_be_the_series(tmp_path):
    path, noisy = str(tmp_path / "device.npz"), AerSampler(shots=50)
    circuit = CircuitPerturbation(num_qubits=2, sampler=noisy)
    calibrate(circuit.network, circuit.weights).save(path)
    broken, angles = live(sampler=Dying(good=1), calibration=path), random_angles(5, 2)
    ask(broken, angles, step=0)
    answered = ask(broken, angles, step=1)
    torch.testing.assert_close(answered, ask(CircuitPerturbation(num_qubits=2, calibration=path), angles))
    with pytest.raises(FileNotFoundError, match=r"gone\.npz not found"):
        live(calibration="gone.npz").prepare()


@pytest.mark.parametrize("center", ["zero", "odd"])
def test_centred_circuits_fall_back_too(center):
    broken, angles = live(sampler=Dying(good=2), center=center), random_angles(5, 2)
    expected = ask(live("stop", center=center), angles, step=0)
    for step in range(4):
        torch.testing.assert_close(ask(broken, angles, step=step), expected, atol=1e-9, rtol=0)


def test_a_control_counts_the_steps_of_its_reference():
    control = ControlPerturbation("matched", live(sampler=Dying(good=1)))
    train(control, 3)
    assert control.fallback_steps == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_failure": "hope"}, "Invalid on_failure: 'hope'; it must be 'stop' or 'series'"),
        ({"max_circuits": 0}, "Invalid max_circuits: 0"),
        ({"calibration": "x.npz"}, r"Invalid calibration: 'x\.npz'; it must be null, unless on_failure='series'"),
    ],
)
def test_invalid_options(options, words):
    with pytest.raises(ValueError, match=words):
        LiveCircuitPerturbation(**options)


def test_a_displacement_takes_no_fallback():
    with pytest.raises(ValueError, match=r"Invalid circuit\.on_failure"):
        MeasuredDisplacement(0.1, circuit=live())


def test_s_of_zero_comes_from_the_checkpoint():
    """s(0) of a centred live circuit is measured once in a run: after a resume, shots would give another one."""
    first, second = (
        LiveCircuitPerturbation(2, rotations="random", center="zero", sampler=AerSampler(16, seed)) for seed in (1, 2)
    )
    first.prepare()
    state, sampler = first.state_dict(), second.sampler
    assert first.circuits == 1
    second.prepare()
    assert not torch.equal(second.state_dict()["offset"], state["offset"])
    resumed = LiveCircuitPerturbation(2, rotations="random", center="zero", sampler=sampler)
    resumed.load_state_dict(state)
    resumed.prepare()
    assert resumed.circuits == 1  # of the first run
    exact = LiveCircuitPerturbation(2, rotations="random")
    resumed.sampler, resumed._network = exact.sampler, None
    angles = random_angles(5, 2)
    torch.testing.assert_close(ask(resumed, angles), ask(exact, angles) - state["offset"])


LIVE = [
    "--config=configs/seqcls.yaml", FEW_SHOTS, "--config=configs/overlay/live.yaml", *SMALL, "--trainer.max_epochs=1",
    "--model.optimizer.init_args.perturbation.init_args.sampler=tests.optim.test_fallback.Dying",
    "--model.optimizer.init_args.perturbation.init_args.sampler.init_args.good=2",
]  # fmt: skip
SERIES = "--model.optimizer.init_args.perturbation.init_args.on_failure=series"


def test_the_command_line_stops_with_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *LIVE, f"--trainer.default_root_dir={tmp_path}"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: tests/optim/test_fallback.py:")
    assert last.endswith(" in run: RuntimeError: the backend is gone; Authorization: Bearer ***")


def test_the_command_line_counts_the_steps_of_the_series(tmp_path):
    main(["fit", *LIVE, SERIES, "--monitor.every_n_steps=1", f"--trainer.default_root_dir={tmp_path}"])
    assert_counted(tmp_path / "seqcls" / "version_0", steps=1)


def assert_counted(folder, steps):
    assert json.loads((folder / "summary.json").read_text())["fallback_steps"] == steps
    with (folder / "metrics.csv").open() as file:
        logged = [row["quantum/fallback_steps"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == [float(n) for n in range(1, steps + 1)]
    assert TOKEN not in (folder / "metrics.csv").read_text()


def on_two_ranks(folder, *arguments):
    return [
        "fit", *LIVE, "--config", "configs/overlay/ddp2.yaml", *arguments, f"--trainer.default_root_dir={folder}",
        "--monitor.every_n_steps=1", "--trainer.callbacks=tests.ranks.SaveRanks",
    ]  # fmt: skip


@pytest.mark.slow
def test_all_ranks_stop_with_rank_0(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lightning_qsgd", *on_two_ranks(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 2
    assert "the backend is gone; Authorization: Bearer ***" in done.stderr


@pytest.mark.slow
def test_all_ranks_go_on_with_the_series_of_rank_0(tmp_path):
    assert TOKEN not in commands_on_two_ranks(on_two_ranks(tmp_path, SERIES))
    folder = tmp_path / "seqcls" / "version_0"
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True)["weights"] for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_counted(folder, steps=1)
