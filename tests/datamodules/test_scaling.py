"""Scaling as scikit-learn does it, and of numbers that it would not scale."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_linnerud
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from lightning_qsgd.datamodules import Table

X = np.sin(np.arange(40))
UNITS = {"plain": (0, 1), "joule": (0, 1.6e-19), "least": (0, 1e-200), "most": (0, 1e200), "late": (1e9, 1e-3)}


def ready(folder, columns, **options):
    np.savez(folder / "t.npz", **columns)
    data = Table(str(folder / "t.npz"), **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("scale", ["standard", "minmax"])
@pytest.mark.parametrize("target", UNITS)
def test_numbers_of_every_size_are_scaled(tmp_path, scale, target):
    # scikit-learn 1.9 leaves columns alone that vary little, in themselves or against their mean
    columns = {name: begin + unit * X for name, (begin, unit) in UNITS.items()}
    batch = ready(tmp_path, columns, target_columns=[target], scale=scale).rows("train").columns
    inputs, targets = batch["inputs"], batch["targets"]
    for column in inputs.T:
        torch.testing.assert_close(column, inputs[:, 0], atol=2e-3, rtol=0)
    most = inputs.abs().max() if scale == "minmax" else inputs.std(0, correction=0).max()
    assert most == pytest.approx(1, abs=1e-3)
    assert (float(targets.mean()), float(targets.std(correction=0))) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize(
    ("second", "rank"), [(2 * X + 1, 1), (np.full(40, 0.1), 1), (np.where(X > 0.5, "red", "blue"), 2)]
)
def test_components_that_are_rounding_errors_are_refused(tmp_path, second, rank):
    columns = {"first": X, "second": second, "kind": np.arange(40) % 2}
    with pytest.raises(ValueError, match=rf"Invalid pca: {rank + 1}; .*use at most {rank}$"):
        ready(tmp_path, columns, label_column="kind", pca=rank + 1)
    assert ready(tmp_path, columns, label_column="kind", pca=rank).input_shape == (rank,)


def test_scaling_and_components_are_those_of_scikit_learn_on_the_training_rows():
    found = load_breast_cancer()
    x, y = found.data, found.target
    for scale, scaler in {"standard": StandardScaler, "minmax": lambda: MinMaxScaler((-1, 1))}.items():
        for pca in (None, 4):
            data = Table(dataset="breast_cancer", scale=scale, pca=pca)
            data.setup("fit")
            train, test = data.rows("train").columns["id"].numpy(), data.rows("test").columns["id"].numpy()
            steps = [scaler()] if pca is None else [scaler(), PCA(pca, svd_solver="full"), scaler()]
            first, second = x[train], x[test]
            for step in steps:
                first, second = step.fit_transform(first), step.transform(second)
            np.testing.assert_allclose(data.rows("train").columns["inputs"], first, atol=1e-5)
            np.testing.assert_allclose(data.rows("test").columns["inputs"], second, atol=1e-5)
            names = [data.labels[i] for i in data.rows("train").columns["labels"]]
            assert names == [found.target_names[i] for i in y[train]]


def test_targets_return_to_their_units():
    data = Table(dataset="linnerud", val_share=0.2, test_share=0.2)
    data.setup("fit")
    targets = data.rows("train").columns["targets"].double()
    torch.testing.assert_close(targets.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.std(0, unbiased=False), torch.ones(3).double(), atol=1e-6, rtol=0)
    own = torch.tensor(data.target_mean) + torch.tensor(data.target_scale) * data.rows("test").columns["targets"]
    np.testing.assert_allclose(own, load_linnerud().target[data.rows("test").columns["id"]], rtol=1e-5)
