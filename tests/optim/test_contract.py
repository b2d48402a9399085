"""What torch.optim promises of every optimizer, and this one keeps."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import lr_scheduler

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from tests.optim.common import SCOPES, SHAPES, assert_equal, make_params, own_state, run, set_gradients

# ---- groups, hooks, closures, schedulers, torch.compile


def test_add_param_group_in_mid_training():
    first, second = make_params(), make_params(seed=1)
    optimizer = run(first, 2)
    optimizer.add_param_group({"params": second, "quantum_weight": 0.1, "lr": 0.3, "scale": "adam"})
    assert [group["quantum_weight"] for group in optimizer.param_groups] == [0.5, 0.1]
    before = [p.detach().clone() for p in second]
    set_gradients(second, 0)
    optimizer.step()
    assert not torch.equal(before[0], second[0])
    assert optimizer.state[second[0]]["step"] == 1


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.02, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, 3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def test_no_scheduler_of_torch_is_forgotten():
    names = {
        n for n, c in vars(lr_scheduler).items() if isinstance(c, type) and issubclass(c, lr_scheduler.LRScheduler)
    }
    assert names - {"LRScheduler", "_LRScheduler"} <= SCHEDULERS.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_drives_it_as_adamw(name):
    ours, plain = make_params(), make_params()
    optimizers = (
        SuperpositionalGradientDescent(ours, lr=0.01, quantum_weight=0.0),
        torch.optim.AdamW(plain, lr=0.01, weight_decay=0.0),
    )
    rates = []
    for params, optimizer in zip((ours, plain), optimizers):
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(6):
            set_gradients(params, step)
            optimizer.step()
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
    assert rates[:6] == rates[6:]
    assert_equal(ours, plain)


@pytest.mark.parametrize("scope", SCOPES)
def test_torch_compile_gives_the_same_numbers(scope):
    eager, compiled, inside = make_params(), make_params(), make_params()
    run(eager, scope=scope)
    optimizer = SuperpositionalGradientDescent(compiled, scope=scope)
    step = torch.compile(optimizer.step, backend="eager")
    other = SuperpositionalGradientDescent(inside, scope=scope)

    @torch.compile(backend="eager")
    def training_step():
        other.zero_grad()
        sum((p * p.sin()).sum() for p in inside).backward()
        other.step()

    for i in range(3):
        set_gradients(compiled, i)
        step()
    assert_equal(compiled, eager)
    twin = make_params()
    reference = SuperpositionalGradientDescent(twin, scope=scope)
    for _ in range(2):
        training_step()
        reference.zero_grad()
        sum((p * p.sin()).sum() for p in twin).backward()
        reference.step()
    assert_equal(inside, twin, 1e-12)


def test_a_compiled_model_stays_compiled_in_a_closure():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    model = nn.Linear(3, 1)
    compiled = torch.compile(model, backend=backend)
    optimizer = SuperpositionalGradientDescent(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = compiled(torch.ones(2, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(compilations) == 1


@pytest.mark.parametrize("scope", SCOPES)
def test_a_parameter_may_move_to_another_group(scope):
    def train(move):
        params = make_params(shapes=[(4,), (4,)])
        groups = [{"params": params}, {"params": [], "lr": 0.1}]
        if not move:
            groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.1}]
        optimizer = SuperpositionalGradientDescent(groups, scope=scope)
        for step in range(3):
            if step == 0:
                optimizer.param_groups[1]["lr"] = 1e-3
            set_gradients(params, step)
            optimizer.step()
            if step == 0 and move:
                optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
            optimizer.param_groups[1]["lr"] = 0.1
        return params

    assert_equal(train(move=True), train(move=False))


def shapes_only(kind):
    """Where tensors have no values: (a context, a device)."""
    return FakeTensorMode() if kind == "fake" else nullcontext(), "meta" if kind == "meta" else "cpu"


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize(
    "options",
    [
        *[{"scope": scope, "scale": "adam"} for scope in SCOPES],
        *[{"target": target, "coupling": coupling} for target, _, coupling in LEGAL_COMBINATIONS],
        {"twin": "shuffled", "scope": "all"},
        {"scope": "first_of_model", "foreach": True},
    ],
    ids=str,
)
def test_steps_on_tensors_without_values(kind, options):
    context, device = shapes_only(kind)
    with context:
        params = [nn.Parameter(torch.ones(shape, device=device)) for shape in SHAPES]
        optimizer = SuperpositionalGradientDescent(params, perturbation=CircuitPerturbation(), **options)
        optimizer.record_statistics = True
        for _ in range(3):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        state = optimizer.state_dict()["state"]
    assert optimizer.statistics is None
    assert [state[i]["exp_avg"].shape for i in range(len(params))] == [p.shape for p in params]
    assert optimizer.perturbation.circuits == 0


# ---- state


def test_distributed_state_dicts_of_a_fresh_optimizer_with_a_displacement():
    model = nn.Linear(4, 3)
    displacement = MeasuredDisplacement(0.1, source="sign")
    before = model.weight.detach().clone()
    state = get_optimizer_state_dict(
        model, SuperpositionalGradientDescent(model.parameters(), displacement=displacement)
    )
    assert state["state"]["weight"]["exp_avg"].shape == (3, 4)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_state_dicts_carry_the_perturbation(flatten):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))

    def make():
        groups = [
            {"params": model[0].parameters()},
            {"params": model[1].parameters(), "quantum_weight": 0.1},
        ]
        return SuperpositionalGradientDescent(groups, perturbation=ControlPerturbation("frozen", CircuitPerturbation()))

    old = make()
    model(torch.ones(2, 4)).sum().backward()
    old.step()
    old.step()
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    state = get_optimizer_state_dict(model, old, options=options)
    new = make()
    set_optimizer_state_dict(model, new, state, options=options)
    mine, theirs = (own_state(o.state_dict()) for o in (new, old))
    assert mine["step"] == theirs["step"] == 2
    assert torch.equal(mine["table"], theirs["table"])
    assert [group["quantum_weight"] for group in new.param_groups] == [0.5, 0.1]


def test_a_plain_adamw_state_leaves_each_group_its_own_quantum_numbers():
    params = make_params()
    adamw = torch.optim.AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.02, capturable=False)
    set_gradients(params, 0)
    adamw.step()
    groups = [{"params": params[:2], "scale": "adam"}, {"params": params[2:], "quantum_weight": 0.0}]
    optimizer = SuperpositionalGradientDescent(groups, quantum_weight=0.25)
    optimizer.load_state_dict(adamw.state_dict())
    assert [group["quantum_weight"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert [group["scale"] for group in optimizer.param_groups] == ["adam", "gradient"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    set_gradients(params, 1)
    optimizer.step()


def test_a_state_of_a_capturable_adamw_loads():
    params = make_params(torch.float32)
    adamw = torch.optim.AdamW(params, lr=0.02)
    set_gradients(params, 0)
    adamw.step()
    state = adamw.state_dict()
    state["param_groups"][0]["capturable"] = True
    optimizer = SuperpositionalGradientDescent(params)
    optimizer.load_state_dict(state)
    set_gradients(params, 1)
    optimizer.step()
    assert optimizer.param_groups[0]["capturable"] is False


# ---- what a review found


def test_one_dimensional_slices_take_steps():
    def make():
        p = nn.Parameter(torch.arange(20.0)[::2])
        p.grad = torch.linspace(-1, 1, 10)
        return p

    sliced, plain = make(), nn.Parameter(make().detach().clone())
    plain.grad = sliced.grad.clone()
    for p in (sliced, plain):
        SuperpositionalGradientDescent([p], scope="all", lr=0.1).step()
    assert torch.equal(sliced, plain)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_group_of_empty_tensors_is_recorded(scope):
    params = make_params(shapes=[(3,)])
    empty = make_params(shapes=[(0,)])
    optimizer = SuperpositionalGradientDescent([{"params": params}, {"params": empty}], scope=scope)
    set_gradients(params + empty, 0)
    optimizer.record_statistics = True
    optimizer.step()
    assert optimizer.statistics["touched"] == 3
    assert optimizer.statistics_of(empty)["touched"] == 0


def test_a_step_that_is_refused_has_moved_nothing():
    a, b = make_params(shapes=[(4,), (4,)])
    set_gradients([a, b], 0)
    optimizer = SuperpositionalGradientDescent([a, b], bias_correction=False)
    b.grad = None
    optimizer.step()
    set_gradients([a, b], 1)
    before = a.detach().clone()
    with pytest.raises(RuntimeError, match="equally many steps"):
        optimizer.step()
    assert torch.equal(a, before)


@pytest.mark.parametrize("scope", SCOPES)
def test_expanded_gradients(scope):
    expanded, plain = make_params(shapes=[(5,)]), make_params(shapes=[(5,)])
    expanded[0].grad, plain[0].grad = torch.ones(1, dtype=torch.float64).expand(5), torch.ones(5, dtype=torch.float64)
    optimizers = [SuperpositionalGradientDescent(p, scope=scope, target="gradient") for p in (expanded, plain)]
    for optimizer in optimizers:
        optimizer.step()
    moments = [o.state[p[0]]["exp_avg"] for o, p in zip(optimizers, (expanded, plain))]
    assert torch.equal(*moments)
    assert torch.equal(expanded[0].grad, plain[0].grad)


def test_parameters_may_be_swapped_after_a_step():
    p, q = (nn.Parameter(torch.randn(4)) for _ in range(2))
    p.grad = torch.ones(4)
    SuperpositionalGradientDescent([p]).step()
    value = q.detach().clone()
    p.grad = None
    torch.utils.swap_tensors(p, q)
    assert torch.equal(p, value)


def test_decoupled_leaves_the_learning_rate_to_schedulers():
    params = make_params()
    optimizer = SuperpositionalGradientDescent(params, lr=1e-3, coupling="decoupled")
    optimizer.param_groups[0]["lr"] = 1e-2  # as a learning-rate finder does
    lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    fresh = SuperpositionalGradientDescent(params, lr=1e-2, coupling="decoupled")
    adamw = torch.optim.AdamW(params, lr=1e-4)
    fresh.load_state_dict(adamw.state_dict())
    assert (fresh.param_groups[0]["lr"], fresh.param_groups[0]["reference_lr"]) == (1e-4, 1e-2)


def test_the_scope_may_change_between_steps():
    params, twin = make_params(), make_params()
    optimizer, other = (SuperpositionalGradientDescent(p) for p in (params, twin))
    set_gradients(params, 0)
    set_gradients(twin, 0)
    optimizer.step()
    other.step()
    optimizer.scope = "all"
    other = copy.deepcopy(other)
    other.scope = "all"
    optimizer.step()
    other.step()
    assert_equal(params, other.param_groups[0]["params"])


def test_a_group_that_is_refused_is_not_kept():
    optimizer = SuperpositionalGradientDescent(make_params())
    with pytest.raises(ValueError, match=r"Invalid lr: 0\.0"):
        optimizer.add_param_group({"params": make_params(seed=1), "lr": 0.0, "coupling": "decoupled"})
    assert len(optimizer.param_groups) == 1


def test_statistics_are_those_of_the_last_recorded_step_or_none():
    params = make_params()
    optimizer = SuperpositionalGradientDescent(params, quantum_weight=lambda step: 0.5 if step == 0 else 0.0)
    optimizer.record_statistics = True
    set_gradients(params, 0)
    optimizer.step()
    assert optimizer.statistics["quantum_weight"] == 0.5
    with pytest.raises(ValueError, match="not the optimizer's"):
        optimizer.statistics_of(make_params(seed=1))
    optimizer.step()
    assert optimizer.statistics is None
    with pytest.raises(RuntimeError, match="No perturbed step has been recorded"):
        optimizer.statistics_of(params)
