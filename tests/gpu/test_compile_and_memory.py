"""torch.compile by inductor, and activation checkpointing, on a GPU."""

import pytest
import torch
from torch.nn import functional as F

from lightning_qsgd.models import QuantumAttention, TransformerClassifier
from tests.gpu.common import DEVICE, GPU, ON_GPU, assert_same_weights, checkpoint, run

pytestmark = GPU


def test_a_compiled_run_learns_what_the_uncompiled_one_does(tmp_path):
    torch._dynamo.reset()
    options = ["--trainer.max_epochs=1", "--trainer.precision=64-true", "--model.dropout=0"]
    run("fit", tmp_path / "plain", *options)
    run("fit", tmp_path / "compiled", *options, "--config=configs/overlay/compile.yaml")
    assert_same_weights(checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "compiled"), 1e-8)


def test_quantum_attention_compiles():
    torch._dynamo.reset()
    model = QuantumAttention(8, 2).to(DEVICE)
    x = torch.randn(4, 5, 8, device=DEVICE)
    found = []
    for _ in range(2):
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad for p in model.parameters())])
        model.compile()
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attention", ["classical", "quantum"])
def test_checkpointed_activations_give_the_same_gradients_from_less_memory(attention):
    tokens = torch.randint(64, (64, 128), device=DEVICE)
    gradients, kept = [], []
    for again in (False, True):
        torch.manual_seed(0)
        model = TransformerClassifier(64, 4, num_layers=6, attention=attention, checkpoint_activations=again)
        model.to(DEVICE)
        before = torch.cuda.memory_allocated() if ON_GPU else 0
        loss = F.cross_entropy(model(tokens), tokens[:, 0] % 4)
        kept.append(torch.cuda.memory_allocated() - before if ON_GPU else -len(kept))
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        del loss
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)  # a GPU may sum in another order
    assert kept[1] < kept[0] / 4 if ON_GPU else kept[1] < kept[0]
