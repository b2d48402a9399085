"""Kernels of series attention on a GPU: values and gradients are the CPU's, in one chunk or many."""

import pytest
import torch

from lightning_qsgd.models import attention_kernels, series_attention
from tests.gpu.common import DEVICE, GPU

pytestmark = GPU


def operands(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 17, 8), (3, 2, 19, 8), (3, 2, 19, 8), (2, 16), (2,)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def attend(device, dtype, kernel, masked):
    inputs = [x.to(device).requires_grad_() for x in operands(dtype)]
    allowed = (torch.arange(19) < torch.tensor([19, 7, 0])[:, None])[:, None, None] if masked else None  # one sees none
    out = series_attention(*inputs, None if allowed is None else allowed.to(device), kernel=kernel)
    weight = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out).cos().to(device)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    assert out.device.type == device
    return [x.detach().cpu() for x in (out, *gradients)]


@pytest.mark.parametrize(
    ("kernel", "masked"),
    [("fused", False), ("fused", True), ("plain", False), ("plain", True), ("compiled", True)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_each_kernel_gives_the_cpus_numbers(dtype, tolerance, kernel, masked):
    expected = attend("cpu", torch.float64, "plain", masked)
    for ours, theirs in zip(attend(DEVICE, dtype, kernel, masked), expected):
        torch.testing.assert_close(ours.double(), theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("chunk", [1, 50, 700])
def test_chunks_change_nothing(monkeypatch, chunk):
    expected = attend("cpu", torch.float64, "plain", True)
    monkeypatch.setattr(attention_kernels, "CHUNK_GPU", chunk)
    monkeypatch.setattr(attention_kernels, "CHUNK", chunk)
    for ours, theirs in zip(attend(DEVICE, torch.float64, "fused", True), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_dropout_keeps_the_mean(kernel):
    q, k, v, coefficients, scale = (x.to(DEVICE) for x in operands(torch.float32))
    whole = series_attention(q, k, v, coefficients, scale, kernel=kernel)
    torch.manual_seed(0)
    drawn = [series_attention(q, k, v, coefficients, scale, None, 0.3, kernel) for _ in range(400)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(0), whole, atol=0.25, rtol=0)
