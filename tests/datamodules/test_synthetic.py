import numpy as np
import pytest
import torch

from lightning_qsgd.datamodules import SyntheticSequences


def test_majority_is_the_class_with_most_markers():
    tokens, labels = SyntheticSequences(label_noise=0.0).arrays("train")
    assert tokens.shape == (1600, 32)
    assert ((tokens >= 0) & (tokens < 64)).all()
    counts = np.stack([((tokens - 16) // 12 == c).sum(1) for c in range(4)], 1)
    counts_of_markers = (tokens >= 16).sum(1)
    assert (counts_of_markers == 24).all()
    ranked = np.sort(counts, axis=1)
    assert (ranked[:, 3] > ranked[:, 2]).all()
    np.testing.assert_array_equal(counts.argmax(1), labels)
    assert np.bincount(labels).min() > 320
    positions = (tokens >= 16).mean(0)  # markers stand anywhere
    assert abs(positions - 0.75).max() < 0.06


def test_order_needs_the_positions():
    tokens, labels = SyntheticSequences(kind="order", label_noise=0.0).arrays("train")
    is_x, is_y = (tokens >= 16) & (tokens < 40), tokens >= 40
    assert (is_x.sum(1) == 1).all()
    assert (is_y.sum(1) == 1).all()
    first, upper = is_x.argmax(1) < is_y.argmax(1), (tokens * is_x).sum(1) >= 28
    np.testing.assert_array_equal(labels, 2 * first + upper)


def test_noise_flips_to_another_class_at_its_rate():
    clean = SyntheticSequences(label_noise=0.0).arrays("test")
    noisy = SyntheticSequences().arrays("test")
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert np.mean(clean[1] != noisy[1]) == pytest.approx(0.01, abs=0.003)
    assert (SyntheticSequences(label_noise=0.999).arrays("test")[1] == clean[1]).mean() < 0.01


def test_data_are_a_function_of_seed_and_split():
    one, again, other = (SyntheticSequences(seed=s).arrays("train")[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    validation = SyntheticSequences(seed=3).arrays("val")[0]
    known = {row.tobytes() for row in one}
    assert not any(row.tobytes() in known for row in validation)


def test_batches_and_their_order(monkeypatch):
    data = SyntheticSequences()
    loader = data.train_dataloader()
    batch = next(iter(loader))
    assert batch["tokens"].shape == (32, 32)
    assert batch["tokens"].dtype == batch["labels"].dtype == torch.int64
    assert len(loader) == 50
    assert torch.equal(next(iter(data.train_dataloader()))["tokens"], batch["tokens"])  # repeats with seed and epoch
    loader.sampler.set_epoch(1)
    assert not torch.equal(next(iter(loader))["tokens"], batch["tokens"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert not torch.equal(next(iter(data.train_dataloader()))["tokens"], batch["tokens"])
    in_order = torch.cat([b["labels"] for b in data.val_dataloader()])
    np.testing.assert_array_equal(in_order, data.arrays("val")[1])
    assert len(data.test_dataloader().dataset) == len(data.predict_dataloader().dataset) == 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "parity"}, "Invalid kind: 'parity'"),
        ({"length": 23}, "Invalid length: 23; it must be at least 24"),
        ({"train_size": 0}, "Invalid train_size: 0"),
        ({"seed": -1}, "Invalid seed: -1"),
        ({"label_noise": 1.0}, "Invalid label_noise: 1.0"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSequences(**arguments)
