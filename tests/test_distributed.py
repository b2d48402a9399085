import pytest
import torch

from lightning_qsgd.distributed import counted_from_rank_0, from_rank_0, leave, on_all_ranks, rank, ranks
from tests.ranks import on_two_ranks


class Counter:
    circuits, shots, seconds = 0, 0, 0.0

    def run(self):
        self.circuits += 3
        return f"of rank {rank()}"


def everything():
    counter = Counter()
    first = counted_from_rank_0(counter, counter.run)
    try:
        from_rank_0(lambda: 1 / 0)
    except Exception as error:
        failure = type(error).__name__, str(error)
    return first, counter.circuits, failure, on_all_ranks(10 * rank()), ranks()


def test_rank_0_answers_for_all(tmp_path):
    first, second = on_two_ranks(everything, tmp_path)
    assert first == ("of rank 0", 3, ("ZeroDivisionError", "division by zero"), [0, 10], 2)
    assert second == ("of rank 0", 3, ("RuntimeError", "division by zero"), [0, 10], 2)


def test_a_process_alone_answers_itself():
    counter = Counter()
    assert (counted_from_rank_0(counter, counter.run), counter.circuits) == ("of rank 0", 3)
    assert (on_all_ranks("x"), rank(), ranks()) == (["x"], 0, 1)
    with pytest.raises(ZeroDivisionError):
        from_rank_0(lambda: 1 / 0)


def test_who_has_left_is_alone(tmp_path):
    leave()  # without a run: nothing
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    leave()
    assert not torch.distributed.is_initialized()
