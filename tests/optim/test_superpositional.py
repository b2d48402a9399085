import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.reference import ReferenceSuperpositionalGradientDescent
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from tests.optim.common import SCOPES, SHAPES, assert_equal, make_params, own_state, set_gradients

ALL_COMBINATIONS = list(itertools.product(["update", "gradient"], ["gradient", "adam"], ["lr", "decoupled"]))


def run(optimizer_class, steps=4, dtype=torch.float64, missing=(), **options):
    params = make_params(dtype)
    optimizer = optimizer_class(params, **options)
    for step in range(steps):
        set_gradients(params, step)
        for i in missing:
            params[i].grad = None
        optimizer.step()
    return params


# ---- equal to AdamW, and to the reference


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "maximize": True, "weight_decay": 0.1, "eps": 1e-5}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantum_weight_0_is_adamw_bit_for_bit(options, foreach, dtype):
    options = {"lr": 0.01, "weight_decay": 0.0, "foreach": foreach} | options
    perturbation = CircuitPerturbation()
    ours = run(SuperpositionalGradientDescent, 100, dtype, quantum_weight=0.0, perturbation=perturbation, **options)
    assert_equal(ours, run(torch.optim.AdamW, 100, dtype, **options))
    assert perturbation.circuits == 0


@given(
    combination=st.sampled_from(LEGAL_COMBINATIONS),
    scope=st.sampled_from(["first_of_tensor", "first_of_model", "all"]),
    bias_correction=st.booleans(),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.3]),
    num_qubits=st.sampled_from([1, 2, 4, 9, 40]),
    missing=st.sampled_from([(), (0,), (1, 2)]),
    kind=st.sampled_from(["sine", "shuffled", "matched", "constant", "frozen", "scalar"]),
)
def test_equal_to_the_reference(combination, num_qubits, kind, missing, **options):
    target, scale, coupling = combination

    def perturbation():
        sine = SinePerturbation(num_qubits)
        return sine if kind == "sine" else ControlPerturbation(kind, sine)

    options |= {"target": target, "scale": scale, "coupling": coupling, "lr": 0.05, "quantum_weight": 0.7}
    ours = run(SuperpositionalGradientDescent, missing=missing, perturbation=perturbation(), **options)
    reference = run(ReferenceSuperpositionalGradientDescent, missing=missing, perturbation=perturbation(), **options)
    assert_equal(ours, reference, 1e-12)


def test_the_scalar_twin_is_adamw_at_another_learning_rate():
    twin = ControlPerturbation("scalar", SinePerturbation())
    ours = run(SuperpositionalGradientDescent, perturbation=twin, scope="all", scale="adam", lr=0.05)
    mean = torch.cat([p.detach().flatten() for p in make_params()]).mul(math.pi).sin().mean().item()
    assert abs(mean) > 0.01
    assert_equal(ours, run(torch.optim.AdamW, lr=0.05 * (1 + 0.5 * mean), weight_decay=0.0), 1e-12)


@given(
    options=st.lists(
        st.tuples(
            st.sampled_from(LEGAL_COMBINATIONS),
            st.booleans(),
            st.sampled_from([0.0, 0.4, 1.0]),
            st.sampled_from([0.0, 0.05]),
        ),
        min_size=2,
        max_size=4,
    ),
    scope=st.sampled_from(["first_of_tensor", "first_of_model", "all"]),
    kind=st.sampled_from(["sine", "shuffled", "constant"]),
)
def test_groups_of_all_kinds_equal_the_reference(options, scope, kind):
    def run_groups(optimizer_class):
        params = [make_params(seed=i) for i in range(len(options))]
        groups = [
            {"params": p, "target": t, "scale": s, "coupling": c, "bias_correction": b, "quantum_weight": w, "lr": 0.05}
            for p, ((t, s, c), b, w, _) in zip(params, options)
        ]
        sine = SinePerturbation(20)
        perturbation = sine if kind == "sine" else ControlPerturbation(kind, sine)
        optimizer = optimizer_class(groups, lr=0.05, scope=scope, perturbation=perturbation)
        for group, (*_, lr) in zip(optimizer.param_groups, options):
            group["initial_lr"], group["lr"] = 0.05, lr
        if not any(lr for *_, lr in options):
            return []
        for step in range(3):
            for p in params:
                set_gradients(p, step)
            optimizer.step()
        return [p for group in params for p in group]

    ours, reference = run_groups(SuperpositionalGradientDescent), run_groups(ReferenceSuperpositionalGradientDescent)
    assert_equal(ours, reference, 1e-12)


