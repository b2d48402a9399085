import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # read when they are imported
pytest.register_assert_rewrite("tests.runs")
settings.register_profile("default", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("default")
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave a million objects of imported modules out of each garbage collection: they live as long as the process."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts from the same generators, and leaves no global seed and no deterministic mode behind."""
    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
