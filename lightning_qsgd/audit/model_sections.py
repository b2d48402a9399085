"""What a page says about the quantum parts inside of a model."""

from collections.abc import Sequence

from lightning_qsgd.audit.figures import in_words
from lightning_qsgd.audit.model_conclusions import (
    attention_conclusion,
    interval,
    judge,
    layer_conclusion,
    loss,
    numbers_of,
)
from lightning_qsgd.audit.model_figures import attention_picture, layer_picture
from lightning_qsgd.audit.model_findings import AttentionFindings, LayerFindings, Metric, Replacement
from lightning_qsgd.comparison.numbers import NONE, count, minus, number, percent
from lightning_qsgd.comparison.sections import Section, Task
from lightning_qsgd.comparison.tables import Table

ONE_SEED = (
    "This is one trained model: one seed. The intervals are over validation examples of this model. Nothing was "
    "trained again, so a part that this model needs may still be one that another training would do without."
)


def layer_task(found: LayerFindings, key: str) -> Task:
    """A circuit layer's part of the page.

    Args:
        found: of :func:`lightning_qsgd.audit.model_audit.audit_model`.
        key: of its anchors.
    """
    seen, kept = found.rows
    asked = f"asked {seen:,} times over the validation data"
    asked += f", of which {kept:,}, drawn at random, were looked at" if kept < seen else ""
    table = Table(
        "The trained model as it is, and with something classical in the layer's place. Reproduced: share of the mean "
        f"square of the layer's outputs over the validation data. {_reading(found.metric)}",
        _columns(found.metric),
        [
            _first("the layer itself", found.terms, found.metric),
            *(_row(found.metric, replacement) for replacement in found.replacements),
        ],
    )
    shares = f"Of the mean square of its outputs, {in_words(found.shares)}." if found.shares else None
    sections = [
        Section("parts", "What it answers, and what answers the same", [shares, *found.notes, layer_picture(found)]),
        Section("replaced", "Does the model need it?", [table if found.replacements else None]),
        Section("methods", "How this was measured", _layer_methods(found), [ONE_SEED]),
    ]
    subject = f"Audited: {found.name}, {found.circuit}, {len(found.outputs)} outputs, on {found.engine}; {asked}."
    return Task(key, found.name, [layer_conclusion(found)], False, _filled(sections), subject=subject)


def attention_task(found: AttentionFindings, key: str) -> Task:
    """A quantum attention layer's part of the page.

    Args:
        found: of :func:`lightning_qsgd.audit.model_audit.audit_model`.
        key: of its anchors.
    """
    table = Table(
        "The trained model as it is, and with Phi replaced. Reproduced: share of the mean square of what Phi adds, "
        f"without its mean, which cancels. {_reading(found.metric)}",
        _columns(found.metric),
        [
            _first("Phi of each head", found.terms, found.metric),
            *(_row(found.metric, replacement) for replacement in found.replacements),
        ],
    )
    one = (
        f"Each head adds a function of one number, the score: a series of {count(found.terms, 'term')} in one angle, "
        "which a computer adds up without a circuit."
    )
    sizes = [
        f"Head {h.head}: adds {number(h.power**0.5)} (root mean square) to scores with a standard deviation of "
        f"{number(h.score_spread)}; {percent(h.constant)} of the mean square is constant, {percent(h.linear)} linear "
        f"(scores \u00d7 {number(h.factor, '.4g')}), {percent(h.curved)} curved."
        for h in found.heads
    ]
    sections = [
        Section("heads", "What it adds to the scores", [one, *found.notes, attention_picture(found)], details=sizes),
        Section("replaced", "Does the model need it?", [table if found.replacements else None]),
        Section("methods", "How this was measured", _attention_methods(found), [ONE_SEED]),
    ]
    source = f"source {found.source}, readout {found.readout}, on {found.engine}"
    subject = f"Audited: {found.name}, quantum attention of {count(len(found.heads), 'head')}, {source}."
    return Task(key, found.name, attention_conclusion(found), False, _filled(sections), subject=subject)


def _columns(metric: Metric) -> tuple[str, ...]:
    unit = f" ({numbers_of(metric).unit})" if numbers_of(metric).unit else ""
    first = ("in its place", "terms#", "reproduced#", f"{metric.name}#")
    return (*first, f"loss{unit}#", "95 % interval#", "lost#", "gained#", "enough?")


def _first(name: str, terms: int, metric: Metric) -> tuple[str, ...]:
    value = numbers_of(metric).value(metric.value)
    return (name, f"{terms:,}" if terms else NONE, percent(1.0), value, *(NONE,) * 5)


def _row(metric: Metric, replacement: Replacement) -> tuple[str, ...]:
    numbers, ends = numbers_of(metric), interval(metric, replacement)
    changed = (str(replacement.lost), str(replacement.gained)) if metric.examples else (NONE, NONE)
    return (
        replacement.name,
        f"{replacement.terms:,}",
        percent(replacement.reproduced),
        numbers.value(replacement.value),
        minus(numbers.difference(loss(metric, replacement))),
        minus(numbers.interval(*ends)) if ends else NONE,
        *changed,
        {"enough": "yes", "not enough": "no"}.get(judge(metric, replacement), "unclear"),
    )


def _reading(metric: Metric) -> str:
    if not metric.examples:
        return (
            "Loss: how much worse. Enough: it is at most 1 % of the metric. Examples could not be compared one by one, "
            "so there is no interval."
        )
    return (
        "Loss: how much worse; lost and gained: examples that are right only without, or only with the replacement, of "
        f"{metric.examples:,}. Enough: the interval of the loss ends at 1 point or below; not enough: it lies above 0."
    )


def _layer_methods(found: LayerFindings) -> list[str]:
    said = [
        "Constant is the squared mean of an output. Single-angle is what the best sum of functions (trigonometric "
        "series) of one angle each adds to it, by least squares over the inputs that occurred in validation. "
        "Multi-angle is the rest of what is a function of the inputs: it depends on several of them together. "
        "Entanglement is not what it measures: joint outcomes and products of Z depend on several inputs without any. "
        "Rest is what the same inputs do not repeat: shots, as half the mean squared difference of two fresh answers "
        "to at most 512 inputs.",
        "The constant and the single-angle part are those of the validation inputs (their labels play no role); the "
        "refitted series, products of sines and cosines of up to two angles, is fitted to the layer's answers to the "
        "training inputs, in evaluation mode. All are put in the layer's place in the trained model as it is.",
    ]
    if found.circuits:
        shots = f" with {found.shots:,} shots" if found.shots else ""
        said.append(f"The audit ran {count(found.circuits, 'circuit', thousands=True)} of this layer{shots}.")
    return said


def _attention_methods(found: AttentionFindings) -> list[str]:
    rows = max((head.rows for head in found.heads), default=0)
    return [
        f"Up to {rows:,} scores of each head, drawn at random from the first 16 sequences of each validation batch, "
        "without masked ones. What a head adds, gain \u00d7 Phi, is split by least squares over them: its mean, which "
        "cancels in the softmax; what a line adds, which multiplies all scores by one factor, as a temperature does; "
        "and the rest, a curve.",
        "Replaced means: classical attention with the scores as they are (no Phi), or times each head's factor (linear "
        "part), in the trained model as it is.",
    ]


def _filled(sections: Sequence[Section]) -> list[Section]:
    """Sections with what they have to show."""
    kept = []
    for section in sections:
        blocks = [block for block in section.blocks if block is not None]
        if blocks:
            kept.append(Section(section.key, section.title, blocks, section.warnings, section.code, section.details))
    return kept
