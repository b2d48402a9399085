import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_qsgd.models import attention_kernels, series_attention

DTYPE = torch.float64


def by_formula(q, k, v, coefficients, scale, allowed=None):
    """softmax(S + Phi(S)) V, term by term."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    x = scale[:, None, None] * scores
    phi = torch.zeros_like(x)
    for i, coefficient in enumerate(coefficients.unbind(1)):
        wave = torch.cos if i % 2 == 0 else torch.sin
        phi = phi + coefficient[:, None, None] * wave((i // 2 + 1) * x)
    logits = scores + phi
    if allowed is None:
        return logits.softmax(-1) @ v
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0) @ v


def operands(batch=2, heads=2, queries=3, keys=4, size=2, frequencies=3, dtype=DTYPE, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    q, k, v = (draw(batch, heads, length, size) for length in (queries, keys, keys))
    return [q, k, v, draw(heads, 2 * frequencies), draw(heads)]


def gradients(out, inputs):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).cos()
    return torch.autograd.grad((out * weight).sum(), inputs)


@st.composite
def masks(draw, batch, heads, queries, keys):
    shape = draw(st.sampled_from([(queries, keys), (batch, 1, 1, keys), (batch, heads, queries, keys)]))
    bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(bits).view(shape)


@given(st.data(), st.integers(0, 100))
def test_fused_and_plain_equal_the_formula(data, seed):
    batch, heads, queries, keys, frequencies = (data.draw(st.integers(1, most)) for most in (3, 2, 4, 4, 9))
    inputs = operands(batch, heads, queries, keys, 2, frequencies, seed=seed)
    allowed = data.draw(st.none() | masks(batch, heads, queries, keys))
    expected = by_formula(*inputs, allowed)
    before, attention_kernels.CHUNK = attention_kernels.CHUNK, data.draw(st.sampled_from([1, 5, 9, 2**15]))
    try:
        for kernel in ("fused", "plain"):
            out = series_attention(*inputs, allowed, kernel=kernel)
            torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
            torch.testing.assert_close(
                gradients(out, inputs), gradients(by_formula(*inputs, allowed), inputs), atol=1e-10, rtol=0
            )
    finally:
        attention_kernels.CHUNK = before


@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_gradcheck(kernel):
    inputs = operands()
    allowed = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    assert torch.autograd.gradcheck(lambda *x: series_attention(*x, allowed, kernel=kernel), inputs)


def test_only_plain_attention_has_second_derivatives():
    inputs = operands()
    assert torch.autograd.gradgradcheck(lambda *x: series_attention(*x, kernel="plain"), inputs)
    out = series_attention(*inputs)
    with pytest.raises(RuntimeError, match="differentiable once; second derivatives need kernel='plain'"):
        torch.autograd.grad(out.sum(), inputs[0], create_graph=True)


def test_float32_is_right_to_1e_6():
    inputs = operands(8, 4, 32, 32, 16, 8, dtype=torch.float32)
    inputs[3] = (inputs[3].detach() / 16).requires_grad_()  # as large as a circuit's
    expected = by_formula(*(x.double() for x in inputs))
    for kernel in ("fused", "plain"):
        torch.testing.assert_close(series_attention(*inputs, kernel=kernel).double(), expected, atol=1e-6, rtol=0)


def test_nothing_as_large_as_the_scores_is_kept():
    inputs = operands(4, 2, 64, 64, 4, 8)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        series_attention(*inputs)
        assert max(x.numel() for x in kept) <= 4 * 2 * 64 * 4
        kept.clear()
        series_attention(*inputs, dropout=0.5)
    large = [x for x in kept if x.numel() >= 4 * 2 * 64 * 64]
    assert [x.dtype for x in large] == [torch.uint8]  # dropout's mask


@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_dropout_drops_what_torchs_attention_drops(kernel):
    q, k, v, coefficients, scale = operands(2, 2, 5, 5, dtype=torch.float32)
    none = torch.zeros_like(coefficients)
    torch.manual_seed(0)
    expected = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
    torch.manual_seed(0)
    out = series_attention(q, k, v, none, scale, dropout=0.3, kernel=kernel)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(out, [q, k, v]), gradients(expected, [q, k, v]))
    full = series_attention(q, k, v, coefficients, scale, kernel=kernel)
    many = torch.stack(
        [series_attention(q, k, v, coefficients, scale, dropout=0.3, kernel=kernel) for _ in range(2000)]
    )
    torch.testing.assert_close(many.mean(0), full, atol=0.1, rtol=0)
    assert (many.mean(0) - full).abs().mean().item() < 0.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = [x.detach().to(dtype) for x in operands(2, 2, 5, 5)]
    expected = series_attention(*(x.float() for x in inputs)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = series_attention(*inputs)
    assert out.dtype == dtype
    assert torch.equal(out, expected)


def test_gradients_of_single_operands():
    inputs = operands()
    whole = gradients(series_attention(*inputs), inputs)
    for i, expected in enumerate(whole):
        alone = [x.detach() for x in inputs]
        alone[i].requires_grad_()
        torch.testing.assert_close(gradients(series_attention(*alone), [alone[i]])[0], expected)


def test_torch_func_is_sent_to_the_plain_kernel():
    q, *others = (x.detach() for x in operands())
    with pytest.raises(RuntimeError, match="need kernel='plain'"):
        torch.func.grad(lambda q: series_attention(q, *others).sum())(q)
    torch.func.grad(lambda q: series_attention(q, *others, kernel="plain").sum())(q)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"k": torch.zeros(2, 2, 4, 3)},
            r"Invalid k: shape \(2, 2, 4, 3\); for q of shape \(2, 2, 3, 2\) it must be \(2, 2, 4, 2\)",
        ),
        ({"k": torch.zeros(2, 2, 0, 2)}, "Invalid k: shape"),
        ({"v": torch.zeros(1, 2, 4, 2)}, r"Invalid v: shape \(1, 2, 4, 2\)"),
        ({"coefficients": torch.zeros(3, 6)}, r"Invalid coefficients: shape \(3, 6\)"),
        ({"coefficients": torch.zeros(2, 5)}, r"Invalid coefficients: shape \(2, 5\).*\(2, 6\)"),
        ({"coefficients": torch.zeros(2, 0)}, r"Invalid coefficients: shape \(2, 0\)"),
        ({"scale": torch.zeros(1)}, r"Invalid scale: shape \(1,\)"),
        ({"kernel": "flash"}, "Invalid kernel: 'flash'; it must be one of fused, compiled, plain"),
        ({"dropout": 1.0}, "Invalid dropout: 1.0"),
    ],
)
def test_invalid_operands(changed, message):
    names = ("q", "k", "v", "coefficients", "scale")
    with pytest.raises(ValueError, match=message):
        series_attention(**dict(zip(names, operands(), strict=True)) | changed)


def test_any_operand_in_double_makes_the_computation_double():
    inputs = operands()
    expected = series_attention(*inputs)
    q, k, v = (x.detach().float() for x in inputs[:3])
    exact = [q.double(), k.double(), v.double(), *inputs[3:]]
    mixed = series_attention(q, k.double(), v, *inputs[3:])
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, series_attention(*exact).float(), atol=0, rtol=0)
    torch.testing.assert_close(mixed, expected.float(), atol=1e-5, rtol=0)


def check_compiled(kinds):
    """Kinds of calls of the compiled kernel: rows, tokens, whether it has a gradient, and options."""

    def outputs(inputs, options):
        for kernel in ("compiled", "fused"):
            torch.manual_seed(0)
            yield series_attention(*inputs, **options, kernel=kernel)

    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for batch, tokens, gradient, mask, dropout in kinds:
            inputs = operands(batch, 2, tokens, tokens, 4, 4, dtype=torch.float32)
            options = {"allowed": torch.ones(tokens, tokens, dtype=torch.bool).tril()} if mask else {}
            options |= {"dropout": dropout} if dropout else {}
            with torch.set_grad_enabled(gradient):
                outs = list(outputs(inputs, options))
            torch.testing.assert_close(*outs)
            if gradient:
                torch.testing.assert_close(*(gradients(out, inputs) for out in outs), atol=1e-5, rtol=1e-5)


#: No two sizes of the first shape are equal, so that what is compiled for it serves the second.
SHAPES = ((3, 9), (5, 7))


@pytest.mark.slow
def test_the_compiled_kernel_compiles_all_kinds_of_calls():
    """Nine kinds, one more than torch compiles by default. Inductor would take three minutes for them."""
    kinds = [(*shape, True, *both) for shape in SHAPES for both in ((False, 0), (True, 0.2))]
    kinds += [(*shape, False, *one) for shape in (*SHAPES, (1, 6)) for one in ((False, 0), (True, 0), (False, 0.5))]
    with torch.compiler.set_stance("default", force_backend="eager"):
        check_compiled([*kinds, (1, 6, False, True, 0.2)])


@pytest.mark.slow
def test_the_compiled_kernel_gives_the_same_numbers():
    """Inductor takes half a minute for a kind with a gradient."""
    kinds = [(*shape, True, mask, dropout) for shape in SHAPES for mask, dropout in ((False, 0), (True, 0.2))]
    check_compiled([*kinds, (1, 6, False, True, 0)])


@pytest.mark.slow
def test_a_missing_compiler_is_named(tmp_path):
    code = (
        "import torch; from lightning_qsgd.models import series_attention as f; x = torch.ones(1, 1, 2, 2);"
        "f(x, x, x, torch.ones(1, 2), torch.ones(1), kernel='compiled')"
    )
    environment = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "Invalid kernel: 'compiled'; torch.compile found no C++ compiler" in done.stderr
