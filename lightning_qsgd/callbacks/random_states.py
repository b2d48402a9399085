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
OwnGenerator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_DTYPE = "numpy dtype"


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


def pack(states: Any) -> Any:
    """What :func:`get_states` returned without arrays of NumPy: it loads with ``weights_only=True``."""
    if isinstance(states, np.ndarray):
        return {_DTYPE: str(states.dtype), "bytes": torch.from_numpy(np.frombuffer(states.tobytes(), np.uint8).copy())}
    if isinstance(states, dict):
        return {name: pack(value) for name, value in states.items()}
    return type(states)(map(pack, states)) if isinstance(states, list | tuple) else states


def unpack(packed: Any) -> Any:
    """What :func:`pack` was given."""
    if isinstance(packed, dict):
        if _DTYPE in packed:
            return np.frombuffer(packed["bytes"].numpy().tobytes(), packed[_DTYPE])
        return {name: unpack(value) for name, value in packed.items()}
    return type(packed)(map(unpack, packed)) if isinstance(packed, list | tuple) else packed


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
    """The generators that loaders, samplers and datasets have as attributes, each once, always in the same order.

    Also those in their lists, tuples and dicts of at most 100 elements; not those of other objects, such as transforms.
    """
    found: dict[int, OwnGenerator] = {}
    seen: set[int] = set()

    def walk(part: Any) -> None:
        if isinstance(part, OwnGenerator):
            found[id(part)] = part
        elif isinstance(part, DataLoader | Sampler | Dataset) and id(part) not in seen:
            seen.add(id(part))
            for value in list(vars(part).values()):
                walk(value)
        elif isinstance(part, list | tuple | dict) and len(part) <= 100:
            for value in part.values() if isinstance(part, dict) else part:
                walk(value)

    for part in loader.flattened:
        walk(part)
    return list(found.values())


def _get(generator: OwnGenerator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _set(generator: OwnGenerator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
