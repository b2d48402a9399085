"""The states of all generators of random numbers in this process."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

State = dict[str, Any]
OwnGenerator = torch.Generator | np.random.Generator


def get_states(device: torch.device, own: Iterable[OwnGenerator] = ()) -> State:
    """States of Python's, NumPy's and torch's global generators, and of some others, as they give them.

    Args:
        device: of the model; on CUDA its generator counts too.
        own: generators beside the global ones, always in the same order.
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "own": [_get(generator) for generator in own],
    }


def pack(states: State) -> State:
    """What :func:`get_states` returned as tensors and plain values, which load with ``weights_only=True``."""
    version, words, gauss = states["python"]
    _, keys, *rest = states["numpy"]
    numpy = (torch.from_numpy(keys.astype(np.int64)), *rest)
    return states | {"python": (version, torch.tensor(words), gauss), "numpy": numpy}


def unpack(packed: State) -> State:
    """What :func:`pack` was given."""
    version, words, gauss = packed["python"]
    keys, *rest = packed["numpy"]
    numpy = ("MT19937", keys.numpy().astype(np.uint32), *rest)
    return packed | {"python": (version, tuple(words.tolist()), gauss), "numpy": numpy}


def set_states(states: State, device: torch.device, own: Iterable[OwnGenerator] = ()) -> None:
    """Continue from what :func:`get_states` returned; a device or generators that were not there stay as they are."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and isinstance(states["cuda"], Tensor):
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    for generator, state in zip(own, states["own"], strict=False):
        _set(generator, state)


def own_generators(loader: CombinedLoader) -> list[OwnGenerator]:
    """The generators that loaders, samplers and datasets have as attributes, each once, always in the same order."""
    found: dict[int, OwnGenerator] = {}
    seen: set[int] = set()

    def walk(part: Any) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        for value in vars(part).values():
            if isinstance(value, OwnGenerator):
                found[id(value)] = value
            elif isinstance(value, DataLoader | Sampler | Dataset):
                walk(value)

    for part in loader.flattened:
        if isinstance(part, DataLoader):
            walk(part)
    return list(found.values())


def _get(generator: OwnGenerator) -> Any:
    return generator.get_state() if isinstance(generator, torch.Generator) else generator.bit_generator.state


def _set(generator: OwnGenerator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    else:
        generator.bit_generator.state = state