@pytest.mark.parametrize(("target", "scale", "coupling"), LEGAL_COMBINATIONS)
def test_equal_to_the_reference_with_a_circuit(target, scale, coupling):
    options = {"target": target, "scale": scale, "coupling": coupling, "perturbation": CircuitPerturbation()}
    ours = run(SuperpositionalGradientDescent, **options)
    assert_equal(ours, run(ReferenceSuperpositionalGradientDescent, **options), 1e-12)
    assert not torch.equal(ours[0], run(torch.optim.AdamW, weight_decay=0.0)[0])


@pytest.mark.parametrize("combination", ALL_COMBINATIONS)
def test_table_of_legal_combinations(combination):
    target, scale, coupling = combination
    options = {"target": target, "scale": scale, "coupling": coupling}
    if combination in LEGAL_COMBINATIONS:
        SuperpositionalGradientDescent(make_params(), **options)
    else:
        with pytest.raises(ValueError, match=r"Invalid \(target, scale, coupling\).*legal: update, gradient, lr"):
            SuperpositionalGradientDescent(make_params(), **options)


def test_equation_1_by_hand():
    theta = torch.tensor([0.5, 0.25, 2.0, 0.1, 0.5], dtype=torch.float64, requires_grad=True)
    theta.grad = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    before, gradient = theta.detach().clone(), theta.grad.clone()
    SuperpositionalGradientDescent([theta], lr=0.1, quantum_weight=0.5, eps=0.0).step()
    q = torch.sin(torch.pi * before) * gradient
    q[4:] = 0  # i >= n_qubits
    torch.testing.assert_close(theta.detach(), before - 0.1 * (gradient.sign() + 0.5 * q))


# ---- scopes


def touched(scope, num_qubits=4, shapes=SHAPES):
    params, plain = make_params(shapes=shapes), make_params(shapes=shapes)
    ours = SuperpositionalGradientDescent(params, scope=scope, perturbation=SinePerturbation(num_qubits))
    adamw = torch.optim.AdamW(plain, weight_decay=0.0)
    for group, optimizer in ((params, ours), (plain, adamw)):
        set_gradients(group, 0)
        optimizer.step()
    return [int((a != b).sum()) for a, b in zip(params, plain, strict=True)]


def test_scopes_touch_the_coordinates_they_name():
    assert touched("first_of_tensor") == [4, 4, 1, 0, 4, 1]
    assert touched("first_of_model") == [4, 0, 0, 0, 0, 0]
    assert touched("first_of_model", num_qubits=17) == [15, 2, 0, 0, 0, 0]
    assert touched("all") == [15, 7, 1, 0, 8, 1]


@pytest.mark.parametrize("scope", ["first_of_tensor", "all"])
@pytest.mark.parametrize("combination", LEGAL_COMBINATIONS)
def test_non_contiguous_tensors_count_in_c_order(scope, combination):
    target, scale, coupling = combination
    options = {"scope": scope, "target": target, "scale": scale, "coupling": coupling}
    values, gradient = torch.randn(3, 5), torch.randn(3, 5)
    plain, strided = values.clone().requires_grad_(), values.T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    plain.grad, strided.grad = gradient, gradient.T.contiguous().T
    for p in (plain, strided):
        SuperpositionalGradientDescent([p], **options).step()
    torch.testing.assert_close(plain, strided)


def test_one_call_per_step_with_all_blocks():
    calls = []

    class Spy(SinePerturbation):
        def forward(self, angles, *, step):
            calls.append((tuple(angles.shape), step, list(self.layout)))
            return super().forward(angles, step=step)

    params = make_params(shapes=[(2, 3), (5,), (1,)])
    optimizer = SuperpositionalGradientDescent(params, perturbation=Spy())
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    layout = [(0, 4, 0), (1, 4, 0), (2, 1, 3)]
    assert calls == [((3, 4), 0, layout), ((3, 4), 1, layout)]


