"""torch.set_default_device changes nothing: "meta" is the strictest, its tensors have no values."""

import pytest
import torch

from lightning_qsgd.optim import (
    CircuitPerturbation,
    LiveCircuitPerturbation,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)


def circuit(**options):
    return CircuitPerturbation(num_qubits=2, **options)


TWINS = ["sign", "uniform", "matched", "shuffled", "frozen", "constant", "scalar", "series"]
KINDS = {
    "sine": dict,
    "series": lambda: {"perturbation": circuit(center="zero"), "scope": "all"},
    "light cone": lambda: {"perturbation": circuit(entanglement="none", rotations="zero"), "bias_correction": False},
    "shot noise": lambda: {"perturbation": circuit(shot_noise=100)},
    "live": lambda: {"perturbation": LiveCircuitPerturbation(2, center="odd", on_failure="series")},
    "displaced": lambda: {"displacement": MeasuredDisplacement(0.1, circuit=circuit())},
    "gaussian": lambda: {"displacement": MeasuredDisplacement(0.1, source="gaussian")},
    **{kind: lambda kind=kind: {"perturbation": circuit(), "twin": kind} for kind in TWINS},
}


def train(kind):
    generator = torch.Generator("cpu").manual_seed(0)
    shapes = [(3, 5), (7,), (), (2, 2, 2)]
    params = [torch.randn(shape, generator=generator, device="cpu").requires_grad_() for shape in shapes]
    make = lambda: SuperpositionalGradientDescent(params, lr=0.05, **KINDS[kind]())  # noqa: E731
    optimizer = make()
    optimizer.prepare()
    for step in range(3):
        if step == 2:
            state = optimizer.state_dict()
            optimizer = make()
            optimizer.load_state_dict(state)
        for p in params[: 2 + step if kind == "sine" else 4]:  # of different ages
            p.grad = torch.randn(p.shape, generator=generator, device="cpu")
        optimizer.record_statistics = True
        if optimizer.displacement:
            with optimizer.displaced():
                pass
        optimizer.step()
    return [p.detach() for p in params], optimizer.statistics["norm_ratio"], optimizer.perturbation.report()


@pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")
@pytest.mark.parametrize("kind", KINDS)
def test_the_default_device_does_not_matter(kind):
    expected = train(kind)
    torch.set_default_device("meta")
    try:
        found = train(kind)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(found[:2], expected[:2], atol=0, rtol=0)
    assert found[2] == expected[2]
