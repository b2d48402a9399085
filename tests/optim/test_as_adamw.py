"""What torch's own tests ask of AdamW, asked of this optimizer, and of AdamW beside it."""

import copy
import functools
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lightning_qsgd.optim import CircuitPerturbation, SuperpositionalGradientDescent
from tests.optim.common import through_a_file

pytestmark = pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")


@functools.cache
def circuit():
    perturbation = CircuitPerturbation(num_qubits=2)
    perturbation.prepare()
    return perturbation


def superpositional(weight, make=lambda: None):
    return lambda params, **options: SuperpositionalGradientDescent(
        params, quantum_weight=weight, perturbation=make(), **options
    )


ARMS = {
    "AdamW": functools.partial(torch.optim.AdamW, weight_decay=0.0),
    "weight 0": superpositional(0.0),
    "sine": superpositional(0.5),
    "circuit": superpositional(0.5, lambda: copy.deepcopy(circuit())),
}
#: Keywords as in torch's OptimizerInfo of AdamW.
INPUTS = [
    {},
    {"lr": 0.01},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "amsgrad": True},
    {"lr": torch.tensor(0.001)},
    {"lr": torch.tensor(0.001), "betas": (torch.tensor(0.9), torch.tensor([0.99]))},
]
KERNELS = [{}, {"foreach": False}, {"foreach": True}, {"fused": True}]


def inputs(kernels=KERNELS):
    """Fresh keywords of each kind, with each kernel that takes them."""
    for options, kernel in itertools.product(INPUTS, kernels):
        if not (kernel.get("foreach") and isinstance(options.get("lr"), torch.Tensor)):
            yield copy.deepcopy(options | kernel)


@pytest.fixture(params=ARMS)
def make(request):
    torch.manual_seed(0)
    return ARMS[request.param]


def layer(*, contiguous=True):
    """Weight (10, 5), bias (10,) and an input of a linear layer."""
    if contiguous:
        return nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.randn(10)), torch.randn(5)
    return nn.Parameter(torch.randn(10, 5, 2)[..., 0]), nn.Parameter(torch.randn(10, 2)[..., 0]), torch.randn(5)


def closure_of(optimizer, weight, bias, x):
    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        return loss

    return closure


def stepped(make, options, params=None, steps=3, names=False):
    """An optimizer after some steps, its parameters, and its closure."""
    weight, bias, x = params or layer()
    given = [("weight", weight), ("bias", bias)] if names else [weight, bias]
    optimizer = make(given, **options)
    closure = closure_of(optimizer, weight, bias, x)
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer, (weight, bias, x), closure


def clones(params):
    weight, bias, x = params
    return nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone()), x


def assert_same(first, second):
    torch.testing.assert_close(first, second, atol=0, rtol=0)


# ---- steps


@pytest.mark.parametrize("contiguous", [True, False])
def test_goes_in_the_right_direction(make, contiguous):
    for options in inputs():
        if options.get("fused") and not contiguous and make is ARMS["AdamW"]:
            continue  # torch 2.13's kernel mixes up the coordinates
        weight, bias, x = layer(contiguous=contiguous)
        optimizer = make([weight, bias], **options)
        closure = closure_of(optimizer, weight, bias, x)
        before = closure().item()
        losses = [optimizer.step(closure).item() for _ in range(20)]
        assert (closure().item() > before) is options.get("maximize", False)
        assert losses[0] == before


def test_groups_have_weight_decays_and_rates_of_their_own(make):
    for options in inputs():
        weight, bias, x = layer()
        still = nn.Parameter(torch.randn(2))
        before = still.detach().clone()
        groups = [{"params": [weight], **options}, {"params": bias, **options, "weight_decay": 0.0}]
        optimizer = make([*groups, {"params": [still]}], lr=1e-28)
        for group in optimizer.param_groups[:2]:
            group["lr"] = options.get("lr", 1e-3)
        closure = closure_of(optimizer, weight, bias, x)
        first = closure().item()
        for _ in range(20):
            still.grad = torch.rand_like(still)
            optimizer.step(closure)
        assert (closure().item() > first) is options.get("maximize", False)
        assert_same(still, before)


