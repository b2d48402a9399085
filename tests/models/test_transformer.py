import pytest
import torch
from torch.nn import functional as F

from lightning_qsgd.models import Attention, TransformerClassifier


def test_the_papers_sizes():
    model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32)
    assert len(list(model.parameters())) == 28
    assert sum(p.numel() for p in model.parameters()) == 73_348
    assert model(torch.zeros(2, 32, dtype=torch.int64)).shape == (2, 4)


def test_attention_equals_its_formula():
    attention = Attention(embed_dim=8, num_heads=2)
    x = torch.randn(3, 5, 8)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    q, k, v = (t.view(3, 5, 2, 4) for t in attention.project_in(x).split(8, -1))
    score = torch.einsum("bihd,bjhd->bhij", q, k) / 2
    score = score.masked_fill(padding[:, None, None], float("-inf"))
    expected = attention.project_out(torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v).flatten(2))
    torch.testing.assert_close(attention(x, padding), expected)


def test_padding_changes_nothing():
    model = TransformerClassifier(vocab_size=10, num_classes=3).eval()
    tokens = torch.randint(1, 10, (4, 6))
    padded = F.pad(tokens, (0, 5), value=0)
    mask = torch.zeros(4, 11, dtype=torch.bool)
    mask[:, 6:] = True
    torch.testing.assert_close(model(padded, mask), model(tokens))
    torch.testing.assert_close(model(tokens, torch.zeros(4, 6, dtype=torch.bool)), model(tokens))


def test_a_text_of_padding_alone_gives_finite_scores_and_gradients():
    model = TransformerClassifier(vocab_size=10, num_classes=3)
    mask = torch.tensor([[True, True], [False, True]])
    scores = model(torch.zeros(2, 2, dtype=torch.int64), mask)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_order_matters():
    model = TransformerClassifier(vocab_size=10, num_classes=3).eval()
    assert not torch.allclose(model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[3, 2, 1]])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, "Invalid num_heads: 4; embed_dim 10"),
        ({"num_classes": 0}, "Invalid num_classes: 0"),
        ({"num_layers": 0}, "Invalid num_layers: 0"),
        ({"dropout": 1.0}, "Invalid dropout: 1.0"),
    ],
)
def test_invalid_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerClassifier(**{"vocab_size": 10, "num_classes": 3} | arguments)


def test_no_dropout_may_be_written_0():
    TransformerClassifier(10, 3, dropout=0)


def test_too_long_sequences_are_refused():
    model = TransformerClassifier(vocab_size=10, num_classes=3, max_length=4)
    with pytest.raises(ValueError, match="5 per sequence; max_length is 4"):
        model(torch.zeros(1, 5, dtype=torch.int64))
