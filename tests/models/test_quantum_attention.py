import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lightning_qsgd.models import Attention, QuantumAttention, TransformerClassifier
from lightning_qsgd.models.quantum_attention import attention_statistics
from lightning_qsgd.models.transformer import TransformerBlock
from lightning_qsgd.quantum import AerSampler, Ansatz, CircuitSimulator, ExactSampler, QuantumNetwork

SMALL = {"num_qubits": 3, "depth": 2}
PER_HEAD, SHIFTS = 13, 2 * 9  # circuits, and for the gradient of each: 3 qubits at depth 2 have 6 Ry and 3 Rz
TOKENS = torch.arange(12).view(2, 6) % 10


def twins(**options):
    """A classical and a quantum layer with the same projections."""
    layers = []
    for make in (Attention, partial(QuantumAttention, **SMALL | options)):
        torch.manual_seed(0)
        layers.append(make(8, 2))
    return layers


def inputs(batch=2, tokens=4, dtype=torch.float32):
    return torch.randn(batch, tokens, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def explicit(layer, x, phi=None, allowed=None):
    """Eq. 3, with Phi as a function of the head and its scores (B, T, T)."""
    q, k, v = layer.project_in(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / 2
    logits = scores if phi is None else scores + torch.stack([phi(h, scores[:, h]) for h in range(2)], 1)
    logits = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    return layer.project_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def one_circuit_per_score(layer, run):
    """Phi of Eq. 4 as it is defined; ``run`` maps scores (N, 1) and weights (N, W) to outcome probabilities."""

    def phi(head, scores):
        angles = layer.scale[head] * scores.reshape(-1, 1)
        weights = layer.series.weights[head].expand(len(angles), -1)
        return layer.gain[head] * run(angles, weights)[:, 1 : 1 + 3].sum(1).view_as(scores)

    return phi


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_equal_to_one_circuit_per_score(dtype, atol):
    layer = twins(gain=2.0, scale=0.7)[1].to(dtype)
    x = inputs(dtype=dtype)
    expected = explicit(layer, x, one_circuit_per_score(layer, CircuitSimulator(layer.series.ansatz)))
    out = layer(x)
    torch.testing.assert_close(out, expected, atol=atol, rtol=0)
    names = [name for name, _ in layer.named_parameters()]
    of_both = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (out, expected)]
    for name, ours, theirs in zip(names, *of_both, strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=10 * atol, rtol=1e-5, msg=lambda text, name=name: f"{name} {text}"
        )


def test_equal_to_one_samplerqnn_circuit_per_score():
    layer = twins(sampler=ExactSampler())[1].double()
    ansatz = layer.series.ansatz
    network = QuantumNetwork(Ansatz(ansatz.circuit, [*ansatz.inputs, *ansatz.weights]))

    def run(angles, weights):
        return torch.from_numpy(network.probabilities(torch.cat([angles, weights], 1).detach().numpy()))

    x = inputs(dtype=torch.float64)
    torch.testing.assert_close(layer(x), explicit(layer, x, one_circuit_per_score(layer, run)), atol=1e-10, rtol=0)
    assert network.circuits == 2 * 2 * 4 * 4
    assert layer.series.circuits == 2 * PER_HEAD * (1 + SHIFTS)


def test_gradcheck_of_the_whole_layer():
    layer, x = twins()[1].double(), inputs(1, 3, torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def of(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of, (x, *layer.parameters()))


def test_a_fixed_gain_of_0_is_classical_attention_bit_for_bit():
    models = []
    for attention in ("classical", partial(QuantumAttention, gain=0.0, learn_gain=False)):
        torch.manual_seed(0)
        model = TransformerClassifier(10, 3, embed_dim=8, num_heads=2, attention=attention)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for step in range(3):
            torch.manual_seed(step)  # dropout
            optimizer.zero_grad()
            model(TOKENS).square().sum().backward()
            optimizer.step()
        models.append(model)
    classical, quantum = (model.state_dict() for model in models)
    assert all(torch.equal(value, quantum[name]) for name, value in classical.items())
    assert not any(p.requires_grad for p in models[1].blocks[0].attention.series.parameters())


def test_a_learned_gain_of_0_starts_classical_and_leaves_it():
    classical, layer = twins(gain=0.0)
    x = inputs()
    torch.testing.assert_close(layer(x), classical(x), atol=1e-6, rtol=0)
    q, k, v = layer.project_in(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    attended = (((q * 0.5) @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert torch.equal(layer(x), layer.project_out(attended))  # the explicit formula, bit for bit
    layer(x).square().sum().backward()
    assert (layer.gain.grad != 0).all()


def test_arms_share_initial_weights_whatever_phi_is():
    states = []
    for attention in (
        "classical",
        "quantum",
        partial(QuantumAttention, phi="series"),
        partial(QuantumAttention, phi="random", entanglement="none", angles="frozen"),
    ):
        torch.manual_seed(0)
        states.append(TransformerClassifier(10, 3, attention=attention).state_dict())
    assert all(torch.equal(value, state[name]) for state in states[1:] for name, value in states[0].items())


@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_masks_padding_causal_and_cross_attention(kernel):
    classical, layer = twins(kernel=kernel)
    phi = one_circuit_per_score(layer, CircuitSimulator(layer.series.ansatz))
    x = inputs()
    padding = torch.tensor([[False, False, True, True], [False, False, False, True]])
    mask = torch.tensor([[True, False, True, True]] * 3 + [[True] * 4])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    visible = ~padding[:, None, None]
    for options, allowed in (
        ({"padding_mask": padding}, visible),
        ({"causal": True}, causal),
        ({"allowed": mask}, mask),
        ({"padding_mask": padding, "causal": True, "allowed": mask}, visible & causal & mask),
    ):
        torch.testing.assert_close(layer(x, **options), explicit(layer, x, phi, allowed), atol=1e-6, rtol=0)
        torch.testing.assert_close(classical(x, **options), explicit(classical, x, None, allowed), atol=1e-6, rtol=0)
    context = inputs(2, 7)
    for attention in (classical, layer):
        torch.testing.assert_close(attention(x, context=x), attention(x))
        every = attention(x, context=context)
        seen = attention(x, context=context, causal=True)
        for t in range(4):  # query t sees keys 0 to t, also of a longer context
            torch.testing.assert_close(seen[:, t], attention(x[:, t : t + 1], context=context[:, : t + 1])[:, 0])
        assert not torch.allclose(every, seen)
    wide = torch.cat([x, torch.full((2, 3, 8), 9.0)], 1)
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[:, 4:] = True
    torch.testing.assert_close(layer(x, hidden, context=wide), layer(x))  # what is padded plays no part


def test_a_query_that_sees_nothing_gets_nothing():
    for layer in twins():
        x = inputs().requires_grad_()
        out = layer(x, torch.ones(2, 4, dtype=torch.bool))
        torch.testing.assert_close(out, layer.project_out.bias.expand_as(out))
        out.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_some_heads_may_stay_classical():
    layer = twins(heads=[1])[1]
    phi = one_circuit_per_score(layer, CircuitSimulator(layer.series.ansatz))
    x = inputs()
    allowed = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.8
    allowed |= torch.eye(4, dtype=torch.bool)
    for mask in (None, allowed):
        expected = explicit(layer, x, lambda h, s: phi(0, s) if h == 1 else 0 * s, mask)
        torch.testing.assert_close(layer(x, allowed=mask), expected, atol=1e-6, rtol=0)
    assert layer.gain.shape == (1,)
    assert layer.series.weights.shape == (1, 9)
    assert QuantumAttention(8, 2, shared=True).series.weights.shape == (1, 12)
    with pytest.raises(ValueError, match=r"Invalid heads: \[2\]; name at least one of 0 to 1"):
        QuantumAttention(8, 2, heads=[2])


@pytest.mark.parametrize("readout", ["expectation", "amplitude"])
@pytest.mark.parametrize("depth", [1, 2])  # 3 qubits at depth 1: amplitudes have half-integer frequencies
def test_other_readouts(readout, depth):
    layer = twins(readout=readout, depth=depth, scale=0.6)[1].double()
    simulate = CircuitSimulator(layer.series.ansatz, amplitudes=readout == "amplitude")
    bits = (torch.arange(8)[:, None] >> torch.arange(3)) & 1

    def phi(head, scores):
        out = simulate(layer.scale[head] * scores.reshape(-1, 1), layer.series.weights[head].expand(scores.numel(), -1))
        value = out[:, 1:4].real.sum(1) if readout == "amplitude" else out @ (1 - 2 * bits).sum(1).double()
        return layer.gain[head] * value.view_as(scores)

    x = inputs(dtype=torch.float64)
    torch.testing.assert_close(layer(x), explicit(layer, x, phi), atol=1e-10, rtol=0)
    layer(x).square().sum().backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


def test_heads_keep_their_places():
    layer = QuantumAttention(12, 3, heads=[2, 0], **SMALL)
    whole = QuantumAttention(12, 3, **SMALL)
    whole.load_state_dict({k: v for k, v in layer.state_dict().items() if "project" in k}, strict=False)
    with torch.no_grad():
        whole.series.weights[[0, 2]] = layer.series.weights
        whole.gain[1] = 0
    x = torch.randn(2, 4, 12)
    torch.testing.assert_close(layer(x), whole(x))


def test_dropout_while_training_only():
    for classical, layer in (twins(gain=0.0), twins(gain=0.0, kernel="plain")):
        classical.dropout = layer.dropout = 0.5
        torch.manual_seed(0)
        expected = classical(inputs())
        torch.manual_seed(0)
        torch.testing.assert_close(layer(inputs()), expected)
        assert not torch.allclose(layer(inputs()), expected)
        torch.testing.assert_close(layer.eval()(inputs()), classical.eval()(inputs()))


def test_every_option_reaches_the_circuits():
    layer = QuantumAttention(
        8, 2, num_qubits=3, depth=1, entanglement="none", shared=True, sampler=AerSampler(), refresh_every=4
    )
    series = layer.series
    assert (series.ansatz.num_qubits, series.nodes, len(series.weights), series.refresh_every) == (3, 7, 1, 4)
    assert "cx" not in series.ansatz.circuit.count_ops()
    assert isinstance(series.engine, QuantumNetwork)


def test_states_of_another_layer_are_refused():
    for saved, loading, message in (
        ({"heads": [0]}, {"heads": [1]}, r"heads \[0\] are not \[1\]"),
        ({"gain": 3.0}, {"gain": 0.0, "learn_gain": False}, "the gain was trained; here it is fixed at 0"),
        ({"readout": "expectation"}, {}, "another circuit, readout or phi"),
    ):
        with pytest.raises(RuntimeError, match=message):
            twins(**loading)[1].load_state_dict(twins(**saved)[1].state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "Invalid dropout: 1.0"),
        ({"gain": float("nan")}, "Invalid gain: nan"),
        ({"scale": 0.0, "learn_scale": False}, "Invalid scale: 0.0"),
        ({"kernel": "flash"}, "Invalid kernel: 'flash'"),
        ({"gain": 0.0, "learn_gain": False, "sampler": AerSampler()}, "with a gain fixed at 0 no circuit runs"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        QuantumAttention(8, 2, **options)


def test_phi_is_what_shifts_the_scores():
    layer = twins(gain=1.5, scale=0.5)[1]
    scores = torch.linspace(-3, 3, 5)
    exact = one_circuit_per_score(layer, CircuitSimulator(layer.series.ansatz))
    expected = torch.stack([exact(h, scores) for h in range(2)]).detach()
    difference = layer.phi(scores) - expected  # the constant, which cancels
    torch.testing.assert_close(difference, difference[:, :1].expand(2, 5), atol=1e-6, rtol=0)


def test_controls():
    random = twins(phi="random")[1]
    assert not random.series.coefficients.requires_grad
    frozen = twins(angles="frozen")[1]
    assert not frozen.series.weights.requires_grad
    free, circuit = twins(phi="series")[1], twins()[1]
    torch.testing.assert_close(free(inputs()), circuit(inputs()))  # they start together
    free(inputs()).square().sum().backward()
    assert (free.series.coefficients.grad != 0).all()
    fixed = twins(learn_gain=False, learn_scale=False)[1]
    assert not fixed.gain.requires_grad
    assert not fixed.scale.requires_grad
    with pytest.raises(ValueError, match="Invalid angles: 'fixed'"):
        QuantumAttention(8, 2, angles="fixed")


def test_bfloat16_and_autocast():
    layer = twins()[1]
    x = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), atol=0.02, rtol=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    whole = copy.deepcopy(layer).bfloat16()
    assert whole(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(whole(x.bfloat16()).float(), layer(x), atol=0.02, rtol=0.02)


def test_a_sampler_takes_over_a_trained_layer():
    trained = twins()[1]
    run = twins(sampler=AerSampler(shots=100_000))[1].eval()
    run.load_state_dict(trained.state_dict())
    with torch.no_grad():
        first = run(inputs())
        assert torch.equal(run(inputs()), first)  # measured once
    assert run.series.circuits == 2 * PER_HEAD
    torch.testing.assert_close(first, trained(inputs()), atol=2e-3, rtol=0)
    assert not torch.equal(first, trained(inputs()))


def test_statistics_of_a_watched_pass():
    layer = twins(gain=3.0)[1]
    layer.watch = True
    x = inputs()
    layer(x)
    assert not layer.watch
    statistics = layer.statistics
    assert statistics is not None
    q, k, _ = layer.project_in(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2).detach()
    phi = torch.stack([layer.phi(scores[:, h].flatten())[h].view_as(scores[:, h]) for h in range(2)], 1)
    before, after = scores.softmax(-1), (scores + phi).softmax(-1)
    expected = {
        "score_spread": scores.var(-1, correction=0).mean((0, 2)).sqrt(),
        "phi_spread": phi.var(-1, correction=0).mean((0, 2)).sqrt(),
        "entropy": -(after * after.log()).sum(-1).mean((0, 2)),
        "entropy_without": -(before * before.log()).sum(-1).mean((0, 2)),
        "moved": (after - before).abs().sum(-1).mean((0, 2)) / 2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(statistics[name], value, atol=1e-6, rtol=1e-4)
    low, high = statistics["score_range"].tolist()
    assert scores.min().item() <= low < high <= scores.max().item()
    hidden = torch.ones(2, 1, 1, 4, dtype=torch.bool)
    hidden[..., 3] = False
    masked = attention_statistics(q, k, torch.zeros(2, 2), torch.ones(2), hidden)
    torch.testing.assert_close(masked["score_spread"], scores[..., :3].var(-1, correction=0).mean((0, 2)).sqrt())
    torch.testing.assert_close(masked["entropy"], masked["entropy_without"])
    assert (masked["moved"] == 0).all()
    nothing = attention_statistics(q, k, torch.zeros(2, 2), torch.ones(2), torch.zeros(4, 4, dtype=torch.bool))
    assert all((value == 0).all() for value in nothing.values())
    long_q, long_k = torch.ones(16, 2, 128, 4), torch.ones(16, 2, 128, 4)
    long_q[:, 1] *= 10  # the last head's scores count too
    wide = attention_statistics(long_q, long_k, torch.zeros(2, 2), torch.ones(2))
    assert wide["score_range"].tolist() == [2.0, 20.0]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_block_has_the_same_values_and_gradients(backend):
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16, 0.0, partial(QuantumAttention, **SMALL))
    x = inputs()
    of_both = []
    for function in (block, torch.compile(block, backend=backend, fullgraph=True)):
        out = function(x)
        of_both.append((out, *torch.autograd.grad(out.square().sum(), list(block.parameters()))))
    torch.testing.assert_close(*of_both, atol=1e-5, rtol=1e-4)


def test_layers_of_a_transformer():
    model = TransformerClassifier(10, 3, num_layers=3, attention="quantum", quantum_layers=[1])
    assert [type(block.attention) for block in model.blocks] == [Attention, QuantumAttention, Attention]
    assert model(TOKENS).shape == (2, 3)
    padding = torch.tensor([[True] * 6, [False] * 6])
    assert model(TOKENS, padding).isfinite().all()
    default = TransformerClassifier(10, 3, attention="quantum")
    assert all(isinstance(block.attention, QuantumAttention) for block in default.blocks)
    with pytest.raises(ValueError, match="Invalid attention: 'flash'"):
        TransformerClassifier(10, 3, attention="flash")
    with pytest.raises(ValueError, match=r"Invalid quantum_layers: \[2\]; there are layers 0 to 1"):
        TransformerClassifier(10, 3, attention="quantum", quantum_layers=[0, 2])
    for attention, layers in (("classical", [0]), ("quantum", [])):
        with pytest.raises(ValueError, match="Invalid quantum_layers"):
            TransformerClassifier(10, 3, attention=attention, quantum_layers=layers)


def test_it_learns():
    torch.manual_seed(0)
    model = TransformerClassifier(10, 2, embed_dim=8, num_heads=2, dropout=0.0, attention="quantum")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tokens = torch.randint(0, 10, (64, 6))
    labels = (tokens[:, 0] > tokens[:, -1]).long()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    assert all((p != before[name]).any() for name, p in model.named_parameters() if "position" not in name)