@pytest.mark.parametrize("kernel", [{"foreach": True}, {"fused": True}])
def test_kernels_equal_the_plain_loop(make, kernel):
    for options in inputs([{}]):
        if kernel.get("foreach") and isinstance(options.get("lr"), torch.Tensor):
            continue
        found = []
        for chosen in ({"foreach": False}, kernel):
            torch.manual_seed(1)
            model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).double()
            empty = torch.empty((), dtype=torch.float64).fill_(0.5).requires_grad_()
            none = torch.empty((0,), dtype=torch.float64, requires_grad=True)
            params = [*model.parameters(), empty, none]
            optimizer = make(params, **copy.deepcopy(options), **chosen)
            for step in range(7):
                optimizer.zero_grad()
                if step != 3:  # no gradient at all
                    model(torch.linspace(0.1, 0.6, 6, dtype=torch.float64).view(3, 2)).sum().backward()
                    empty.grad, none.grad = torch.ones_like(empty), torch.ones_like(none)
                optimizer.step()
            moments = [optimizer.state[p][name] for p in params for name in ("exp_avg", "exp_avg_sq", "step")]
            found.append([p.detach() for p in params] + [m.double() for m in moments])
        torch.testing.assert_close(found[1], found[0])


def test_nothing_moves_without_gradients_or_with_gradients_of_0(make):
    for options in inputs():
        weight, bias, _ = layer()
        before = weight.detach().clone()
        optimizer = make([weight, bias], **options)
        optimizer.step()
        assert optimizer.step(lambda: torch.tensor([1.0])).item() == 1.0
        assert_same(weight, before)
        if not options.get("weight_decay"):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
            assert_same(weight, before)


def test_step_hooks_and_global_hooks(make):
    weight, bias, x = layer()
    optimizer, calls = make([weight, bias]), []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre")),
        optimizer.register_step_post_hook(lambda *_: calls.append("post")),
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    optimizer.step(closure_of(optimizer, weight, bias, x))
    for handle in handles:
        handle.remove()
    optimizer.step(closure_of(optimizer, weight, bias, x))
    assert calls == ["global pre", "pre", "post", "global post"]


def test_profilers_see_its_name(make):
    weight, bias, x = layer()
    optimizer = make([weight, bias])
    with torch.profiler.profile() as profile:
        optimizer.step(closure_of(optimizer, weight, bias, x))
    name = type(optimizer).__name__
    found = [event.key for event in profile.key_averages()]
    assert {f"Optimizer.step#{name}.step", f"Optimizer.zero_grad#{name}.zero_grad"} <= set(found)


@pytest.mark.parametrize("foreach", [True, False])
def test_zero_grad(make, foreach):
    weight, bias, x = layer()
    optimizer = make([weight, bias], foreach=foreach)
    closure_of(optimizer, weight, bias, x)()
    optimizer.zero_grad(set_to_none=False)
    assert_same(weight.grad, torch.zeros_like(weight))
    optimizer.zero_grad()
    assert weight.grad is None


def test_the_default_dtype_may_be_another(make):
    torch.set_default_dtype(torch.float64)
    try:
        for options in inputs():
            optimizer, (weight, *_), _ = stepped(make, options)
            expected = torch.float32 if options.get("fused") else torch.float64
            assert optimizer.state[weight]["step"].dtype == expected
    finally:
        torch.set_default_dtype(torch.float32)


# ---- state


@pytest.mark.parametrize(("first_named", "second_named"), itertools.product([False, True], repeat=2))
def test_states_are_deterministic(make, first_named, second_named):
    def groups(optimizer):
        return [{k: v for k, v in g.items() if k != "param_names"} for g in optimizer.state_dict()["param_groups"]]

    for options in inputs():
        first, params, closure = stepped(make, options, names=first_named)
        others = clones(params)
        second, *_ = stepped(make, options, others, steps=0, names=second_named)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        other_closure = closure_of(second, *others)
        for _ in range(3):
            first.step(closure)
            second.step(other_closure)
            assert_same(params[:2], others[:2])
        assert_same(first.state_dict()["state"], second.state_dict()["state"])
        assert groups(first) == groups(second)
        if first_named or second_named:
            assert second.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
        second.param_groups.extend(second.param_groups)
        assert groups(second)[-1] == groups(first)[-1]


def test_states_are_equal_after_a_file_a_copy_and_a_pickle(make):
    for options in inputs():
        optimizer, _, closure = stepped(make, options)
        state = optimizer.state_dict()
        assert_same(through_a_file(state)["state"], state["state"])
        assert through_a_file(state)["param_groups"] == state["param_groups"]
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert_same(other.state_dict()["state"], state["state"])
            assert other.state_dict()["param_groups"] == state["param_groups"]
            public = {name for name in vars(optimizer) if name[0] != "_"}
            assert public == {name for name in vars(other) if name[0] != "_"}
        optimizer.step(closure)


def test_older_states_load(make):
    new = ["maximize", "foreach", "fused", "differentiable", "capturable", "decoupled_weight_decay"]
    ours = ["quantum_weight", "scheduled", "target", "scale", "coupling", "bias_correction", "reference_lr"]
    for options in inputs():
        optimizer, _, closure = stepped(make, options)
        for flags in (new, [*new, *ours, "perturbation_state"]):
            state = copy.deepcopy(optimizer.state_dict())
            for group in state["param_groups"]:
                for flag in flags:
                    group.pop(flag, None)
            optimizer.load_state_dict(state)
            optimizer.step(closure)


