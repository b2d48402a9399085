"""Parameters that FSDP2 spreads over ranks: which coordinates are here, and those of other ranks that share a block.

A DTensor is cut along its first dimension, so that each rank holds one run of its coordinates in C order. A block of
the perturbation may straddle two runs, or more where they are short.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter


class Run(NamedTuple):
    """The coordinates [start, stop) of a parameter that are on this rank, and the ranks that hold the others."""

    start: int
    stop: int
    group: Any = None  # a ProcessGroup; None: nothing is elsewhere


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is a DTensor; where nobody has imported them, there are none."""
    if type(tensor) in (Tensor, Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that is on this rank, sharing its memory; other tensors as they are."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def refuse_unknown_sharding(param: Tensor) -> None:
    """Refuse parameters whose coordinates cannot be told.

    Raises:
        ValueError: for FSDP1's flat parameters, and for DTensors that are cut along another dimension than the first.
    """
    if getattr(param, "_fsdp_flattened", False) or type(param).__name__ == "FlatParameter":
        raise ValueError(
            "Invalid params: FSDP1 (FullyShardedDataParallel) flattens tensors, and the coordinates of each are lost; "
            "use FSDP2 (torch.distributed.fsdp.fully_shard; in Lightning: ModelParallelStrategy) or DDP"
        )
    if is_dtensor(param):
        placements = param.placements  # type: ignore[attr-defined]
        cuts = [p for p in placements if not p.is_replicate()]
        if len(cuts) > 1 or any(type(p).__name__ != "Shard" or p.dim != 0 for p in cuts):
            raise ValueError(
                f"Invalid params: a DTensor with placements {placements}; supported are Replicate and one Shard(0), as "
                "fully_shard makes them. Give that parameter to another optimizer"
            )


def run_of(param: Tensor) -> Run:
    """Which coordinates of a parameter are on this rank."""
    if is_dtensor(param):
        for dimension, placement in enumerate(param.placements):  # type: ignore[attr-defined]
            if placement.is_shard():
                mesh = param.device_mesh  # type: ignore[attr-defined]
                runs = _runs(param, mesh.size(dimension))
                start, stop = runs[mesh.get_local_rank(dimension)]
                return Run(start, stop, mesh.get_group(dimension))
    return Run(0, param.numel())


def _runs(param: Tensor, ranks: int) -> list[tuple[int, int]]:  # as torch.chunk cuts the first dimension
    rows = param.shape[0]
    inner, share = param.numel() // max(rows, 1), -(-rows // ranks)
    return [(min(r * share, rows) * inner, min((r + 1) * share, rows) * inner) for r in range(ranks)]


def elsewhere(
    params: Sequence[Tensor], runs: Sequence[Run], needs: Sequence[tuple[int, int]], reach: int
) -> list[tuple[Tensor, Tensor]]:
    """Needed values that other ranks hold, in one exchange. All ranks of a group call it together.

    Args:
        params: sharded parameters.
        runs: of each, from :func:`run_of`.
        needs: of each, the coordinates [first, last) that are needed: at most ``reach`` from the start or the end of
            any rank's run.
        reach: how many values of each end of its runs a rank sends.

    Returns:
        For each parameter the needed values before and after those that are here; float32, or float64 where any
        parameter is.
    """
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32
    around: list[tuple[Tensor, Tensor]] = [(torch.empty(0, device="cpu"), torch.empty(0, device="cpu"))] * len(params)
    for group in dict.fromkeys(run.group for run in runs):  # on all ranks in the same order
        mine = [i for i, run in enumerate(runs) if run.group == group]
        ends = torch.stack([_ends(local(params[i]).flatten(), reach).to(dtype) for i in mine])  # (T, 2, reach)
        ranks, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
        everywhere = [torch.empty_like(ends) for _ in range(ranks)]
        torch.distributed.all_gather(everywhere, ends, group=group)
        for k, i in enumerate(mine):
            first, last = needs[i]
            sides = ([ends.new_empty(0)], [ends.new_empty(0)])
            for r, (start, stop) in enumerate(_runs(params[i], ranks)):
                a, b = max(first, start), min(last, stop)
                if a < b and r != rank:
                    head, tail = everywhere[r][k]
                    values = head[a - start : b - start] if b - start <= reach else tail[reach - stop + a :][: b - a]
                    sides[r > rank].append(values)
            around[i] = (torch.cat(sides[0]), torch.cat(sides[1]))
    return around


def _ends(values: Tensor, reach: int) -> Tensor:  # (2, reach): the first, and the last, the latter up to the right
    ends = values.new_zeros(2, reach)
    n = min(len(values), reach)
    ends[0, :n], ends[1, reach - n :] = values[:n], values[len(values) - n :]
    return ends