# ---- groups, schedules, closures, hooks


def test_groups_have_their_own_numbers():
    a, b = make_params(shapes=[(4,), (4,)])
    plain = [p.detach().clone().requires_grad_() for p in (a, b)]
    optimizer = SuperpositionalGradientDescent([{"params": [a]}, {"params": [b], "quantum_weight": 0.0}])
    adamw = torch.optim.AdamW(plain, weight_decay=0.0)
    for group, o in (([a, b], optimizer), (plain, adamw)):
        set_gradients(group, 0)
        o.step()
    assert not torch.equal(a, plain[0])
    assert torch.equal(b, plain[1])


def test_quantum_weight_may_follow_a_schedule():
    params = make_params()
    own = {"params": make_params(seed=1), "quantum_weight": 0.3}
    optimizer = SuperpositionalGradientDescent(
        [{"params": params}, own], quantum_weight=lambda step: 0.0 if step == 0 else 1.0 / step
    )
    weights = []
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
        weights.append([group["quantum_weight"] for group in optimizer.param_groups])
    assert weights == [[0.0, 0.3], [1.0, 0.3], [0.5, 0.3]]


def test_closure_and_hooks_run_once():
    torch.optim.AdamW(make_params())  # from now on torch has wrapped AdamW.step in hooks of its own
    params = make_params()
    optimizer = SuperpositionalGradientDescent(params)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(sum(p.square().sum().item() for p in make_params()))
    assert calls == ["pre", "closure", "post"]


def test_gradients_are_left_as_they_were():
    params = make_params()
    set_gradients(params, 0)
    before = [p.grad.clone() for p in params]
    SuperpositionalGradientDescent(params, target="gradient", scope="all").step()
    assert_equal([p.grad for p in params], before)


def test_lr_0_moves_nothing_asks_no_circuit_and_advances_no_counter():
    params = make_params()
    perturbation = LiveCircuitPerturbation()
    optimizer = SuperpositionalGradientDescent(params, lr=1e-3, coupling="decoupled", perturbation=perturbation)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = 0.0
    set_gradients(params, 0)
    optimizer.step()
    assert_equal([p.detach() for p in params], before)
    assert perturbation.circuits == 0
    assert own_state(optimizer.state_dict())["step"] == 0
    optimizer.param_groups[0]["lr"] = 1e-3
    optimizer.step()
    assert perturbation.circuits == 5
    assert own_state(optimizer.state_dict())["step"] == 1


@pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")
def test_decoupled_follows_the_schedule_of_lr():
    def moved(lr_factor):
        p = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
        plain = p.detach().clone().requires_grad_()
        ours = SuperpositionalGradientDescent([p], lr=1e-3, coupling="decoupled")
        adamw = torch.optim.AdamW([plain], lr=1e-3, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(ours, lambda _: lr_factor)
        torch.optim.lr_scheduler.LambdaLR(adamw, lambda _: lr_factor)
        for t, o in ((p, ours), (plain, adamw)):
            t.grad = torch.ones_like(t)
            o.step()
        scheduler.step()
        return (plain - p).detach()

    torch.testing.assert_close(moved(1.0), torch.full((4,), 0.5, dtype=torch.float64))  # lambda * sin(pi / 2) * 1
    torch.testing.assert_close(moved(0.1), moved(1.0) / 10)


def test_tensor_lr():
    tensor = run(SuperpositionalGradientDescent, lr=torch.tensor(0.01, dtype=torch.float64), foreach=False)
    assert_equal(tensor, run(SuperpositionalGradientDescent, lr=0.01), 1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_circuits_are_evaluated_in_float32_whatever_the_weights_and_autocast(autocast):
    seen = []

    class Spy(CircuitPerturbation):
        def forward(self, angles, *, step):
            s = super().forward(angles, step=step)
            seen.append((angles.dtype, s.dtype, (s - CircuitPerturbation()(angles.double(), step=0)).abs().max()))
            return s

    params, plain = (make_params(torch.bfloat16) for _ in range(2))
    ours = SuperpositionalGradientDescent(params, lr=0.1, scale="adam", perturbation=Spy())
    adamw = torch.optim.AdamW(plain, lr=0.1, weight_decay=0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for group, optimizer in ((params, ours), (plain, adamw)):
            set_gradients(group, 0)
            optimizer.step()
    ((angles, s, error),) = seen
    assert (angles, s) == (torch.float32, torch.float32)
    assert error < 1e-5  # bfloat16 would be off by 3e-3
    assert params[0].dtype == torch.bfloat16
    assert not torch.equal(params[0], plain[0])


def test_without_quantum_weight_no_circuit_is_prepared():
    perturbation = CircuitPerturbation()
    assert (
        SuperpositionalGradientDescent(make_params(), quantum_weight=0.0, perturbation=perturbation).prepare() is None
    )
    assert SuperpositionalGradientDescent(
        make_params(), quantum_weight=lambda step: float(step), perturbation=perturbation
    ).prepare()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("target", "scale", "coupling"), LEGAL_COMBINATIONS)
def test_weight_decay_may_erase_the_weights(target, scale, coupling, scope):
    options = {"target": target, "scale": scale, "coupling": coupling, "scope": scope, "lr": 0.5, "weight_decay": 2.0}
    ours = run(SuperpositionalGradientDescent, **options)
    assert_equal(ours, run(ReferenceSuperpositionalGradientDescent, **options), 1e-12)


# ---- warnings and errors


def in_steps(gradient, steps=12, weights=0.05, make=SuperpositionalGradientDescent, **options):
    """Weights of steps on gradients gradient(step) * theta / |theta|."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(8, 8, generator=generator).mul_(weights).requires_grad_() for _ in range(3)]
    optimizer = make(params, **options)
    for step in range(steps):
        for p in params:
            p.grad = gradient(step) * p.detach() / p.detach().abs().mean()
        optimizer.step()
    return params


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lr", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_perturbation_far_beyond_adams_step_is_told_before_it_diverges(scope, lr):
    with pytest.raises(UserWarning, match=r"times as large as Adam's step: .*Clip gradients"):
        in_steps(lambda step: 100.0, lr=lr, scope=scope)


def test_it_is_told_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_steps(lambda step: 1000.0)
    assert len([w for w in caught if "as large as Adam's step" in str(w.message)]) == 1


def test_a_perturbation_that_grows_late_is_told():
    with pytest.warns(UserWarning, match="as large as Adam's step"):
        in_steps(lambda step: 1.0 if step < 120 else 300.0, steps=160)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"scale": "adam"}, {"target": "gradient", "quantum_weight": 1.0}])
def test_usual_gradients_are_no_reason_to_warn(options):
    in_steps(lambda step: 1.0, steps=60, weights=0.5, **options)
    in_steps(lambda step: 1e5 if "scale" in options or "target" in options else 2.0, steps=60, weights=0.5, **options)


def test_a_weight_beyond_1_in_adams_units_is_told():
    params = make_params()
    with pytest.warns(UserWarning, match=r"quantum_weight 5 with scale='adam' .* steps go uphill"):
        SuperpositionalGradientDescent(params, quantum_weight=5, scale="adam")
    with pytest.warns(UserWarning, match=r"quantum_weight 1.5 with scale='adam'"):
        SuperpositionalGradientDescent([{"params": params, "quantum_weight": 1.5, "scale": "adam"}])
    optimizer = SuperpositionalGradientDescent(params, quantum_weight=lambda step: 0.5 + step, scale="adam")
    set_gradients(params, 0)
    optimizer.step()
    with pytest.warns(UserWarning, match=r"quantum_weight 1.5 with scale='adam'"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        SuperpositionalGradientDescent(params, quantum_weight=1, scale="adam")


@pytest.mark.parametrize(
    ("scale", "words"), [("adam", "AdamW with lr 0.0005"), ("gradient", "gradient step of rate -0.0")]
)
def test_a_constant_modulation_warns_with_its_equivalent(scale, words):
    params = [torch.randn(40, 40).mul_(0.05).requires_grad_()]
    set_gradients(params, 0)
    literal = SuperpositionalGradientDescent(
        params, perturbation=CircuitPerturbation(rotations="zero"), scope="all", scale=scale
    )
    with pytest.warns(UserWarning, match=rf"s has mean -0\.9\d+ .*{words}"):
        literal.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        literal.step()  # once is enough
        SuperpositionalGradientDescent(params, perturbation=CircuitPerturbation(), scope="all").step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"eps": -1.0}, "Invalid epsilon"),
        ({"betas": (1.0, 0.9)}, "Invalid beta"),
        ({"weight_decay": -0.1}, "Invalid weight_decay"),
        ({"quantum_weight": -0.5}, "Invalid quantum_weight: -0.5"),
        ({"quantum_weight": float("nan")}, "Invalid quantum_weight: nan"),
        ({"quantum_weight": lambda step: -0.5}, "Invalid quantum_weight: -0.5; it must be at least 0"),
        ({"scope": "some"}, "Invalid scope: 'some'"),
        ({"target": "loss"}, "Invalid"),
        ({"perturbation": "sine"}, "Invalid perturbation: 'sine'"),
        ({"lr": 0.0, "coupling": "decoupled"}, "Invalid lr: 0.0"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuperpositionalGradientDescent(make_params(), **arguments)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("quantum_wieght", r"'quantum_wieght' \(did you mean 'quantum_weight'\?\); a group takes .*quantum_weight"),
        ("Quantum-Weight", "did you mean 'quantum_weight'"),
        ("tagret", "did you mean 'target'"),
        ("scales", "did you mean 'scale'"),
        ("wieght_decay", "did you mean 'weight_decay'"),
        ("param", "did you mean 'params'"),
        ("quantum_lr", "'quantum_lr'; a group takes"),
        ("perturbations", "'perturbations'; a group takes"),
        *[(key, f"'{key}' belongs to the optimizer") for key in ("scope", "perturbation", "twin", "displacement")],
    ],
)
def test_keys_of_groups_that_would_be_ignored_are_refused(key, message):
    group = {"params": make_params(), key: 0.5}
    with pytest.raises(ValueError, match=message):
        SuperpositionalGradientDescent([group])
    optimizer = SuperpositionalGradientDescent(make_params(seed=1))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "key",
    [
        *["initial_lr", "max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum", "scheduler", "scheduled_lr"],
        *["name", "group_name", "label", "lr_scale", "lr_mult", "wd_mult", "weight_decay_mult", "layer_decay"],
        *["use_muon", "train_mode", 3],
    ],
)
def test_keys_of_schedulers_and_users_are_kept(key):
    optimizer = SuperpositionalGradientDescent([{"params": make_params(), key: 0.5}])
    assert optimizer.param_groups[0][key] == 0.5
    assert SuperpositionalGradientDescent(optimizer.param_groups).param_groups[0][key] == 0.5  # groups of another one


def test_schedules_are_checked_in_each_step_and_belong_to_the_constructor():
    params = make_params()
    set_gradients(params, 0)
    optimizer = SuperpositionalGradientDescent(params, quantum_weight=lambda step: 1.0 - 2 * step)
    optimizer.step()
    with pytest.raises(ValueError, match=r"Invalid quantum_weight: -1.0"):
        optimizer.step()
    with pytest.raises(ValueError, match="a group takes a number, the constructor a schedule"):
        SuperpositionalGradientDescent([{"params": params, "quantum_weight": lambda step: 1.0}])


def test_what_cannot_hold_is_refused_in_the_step():
    sparse = torch.zeros(3, requires_grad=True)
    sparse.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        SuperpositionalGradientDescent([sparse]).step()
    whole = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
    whole.grad = torch.ones_like(whole)
    with pytest.raises(RuntimeError, match="does not support complex gradients"):
        SuperpositionalGradientDescent([whole]).step()
    params = make_params(shapes=[(4,), (4,)])
    optimizer = SuperpositionalGradientDescent(params, bias_correction=False)
    set_gradients(params[:1], 0)
    optimizer.step()
    set_gradients(params, 1)
    with pytest.raises(RuntimeError, match=r"equally many steps; this group has \[0.0, 1.0\]"):
        optimizer.step()