def test_steps_that_are_no_tensors_load(make):
    for options in inputs():
        optimizer, _, closure = stepped(make, options)
        state = copy.deepcopy(optimizer.state_dict())
        for entry in state["state"].values():
            entry["step"] = entry["step"].item()
        optimizer.load_state_dict(state)
        optimizer.step(closure)
        assert {float(entry["step"]) for entry in optimizer.state.values()} == {4.0}


def test_a_state_takes_the_dtype_of_its_parameters_and_is_left_as_it_was(make):
    for options in inputs():
        optimizer, (weight, bias, x), _ = stepped(make, options)
        state = copy.deepcopy(optimizer.state_dict())
        double = nn.Parameter(weight.detach().double()), nn.Parameter(bias.detach().double()), x.double()
        other, *_ = stepped(make, options, double, steps=0)
        other.load_state_dict(state)
        assert {entry["exp_avg"].dtype for entry in other.state.values()} == {torch.float64}
        assert {entry["step"].dtype for entry in other.state.values()} == {torch.float32}
        assert_same(state["state"], optimizer.state_dict()["state"])
        assert state["param_groups"] == optimizer.state_dict()["param_groups"]
        other.step(closure_of(other, *double))


def test_hooks_of_state_dicts(make):
    def rate(optimizer, state, lr):
        state["param_groups"][0]["lr"] = lr

    for options in inputs([{}]):
        optimizer = make([torch.rand(2, 3, requires_grad=True)], **options)
        optimizer.register_state_dict_pre_hook(lambda o: o.state.__setitem__("test", 1))
        assert optimizer.state_dict()["state"]["test"] == 1
        optimizer.register_state_dict_post_hook(lambda _, state: state | {"told": state["state"].pop("test")})
        assert optimizer.state_dict()["told"] == 1
        del optimizer.state["test"]

        optimizer = make([torch.rand(2, 3, requires_grad=True)], **options)
        state, seen = optimizer.state_dict(), []
        optimizer.register_load_state_dict_pre_hook(functools.partial(rate, lr=0.002))
        optimizer.register_load_state_dict_post_hook(lambda o, seen=seen: seen.append(o.param_groups[0]["lr"]))
        optimizer.load_state_dict(state)
        optimizer.register_load_state_dict_pre_hook(
            lambda _, state: {**state, "param_groups": [g | {"lr": 0.003} for g in state["param_groups"]]}, prepend=True
        )
        optimizer.load_state_dict(state)
        assert seen == [0.002, 0.002]


def test_it_can_be_printed(make):
    for options in inputs():
        assert "Parameter Group 0" in repr(make([torch.rand(2, requires_grad=True)], **options))


# ---- errors

P, Q = nn.Parameter(torch.randn(1, 1)), nn.Parameter(torch.randn(1, 1))
TENSOR = torch.tensor


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        (P, {}, TypeError, "an iterable of Tensors or dicts"),
        ([], {}, ValueError, "empty parameter list"),
        ([1.0], {}, TypeError, "can only optimize Tensors"),
        ([{"params": {P, Q}}], {}, TypeError, "ordered collections"),
        ([P * 2], {}, ValueError, "can't optimize a non-leaf Tensor"),
        ([P, P], {}, UserWarning, "duplicate parameters"),
        ([{"params": P}, {"params": P}], {}, ValueError, "appear in more than one parameter group"),
        ([("weight", P), Q], {}, ValueError, "Some param names are missing"),
        ([{"params": [P]}, {"params": [("weight", Q)]}], {}, ValueError, "cannot add param group with names"),
        ([P], {"lr": TENSOR([0.001, 0.001])}, ValueError, "Tensor lr must be 1-element"),
        ([P], {"lr": -1e-2}, ValueError, "Invalid learning rate: -0.01"),
        ([P], {"betas": (1.0, 0.0)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
        ([P], {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
        ([P], {"lr": TENSOR(0.001), "foreach": True}, ValueError, "lr as a Tensor is not supported"),
        ([P], {"betas": (0.9, TENSOR(0.99))}, ValueError, "betas must be either both floats or both Tensors"),
        ([P], {"betas": (TENSOR(0.9), TENSOR(0.99)), "foreach": True}, ValueError, r"betas\[0\] as a Tensor"),
        ([P], {"foreach": True, "fused": True}, RuntimeError, "`fused` and `foreach` cannot be `True` together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a tensor says other numbers in each process
)
def test_errors(make, params, options, error, message):
    if issubclass(error, Warning):
        with pytest.warns(error, match=message):
            make(params, **options)
    else:
        with pytest.raises(error, match=message):
            make(params, **options)
