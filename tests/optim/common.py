"""Parameters and gradients for tests of optimizers."""

import copy
import functools
import io

import torch

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    LiveCircuitPerturbation,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.saved_state import unpack

SCOPES = ["first_of_tensor", "first_of_model", "all"]
SHAPES = [(3, 5), (7,), (), (0,), (2, 2, 2), (1,)]


def make_params(dtype=torch.float64, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=dtype, generator=generator).requires_grad_() for s in shapes]


def set_gradients(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def assert_equal(first, second, tolerance=0.0):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def ask(perturbation, angles, step=0, layout=None):
    perturbation.layout = layout or [(0, angles.numel(), 0)]
    return perturbation(angles, step=step)


def random_angles(blocks=30, n=4):
    return torch.randn(blocks, n, dtype=torch.float64)


def run(params, steps=3, gradients=set_gradients, **options):
    """The optimizer after some steps; gradients(params, step) sets the gradients of each."""
    optimizer = SuperpositionalGradientDescent(params, **options)
    for step in range(steps):
        gradients(params, step)
        optimizer.step()
    return optimizer


def own_state(state_dict):
    """What an optimizer's state dict holds of its perturbation."""
    return unpack(state_dict["param_groups"][0]["perturbation_state"])


def through_a_file(value):
    """What a checkpoint file gives back, loaded as foreign files are."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@functools.cache
def fitted():
    circuit = CircuitPerturbation()
    circuit.prepare()
    return circuit


def live(kind):
    """The live class of a circuit's."""
    return type(f"Live{kind.__name__}", (kind, LiveCircuitPerturbation), {})


COMMON_PERTURBATIONS = {
    "sine": SinePerturbation,
    "circuit": lambda: copy.deepcopy(fitted()),
    "live": lambda: LiveCircuitPerturbation(),
    "shuffled": lambda: ControlPerturbation("shuffled"),
}


def train_with_a_grad_scaler(device, **options):
    """Four steps under a GradScaler, the third of which overflows, beside three of true gradients without one."""
    scaler = torch.amp.GradScaler(device, init_scale=2.0**12)
    scaled, plain = ([p.detach().to(device).requires_grad_() for p in make_params(torch.float32)] for _ in range(2))
    ours = SuperpositionalGradientDescent(scaled, lr=0.01, **options)
    reference = SuperpositionalGradientDescent(plain, lr=0.01, **options)
    for step in range(4):
        source = make_params(torch.float32)
        set_gradients(source, step)
        for p, q, like in zip(scaled, plain, source):
            q.grad = like.grad.to(device)
            p.grad = scaler.scale(q.grad)
        if step == 2:  # an overflow
            scaled[0].grad[0, 0] = float("inf")
        else:
            reference.step()
        scaler.step(ours)
        scaler.update()
    assert_equal(scaled, plain, 1e-6)
    assert own_state(ours.state_dict())["step"] == 3
