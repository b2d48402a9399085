"""What tests/optim/test_sharding.py runs in processes of its own, one per rank."""

import copy

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from tests.optim.common import COMMON_PERTURBATIONS, fitted

#: Blocks of 4 that straddle two ranks, and all three: 5 x 3 and 3 x 1.
SHAPES = [(5, 3), (7,), (3, 1), (2, 2, 3), (1,), (9, 4)]


PERTURBATIONS = COMMON_PERTURBATIONS | {
    "frozen": lambda: ControlPerturbation("frozen", copy.deepcopy(fitted())),
}
SCOPES = ["first_of_tensor", "first_of_model", "all"]
CASES = [
    *[(scope, name, LEGAL_COMBINATIONS[0]) for scope in SCOPES for name in PERTURBATIONS],
    *[(scope, "circuit", combination) for scope in SCOPES for combination in LEGAL_COMBINATIONS[1:]],
]


def make_parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def run(case, place, record=False):
    """The parameters after 3 steps; ``place`` puts a tensor onto the ranks."""
    scope, name, (target, scale, coupling) = case
    params = [nn.Parameter(place(p)) for p in make_parameters()]
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "quantum_weight": 0.3, "lr": 0.02}]
    optimizer = SuperpositionalGradientDescent(
        groups,
        lr=0.05,
        scope=scope,
        target=target,
        scale=scale,
        coupling=coupling,
        perturbation=PERTURBATIONS[name](),
        amsgrad=True,
    )
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p, shape in zip(params, SHAPES):
            p.grad = place(torch.randn(shape, generator=generator, dtype=torch.float64))
        optimizer.record_statistics = record
        optimizer.step()
    return params, optimizer


def all_cases(rank, world, rendezvous, results):
    """Each case on DTensors; rank 0 saves whole tensors."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for case in CASES:
        params, optimizer = run(case, lambda t: distribute_tensor(t, mesh, [Shard(0)]), record=True)
        whole = [p.full_tensor().detach() for p in params]
        statistics = {k: v for k, v in optimizer.statistics.items() if k != "s"}
        found[case] = whole, statistics, optimizer.perturbation.circuits
    found["one row"] = one_row(lambda t: distribute_tensor(t, mesh, [Shard(0)]))
    found["fully_shard"] = train(mesh)
    found["resumed"] = train(mesh, resume=True)
    try:
        SuperpositionalGradientDescent([nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(1)]))])
    except ValueError as error:
        found["columns"] = str(error)
    try:
        flat = torch.distributed.fsdp.FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"))
        SuperpositionalGradientDescent(flat.parameters())
    except ValueError as error:
        found["fsdp1"] = str(error)
    if rank == 0:
        torch.save(found, results)
    torch.distributed.destroy_process_group()


def one_row(place):
    """A group that most ranks hold nothing of, with statistics, and with a control that needs all blocks at once."""
    results = []
    for scope in SCOPES:
        for name in ("circuit", "shuffled"):
            p = nn.Parameter(place(torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 6)))
            optimizer = SuperpositionalGradientDescent([p], scope=scope, perturbation=PERTURBATIONS[name](), lr=0.1)
            p.grad = place(torch.ones(1, 6, dtype=torch.float64))
            optimizer.record_statistics = True
            optimizer.step()
            whole = p.full_tensor() if hasattr(p, "full_tensor") else p
            results.append((whole.detach(), optimizer.statistics["norm_ratio"]))
    return results


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def make_optimizer(model):
    frozen = ControlPerturbation("frozen", CircuitPerturbation())
    return SuperpositionalGradientDescent(model.parameters(), lr=0.05, scope="all", scale="adam", perturbation=frozen)


def train(mesh=None, resume=False):
    """Whole weights after 4 steps on real gradients; ``resume``: through a new optimizer after 2 of them."""
    model = make_model()
    if mesh is not None:
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = make_optimizer(model)
    for step in range(4):
        if resume and step == 2:
            state = get_optimizer_state_dict(model, optimizer)
            optimizer = make_optimizer(model)
            set_optimizer_state_dict(model, optimizer, state)
            assert optimizer.perturbation.state_dict()["table"] is not None
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.full_tensor().detach() if mesh is not None else p.detach() for p in model.parameters()]
