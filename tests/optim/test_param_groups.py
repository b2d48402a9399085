import pytest
import torch
from torch import nn

from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.optim import SuperpositionalGradientDescent, perturbed_groups


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.norm = nn.RMSNorm(4)
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight


def names(module, params):
    name_of = {p: name for name, p in module.named_parameters()}
    return {name_of[p] for p in params}


@pytest.mark.parametrize(
    ("arguments", "perturbed"),
    [
        ({}, {"linear.weight"}),
        ({"leave_out": ["norms", "biases"]}, {"embedding.weight", "linear.weight"}),
        ({"leave_out": ["embeddings"]}, {"norm.weight", "linear.weight", "linear.bias", "head.bias"}),
        ({"leave_out": [], "pattern": "^head|norm"}, {"norm.weight", "head.bias"}),
    ],
)
def test_what_is_left_out(arguments, perturbed):
    module = Tied()
    first, *rest = perturbed_groups(module, **arguments)
    assert names(module, first["params"]) == perturbed
    assert [group["quantum_weight"] for group in rest] == [0.0]
    dealt = [p for group in (first, *rest) for p in group["params"]]
    assert len(dealt) == len(set(dealt)) == len(list(module.parameters()))


def test_one_group_where_nothing_is_left_out():
    assert [list(group) for group in perturbed_groups(nn.Linear(2, 2), leave_out=[])] == [["params"]]


def test_frozen_parameters_are_in_no_group():
    module = Tied()
    module.linear.bias.requires_grad_(False)
    assert sum(len(group["params"]) for group in perturbed_groups(module)) == len(list(module.parameters())) - 1


def test_only_the_perturbed_group_differs_from_adamw():
    def train(make_optimizer):
        torch.manual_seed(0)
        model = TransformerClassifier(vocab_size=8, num_classes=2, max_length=4, embed_dim=8, num_heads=2, dropout=0.0)
        optimizer = make_optimizer(model)
        model(torch.arange(8).view(2, 4)).square().sum().backward()
        optimizer.step()
        return dict(model.named_parameters())

    ours = train(lambda model: SuperpositionalGradientDescent(perturbed_groups(model), quantum_weight=1.0, lr=0.1))
    adamw = train(lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0))
    moved = {name for name, p in ours.items() if not torch.equal(p, adamw[name])}
    matrices = {name for name, p in ours.items() if p.ndim == 2 and "embedding" not in name}
    assert moved
    assert moved <= matrices


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leave_out": ["bias"]}, r"Invalid leave_out: \['bias'\]; it must be some of norms, biases, embeddings"),
        ({"pattern": "("}, r"Invalid pattern: '\('; it is no regular expression"),
        ({"pattern": "attention"}, r"No parameter is left to perturb: .*the names are embedding.weight"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        perturbed_groups(Tied(), **arguments)
