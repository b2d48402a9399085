"""Distributed state dicts of one process and of FSDP2 on two, loaded by the other; run by test_crossings.py."""

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, SuperpositionalGradientDescent

#: Options of a state dict. It travels in a distributed checkpoint, a full one in a file of torch.save's.
#: (torch 2.13 loads no state dict that is full and flattened, AdamW's neither.)
WAYS = {
    "distributed": {},
    "distributed, offloaded": {"cpu_offload": True},
    "flattened": {"flatten_optimizer_state_dict": True},
    "flattened, offloaded": {"flatten_optimizer_state_dict": True, "cpu_offload": True},
    "full": {"full_state_dict": True},
    "full, offloaded": {"full_state_dict": True, "cpu_offload": True},
}
OPTIMIZERS = ["AdamW", "ours"]


def make(name, mesh=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters()), "lr": 0.02}]
    if name == "AdamW":
        return model, torch.optim.AdamW(groups, lr=0.05)
    frozen = ControlPerturbation("frozen", CircuitPerturbation(num_qubits=2))
    return model, SuperpositionalGradientDescent(groups, lr=0.05, scope="all", scale="adam", perturbation=frozen)


def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def whole(model):
    return {name: value.detach() for name, value in full(get_model_state_dict(model)).items()}


def full(state):
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


def save(folder, name, mesh=None):
    """Two steps, and then each kind of state dict."""
    model, optimizer = make(name, mesh)
    train(model, optimizer, range(2))
    first = mesh is None or torch.distributed.get_rank() == 0
    weights = whole(model)
    if first:
        torch.save(weights, folder / f"{name}.weights")
    for way, options in WAYS.items():
        file = folder / f"{name} {way}"
        state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(**options))
        if "full_state_dict" not in options:
            dcp.save({"optimizer": state}, checkpoint_id=file)
        elif first:
            torch.save(state, file)


def load(folder, name, mesh=None):
    """The weights after two more steps with each of them; or the error."""
    found = {}
    for way, options in WAYS.items():
        model, optimizer = make(name, mesh)
        weights = torch.load(folder / f"{name}.weights", weights_only=True)
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
        file, chosen = folder / f"{name} {way}", StateDictOptions(**options)
        try:
            if "full_state_dict" not in options:
                state = get_optimizer_state_dict(model, optimizer, options=chosen)
                dcp.load({"optimizer": state}, checkpoint_id=file)
            else:
                state = torch.load(file, weights_only=True)
            set_optimizer_state_dict(model, optimizer, state, options=chosen)
            train(model, optimizer, range(2, 4))
            found[way] = whole(model)
        except Exception as error:
            found[way] = f"{type(error).__name__}: {error}"
    return found


def two_ranks(rank, rendezvous, single, sharded):
    """Load what one process saved, and save for it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found = {name: load(single, name, mesh) for name in OPTIMIZERS}
    for name in OPTIMIZERS:
        save(sharded, name, mesh)
    if rank == 0:
        torch.save(found, sharded / "found")
    torch.distributed.destroy_process_group()
