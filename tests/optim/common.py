"""Parameters and gradients for tests of optimizers."""

import io

import torch

from lightning_qsgd.optim import SuperpositionalGradientDescent

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


def through_a_file(value):
    """What a checkpoint file gives back, loaded as foreign files are."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
