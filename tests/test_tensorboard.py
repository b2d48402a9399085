"""What a person sees in TensorBoard, in a real browser. Screenshots: `pytest --basetemp DIR`, in DIR/runs0."""

from itertools import pairwise

import pytest

from lightning_qsgd.cli import main
from tests import browser
from tests.common import SMALL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]

LONGER = ["--data.train_size=320", "--data.val_size=400", "--trainer.max_epochs=6", "--run_monitor.every_n_steps=5"]
RUNS = {
    "device": ["configs/seqcls.yaml", "configs/overlay/live.yaml", "configs/overlay/fake_manila.yaml"],
    "attention": ["configs/seqcls_quantum_attention.yaml"],
}
OPTIONS = {
    "device": ["--monitor.every_n_steps=5"],
    "attention": ["--attention_monitor.every_n_steps=5"],
}
GROUPS = {
    "device": {"Training": 3, "Quantum perturbation": 7, "Circuit": 2, "Cost": 4},
    "attention": {"Training": 3, "Attention": 5, "Cost": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a short run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    for name, files in RUNS.items():
        configs = [part for file in files for part in ("--config", file)]
        places = [f"--experiment={name}", f"--trainer.default_root_dir={root}"]
        main(["fit", *configs, *SMALL, *LONGER, *OPTIONS[name], *places])
    return root


def drawn(page):
    """How many charts of the page have their curves' axes."""
    return page.find(
        "find('vz-line-chart2').filter((chart) => find('svg text', chart.shadowRoot || chart).length).length"
    )


@pytest.mark.parametrize("name", RUNS)
def test_each_page_in_a_browser(runs, tmp_path, name):
    with browser.tensorboard(runs / name) as address, browser.page(tmp_path, height=1900) as page:
        page.open(f"{address}/#custom_scalars")
        charts = sum(GROUPS[name].values())
        page.wait_for(lambda: page.find("find('vz-line-chart2').length") == charts)
        page.wait_for(lambda: drawn(page) == charts)
        lines = page.text.splitlines()
        groups = [(title, int(count)) for title, count in pairwise(lines) if title in GROUPS[name] and count.isdigit()]
        assert groups == list(GROUPS[name].items())  # in the story's order
        assert not page.find("find('[role=alert], .error, .no-data-warning').map((e) => e.innerText).join('')")
        assert "Matches (0)" not in lines  # a chart without curves
        page.screenshot(runs / f"{name}_custom_scalars.png")

        page.open(f"{address}/#images")
        pictures = {
            "device": ["circuit/drawing", "circuit/outcomes"],
            "attention": ["attention/curve/blocks.0", "attention/spectrum/blocks.1"],
        }
        page.wait_for(lambda: all(picture in page.text for picture in pictures[name]))
        page.wait_for(lambda: page.find("find('img').filter((image) => image.naturalWidth > 100).length") >= 2)
        page.screenshot(runs / f"{name}_images.png")

        page.open(f"{address}/#distributions")
        histograms = {"device": ["quantum/angles", "quantum/s"], "attention": ["attention/angles/blocks.0"]}
        page.wait_for(lambda: all(histogram in page.text for histogram in histograms[name]))
        page.screenshot(runs / f"{name}_distributions.png")

        page.open(f"{address}/#text")
        page.wait_for(lambda: "lightning-qsgd fit" in page.text and "qiskit-machine-learning" in page.text)
        page.screenshot(runs / f"{name}_text.png")
