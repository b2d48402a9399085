import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from tests.callbacks.test_perturbation_monitor import run

QUANTUM = ["Training", "Quantum perturbation", "Circuit", "Cost"]
ATTENTION = ["--config=configs/seqcls_quantum_attention.yaml", "--experiment=seqcls", "--data.train_size=128"]


def layout(events):
    (event,) = events.Tensors("custom_scalars__config__")
    return Layout.FromString(event.tensor_proto.string_val[0])


@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        ([], QUANTUM),
        (["--config=configs/overlay/live.yaml"], QUANTUM),
        (["--config=configs/overlay/sine.yaml"], ["Training", "Quantum perturbation", "Cost"]),
        (["--config=configs/overlay/displaced.yaml"], ["Training", "Quantum perturbation", "Cost"]),
        (["--config=configs/overlay/adamw.yaml"], ["Training", "Cost"]),
        (["--monitor.every_n_steps=0"], ["Training", "Cost"]),
        ([*ATTENTION, "--attention_monitor.every_n_steps=2"], ["Training", "Attention", "Cost"]),
        (["--config=configs/overlay/matrices.yaml"], QUANTUM),
    ],
    ids=["surrogate", "live", "sine", "displaced", "adamw", "off", "attention", "layers"],
)  # fmt: skip
def test_groups_and_charts_have_what_the_run_logs(tmp_path, arguments, groups):
    folder = run(tmp_path, "--run_monitor.every_n_steps=2", "--trainer.log_every_n_steps=1", *arguments)
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["scalars"]
    found = layout(events)
    assert [category.title for category in found.category] == groups
    charts = [chart for category in found.category for chart in category.chart]
    assert len({chart.title for chart in charts}) == len(charts)
    for chart in charts:
        if chart.HasField("margin"):
            (series,) = chart.margin.series
            assert {series.value, series.lower, series.upper} <= set(tags), chart.title
        else:
            assert any(re.match(tag, known) for tag in chart.multiline.tag for known in tags), chart.title
    if "Quantum perturbation" in groups and "displaced" not in str(arguments):
        curves = [tag for chart in charts for tag in chart.multiline.tag]
        shown = [tag for tag in tags if any(re.match(pattern, tag) for pattern in curves)]
        assert {tag for tag in tags if tag.startswith(("circuit/", "cost/"))} <= set(shown)
