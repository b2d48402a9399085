import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.quantum import AerSampler
from tests.optim.common import assert_equal, make_params, set_gradients, through_a_file


def continued(transfer, **options):
    """Six steps straight, and three steps, a transfer to a new optimizer, three steps."""
    options = {"perturbation": lambda: CircuitPerturbation(mode="live", sampler=_sampler())} | options
    make = options.pop("perturbation")
    straight = make_params()
    optimizer = SuperpositionalGradientDescent(straight, perturbation=make(), **options)
    for step in range(6):
        set_gradients(straight, step)
        optimizer.step()
    params = make_params()
    optimizer = SuperpositionalGradientDescent(params, perturbation=make(), **options)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    optimizer = transfer(optimizer, lambda: SuperpositionalGradientDescent(params, perturbation=make(), **options))
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(3, 6):
        set_gradients(params, step)
        optimizer.step()
    return straight, params, optimizer


def _sampler():
    return AerSampler(shots=16, seed=5)


def resumed(old, new):
    optimizer = new()
    optimizer.load_state_dict(through_a_file(old.state_dict()))
    return optimizer


@pytest.mark.parametrize(
    "transfer",
    [resumed, lambda old, new: copy.deepcopy(old), lambda old, new: pickle.loads(pickle.dumps(old))],
    ids=["weights_only file", "deepcopy", "pickle"],
)
def test_live_noise_and_weights_continue_bit_for_bit(transfer):
    straight, params, optimizer = continued(transfer)
    assert_equal(straight, params)
    assert optimizer.perturbation.circuits == 30


@pytest.mark.parametrize("control", ["frozen", "shuffled"])
def test_controls_and_surrogates_continue_bit_for_bit(control):
    straight, params, _ = continued(
        resumed, perturbation=lambda: ControlPerturbation(control, CircuitPerturbation(sampler=_sampler()))
    )
    assert_equal(straight, params)


def test_groups_hold_plain_values_only():
    optimizer = SuperpositionalGradientDescent(make_params(), perturbation=CircuitPerturbation())
    allowed = (int, float, str, bool, type(None), tuple, dict, torch.Tensor)
    assert all(isinstance(v, allowed) for k, v in optimizer.param_groups[0].items() if k != "params")


@pytest.mark.parametrize(("scale", "coupling"), [("adam", "lr"), ("gradient", "decoupled")])
def test_a_plain_adamw_state_loads(scale, coupling):
    params = make_params()
    adamw = torch.optim.AdamW(params, lr=0.02)
    set_gradients(params, 0)
    adamw.step()
    optimizer = SuperpositionalGradientDescent(params, quantum_weight=0.25, scale=scale, coupling=coupling)
    optimizer.load_state_dict(adamw.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["quantum_weight"], group["scale"]) == (0.02, 0.25, scale)
    optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": SinePerturbation(4)}, "belongs to CircuitPerturbation.*has SinePerturbation"),
        ({"perturbation": CircuitPerturbation(entanglement="none")}, "entanglement=linear.*entanglement=none"),
        ({"perturbation": CircuitPerturbation(), "scope": "all"}, "belongs to first_of_tensor, this optimizer has all"),
    ],
)
def test_a_state_of_another_perturbation_or_scope_is_refused(options, message):
    state = SuperpositionalGradientDescent(make_params(), perturbation=CircuitPerturbation()).state_dict()
    with pytest.raises(ValueError, match=message):
        SuperpositionalGradientDescent(make_params(), **options).load_state_dict(state)


def test_options_of_the_state_win_with_a_warning_but_schedules_are_the_constructors():
    def half(step):
        return 0.5 / (1 + step)

    def loaded(saved, configured):
        state = SuperpositionalGradientDescent(make_params(), quantum_weight=saved).state_dict()
        optimizer = SuperpositionalGradientDescent(make_params(), quantum_weight=configured)
        optimizer.load_state_dict(state)
        params = optimizer.param_groups[0]["params"]
        set_gradients(params, 0)
        optimizer.step()
        optimizer.step()
        return optimizer.param_groups[0]["quantum_weight"]

    with pytest.warns(UserWarning, match=r"The loaded state replaces quantum_weight 0.1 by 0.3"):
        assert loaded(0.3, 0.1) == 0.3
    assert loaded(half, 0.1) == 0.1
    assert loaded(0.3, half) == 0.25


def test_state_survives_distributed_checkpoint_state_dicts():
    model = torch.nn.Linear(3, 2)
    optimizer = SuperpositionalGradientDescent(model.parameters(), perturbation=CircuitPerturbation())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = get_optimizer_state_dict(model, optimizer)
    fresh = SuperpositionalGradientDescent(model.parameters(), perturbation=CircuitPerturbation())
    set_optimizer_state_dict(model, fresh, state)
    assert fresh.perturbation.circuits == 625
    assert fresh.state_dict()["param_groups"][0]["perturbation_state"]["step"] == 1


def test_a_classical_run_imports_no_qiskit():
    code = (
        "import sys, torch, lightning_qsgd.optim as o; p = torch.ones(4, requires_grad=True); p.grad = torch.ones(4);"
        "o.SuperpositionalGradientDescent([p]).step(); sys.exit('qiskit' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
