"""PUBs cut into jobs by rows, and results checked and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from qiskit.primitives import BitArray, DataBin
from qiskit.primitives.containers import PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.sampler_pub import SamplerPub


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` (excluded) of PUB number ``pub``; rows are its parameter sets, in C order."""

    pub: int
    start: int
    stop: int


def split(sizes: Sequence[int], shots: Sequence[int], max_circuits: int, max_executions: int) -> list[list[Piece]]:
    """Jobs, each a list of pieces, that keep the order of rows and are filled up to the limits.

    Args:
        sizes: rows of each PUB, at least 1.
        shots: shots per row of each PUB, 1 to ``max_executions``.
        max_circuits: rows in one job, at least 1.
        max_executions: sum of rows * shots in one job.
    """
    jobs: list[list[Piece]] = []
    circuits = executions = 0  # what the last job has room for
    for pub, (size, count) in enumerate(zip(sizes, shots, strict=True)):
        start = 0
        while start < size:
            room = min(circuits, executions // count)
            if not room:
                jobs.append([])
                circuits, executions = max_circuits, max_executions
                continue
            stop = min(size, start + room)
            jobs[-1].append(Piece(pub, start, stop))
            circuits -= stop - start
            executions -= (stop - start) * count
            start = stop
    return jobs


def cut(pub: SamplerPub, piece: Piece) -> SamplerPub:
    """The PUB of a piece: the PUB itself if that is whole, else its rows in one dimension."""
    if piece.stop - piece.start == pub.parameter_values.size:
        return pub
    parameters = tuple(pub.circuit.parameters)
    rows = pub.parameter_values.as_array(parameters).reshape(-1, len(parameters))[piece.start : piece.stop]
    return SamplerPub(pub.circuit, BindingsArray({parameters: rows}), pub.shots)


def check(job_id: str, pubs: Sequence[SamplerPub], shots: Sequence[int | None], result: Any) -> None:
    """Raise RuntimeError unless the result has the PUBs' rows, registers and bits, and the shots where known."""
    try:
        if len(result) != len(pubs):
            raise RuntimeError(f"{len(result)} results for {len(pubs)} PUBs")
        for pub, count, got in zip(pubs, shots, result, strict=True):
            shape = pub.parameter_values.shape
            for register in pub.circuit.cregs:
                if register.name not in got.data:
                    raise RuntimeError(f"no register {register.name!r} but {list(got.data)}")
                bits = got.data[register.name]
                if tuple(bits.shape) != shape:
                    raise RuntimeError(f"rows of shape {tuple(bits.shape)} instead of {shape}")
                if bits.num_bits != register.size:
                    raise RuntimeError(f"{bits.num_bits} bits in register {register.name!r} of {register.size}")
                if isinstance(bits, BitArray) and count is not None and bits.num_shots != count:
                    raise RuntimeError(f"{bits.num_shots} shots instead of {count}")
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RuntimeError(f"Job {job_id} returned a wrong result: {error}. It is not used") from error


def join(pub: SamplerPub, parts: Sequence[SamplerPubResult]) -> SamplerPubResult:
    """The result of a whole PUB from those of its pieces, in their order; bits or exact probabilities."""
    if len(parts) == 1:
        return parts[0]
    shape = pub.parameter_values.shape
    data: dict[str, Any] = {}
    for name in parts[0].data.keys():  # noqa: SIM118 (iterable, but not typed so)
        bits = [part.data[name] for part in parts]
        if all(isinstance(each, BitArray) for each in bits):
            if len({each.num_shots for each in bits}) > 1:
                raise RuntimeError(f"Jobs of one request returned {sorted({each.num_shots for each in bits})} shots")
            data[name] = BitArray.concatenate(bits).reshape(shape)
        else:  # an array of distributions, of which numpy knows nothing
            rows = np.empty(pub.parameter_values.size, dtype=object)
            rows[:] = [each[row] for each in bits for row in range(each.shape[0])]
            data[name] = type(bits[0])(rows.reshape(shape))
    return type(parts[0])(DataBin(**data, shape=shape), metadata=parts[0].metadata)


def joined(pubs: Sequence[SamplerPub], jobs: Sequence[tuple[Sequence[Piece], Any]]) -> PrimitiveResult:
    """The result of all PUBs from (pieces, result) of each job."""
    parts: list[list[SamplerPubResult]] = [[] for _ in pubs]
    for pieces, result in jobs:
        for piece, part in zip(pieces, result, strict=True):
            parts[piece.pub].append(part)
    return PrimitiveResult([join(pub, part) for pub, part in zip(pubs, parts, strict=True)])
