import copy
import io
import pickle
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    MeasuredDisplacement,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.saved_state import pack
from lightning_qsgd.quantum import AerSampler
from tests.optim.common import assert_equal, make_params, own_state, set_gradients, through_a_file


def continued(transfer, **options):
    """Six steps straight, and three steps, a transfer to a new optimizer, three steps."""
    options = {"perturbation": lambda: LiveCircuitPerturbation(sampler=_sampler())} | options
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
    allowed = (int, float, str, bytes, bool, type(None), tuple)
    for group in (optimizer.param_groups[0], optimizer.state_dict()["param_groups"][0]):
        assert all(isinstance(v, allowed) for k, v in group.items() if k != "params")


# ---- one packed form

ALL_KINDS = {
    "sine": dict,
    "series": lambda: {"perturbation": CircuitPerturbation(num_qubits=2)},
    "frozen": lambda: {"perturbation": CircuitPerturbation(num_qubits=2), "twin": "frozen"},
    "fallback": lambda: {"perturbation": LiveCircuitPerturbation(num_qubits=2, on_failure="series")},
    "displaced": lambda: {
        "displacement": MeasuredDisplacement(0.1, circuit=CircuitPerturbation(2), source="circuit"),
    },
}


def stepped(kind, steps=2):
    params = make_params()
    optimizer = SuperpositionalGradientDescent(params, **ALL_KINDS[kind]())
    for step in range(steps):
        with optimizer.displaced() if optimizer.displacement else nullcontext():
            set_gradients(params, step)
        optimizer.step()
    return optimizer


def fresh(kind):
    return SuperpositionalGradientDescent(make_params(), **ALL_KINDS[kind]())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_equal_states_are_equal_bytes(kind):
    first, second = (stepped(kind).state_dict()["param_groups"] for _ in range(2))
    assert first == second
    assert first[0]["perturbation_state"] == second[0]["perturbation_state"] != b""
    resumed = fresh(kind)
    resumed.load_state_dict(through_a_file(stepped(kind).state_dict()))
    assert resumed.state_dict()["param_groups"] == first
    assert copy.deepcopy(resumed).state_dict()["param_groups"] == first
    resumed.param_groups.extend(resumed.param_groups)
    assert resumed.state_dict()["param_groups"][-1] == first[-1]
    assert resumed.param_groups == [*resumed.param_groups]  # after a state has been made, too
    assert {group["perturbation_state"] for group in resumed.param_groups} == {b""}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_state_holds_no_times(kind):
    assert not any("seconds" in name for name in own_state(stepped(kind).state_dict()))


def test_hooks_see_and_change_the_state():
    old, seen = stepped("frozen"), []
    old.register_state_dict_pre_hook(lambda optimizer: seen.append(own_state(optimizer.__getstate__())["step"]))
    old.register_state_dict_post_hook(lambda _, state: seen.append(own_state(state)["step"]))
    old.register_state_dict_post_hook(lambda _, state: {"version": 2, "inner": state})
    state = old.state_dict()
    assert sorted(state) == ["inner", "version"]
    new = fresh("frozen")
    new.register_load_state_dict_pre_hook(lambda _, state: state["inner"])
    new.register_load_state_dict_pre_hook(lambda _, state: seen.append(own_state(state)["step"]))
    new.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.perturbation.circuits))
    new.load_state_dict(state)
    assert seen == [2, 2, 2, 25]
    assert own_state(new.state_dict()).keys() == own_state(state["inner"]).keys()


def test_a_state_without_its_first_group_keeps_the_perturbation():
    params = make_params(shapes=[(4,), (4,)])
    groups = [{"params": [p], "quantum_weight": weight} for p, weight in zip(params, (0.5, 0.0))]
    optimizer = SuperpositionalGradientDescent(groups)
    set_gradients(params, 0)
    optimizer.step()
    del optimizer.param_groups[0], optimizer.state[params[0]]
    assert own_state(optimizer.state_dict())["step"] == 1


def cut(packed):
    return packed[: len(packed) // 2]


def flipped(packed):
    return packed[:-40] + bytes([packed[-40] ^ 1]) + packed[-39:]


DAMAGES = {
    "cut": lambda own: cut(pack(own)),
    "one bit": lambda own: flipped(pack(own)),
    "one byte": lambda own: b"x",
    "text": lambda own: "state",
    "tensor": lambda own: torch.zeros(3),
    "0.1.0, packed and cut": lambda own: {"packed": cut(pack(own)[4:])},
    "nothing but a list": lambda own: pack({"packed": [1]}),
    **{f"without {name}": lambda own, name=name: pack({k: v for k, v in own.items() if k != name}) for name in (
        "step", "identity", "scope", "circuits", "reference.circuits", "reference.surrogate.shots", "table",
        "layout",
    )},
    "0.1.0, without step": lambda own: {k: v for k, v in own.items() if k != "step"},
    "step -1": lambda own: pack(own | {"step": -1}),
    "step of another type": lambda own: pack(own | {"step": "2"}),
    "table of another size": lambda own: pack(own | {"table": torch.zeros(3)}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused_before_anything_is_loaded(damage):
    state = stepped("frozen").state_dict()
    own = own_state(state)
    for group in state["param_groups"]:
        group["perturbation_state"] = DAMAGES[damage](own)
    optimizer = stepped("frozen", steps=1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"Invalid perturbation_state: .* load another one, or delete"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], atol=0, rtol=0)


def test_groups_of_two_states_are_refused():
    optimizer = SuperpositionalGradientDescent([{"params": [p]} for p in make_params(shapes=[(4,), (4,)])])
    state = optimizer.state_dict()
    state["param_groups"][1]["perturbation_state"] = stepped("sine").state_dict()["param_groups"][0][
        "perturbation_state"
    ]
    with pytest.raises(ValueError, match="the groups hold different ones"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_states_of_0_1_0_load(kind, packed):
    """They held a dict in the first group, with seconds; in sharded runs packed by torch.save."""
    old = stepped(kind)
    state = old.state_dict()
    own = own_state(state) | {"seconds": 1.5}
    if packed:
        buffer = io.BytesIO()
        torch.save(own, buffer)
        own = {"packed": buffer.getvalue()}
    for group in state["param_groups"]:
        del group["perturbation_state"]
    state["param_groups"][0]["perturbation_state"] = own
    new = fresh(kind)
    new.load_state_dict(through_a_file(state))
    assert new.state_dict()["param_groups"] == old.state_dict()["param_groups"]


def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_saved():
    class Own(SinePerturbation):
        def state_dict(self):
            return super().state_dict() | {"numbers": np.ones(2), "mean": np.float64(0.5)}

    with pytest.raises(ValueError, match="it holds a ndarray; use tensors"):
        SuperpositionalGradientDescent(make_params(), perturbation=Own()).state_dict()


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
    assert own_state(fresh.state_dict())["step"] == 1


def test_a_classical_run_imports_no_qiskit():
    code = (
        "import sys, torch, lightning_qsgd.optim as o; p = torch.ones(4, requires_grad=True); p.grad = torch.ones(4);"
        "o.SuperpositionalGradientDescent([p]).step(); sys.exit('qiskit' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
