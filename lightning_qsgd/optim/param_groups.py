"""Parameter groups: which ones the perturbation touches, and how to leave parts of a model out."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args

from torch import Tensor, nn

Scope = Literal["first_of_tensor", "first_of_model", "all"]
Target = Literal["update", "gradient"]
Scale = Literal["gradient", "adam"]
Coupling = Literal["lr", "decoupled"]

#: The combinations of (target, scale, coupling) that mean something.
LEGAL_COMBINATIONS = (
    ("update", "gradient", "lr"),
    ("update", "gradient", "decoupled"),
    ("update", "adam", "lr"),
    ("gradient", "gradient", "lr"),
)
#: The key in parameter groups under which state dicts hold the perturbation's state.
STATE = "perturbation_state"
Kind = Literal["norms", "biases", "embeddings"]
#: Keys that this optimizer and torch put into groups; groups of another optimizer may bring them.
_INTERNAL = (STATE, "scheduled", "reference_lr", "param_names", "decoupled_weight_decay")
_CONSTRUCTOR_ONLY = ("scope", "perturbation", "twin", "displacement")
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def perturbed_groups(
    module: nn.Module, leave_out: Iterable[Kind] = get_args(Kind), pattern: str | None = None
) -> list[dict[str, Any]]:
    """Two parameter groups: the perturbed parameters, and the others with quantum_weight 0, which are plain AdamW's.

    ``SuperpositionalGradientDescent(perturbed_groups(model), lr=1e-3)``

    Args:
        module: its parameters that require gradients are dealt out, each once (tied weights too).
        leave_out: what is not perturbed, by default all of

            - "norms": parameters of modules whose class is named ...Norm... (LayerNorm, RMSNorm, BatchNorm2d, ...);
            - "biases": parameters whose own name begins or ends with "bias";
            - "embeddings": weights of ``nn.Embedding`` and ``nn.EmbeddingBag``, also where an output layer shares them.
        pattern: a regular expression; only parameters whose name it matches somewhere are perturbed. Default: all.

    Returns:
        [{"params": [...]}, {"params": [...], "quantum_weight": 0.0}], without a group that would be empty.

    Raises:
        ValueError: for an unknown kind, a pattern that is no regular expression, or if nothing is left to perturb.
    """
    kinds = tuple(leave_out)
    if unknown := [kind for kind in kinds if kind not in get_args(Kind)]:
        raise ValueError(f"Invalid leave_out: {unknown}; it must be some of {', '.join(get_args(Kind))}")
    try:
        matcher = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"Invalid pattern: {pattern!r}; it is no regular expression: {error}") from error
    left_out: set[Tensor] = set()
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        if ("norms" in kinds and "norm" in type(part).__name__.lower()) or (
            "embeddings" in kinds and isinstance(part, _EMBEDDINGS)
        ):
            left_out |= set(own.values())
        if "biases" in kinds:
            left_out |= {p for name, p in own.items() if name.startswith("bias") or name.endswith("bias")}
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    perturbed = [p for name, p in named if p not in left_out and matcher.search(name)]
    if not perturbed:
        raise ValueError(
            f"No parameter is left to perturb: leave_out={kinds}, pattern={pattern!r}; the names are "
            f"{', '.join(name for name, _ in named[:8])}, ..."
        )
    chosen = set(perturbed)
    others = [p for _, p in named if p not in chosen]
    return [{"params": perturbed}, *([{"params": others, "quantum_weight": 0.0}] if others else [])]


def refuse_unknown_keys(group: Mapping[str, Any], options: Iterable[str]) -> None:
    """Refuse keys of a parameter group that are meant for the optimizer and that it would not read.

    Args:
        group: as a user gives it.
        options: names that the optimizer reads.

    Raises:
        ValueError: for an argument of the constructor alone, a misspelt option, or an unknown name that begins with
            "quantum" or "perturb". Other names (initial_lr, lr_scale, name, ...) are users' and schedulers'.
    """
    known, takes = [*options, "params"], f"a group takes {', '.join(sorted(options))}"
    for key in group.keys() - {*known, *_INTERNAL}:
        name = str(key)
        if name in _CONSTRUCTOR_ONLY:
            raise ValueError(
                f"Invalid key in a parameter group: {name!r} belongs to the optimizer, for all groups together; {takes}"
            )
        spelt = name.lower().replace("-", "_")
        close = [other for other in get_close_matches(spelt, known, cutoff=0.8) if abs(len(other) - len(spelt)) <= 2]
        if close or spelt.startswith(("quantum", "perturb")):
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"Invalid key in a parameter group: {name!r}{hint}; {takes}")


def participates(group: Mapping[str, Any]) -> bool:
    """Whether a group's coordinates are among the touched ones at all."""
    return group["scheduled"] or group["quantum_weight"] != 0


def acts(group: Mapping[str, Any]) -> bool:
    """Whether a group's touched coordinates move in this step."""
    return group["quantum_weight"] != 0 and float(group["lr"]) != 0


def rate(group: Mapping[str, Any]) -> float:
    """What multiplies lambda * Q in the weights: lr, or with coupling="decoupled" its share of the initial one."""
    lr = float(group["lr"])
    return lr if group["coupling"] == "lr" else lr / group.get("initial_lr", group["reference_lr"])


def check_options(group: Mapping[str, Any]) -> None:
    """Check the options of a group.

    Raises:
        ValueError: for an illegal combination of target, scale and coupling, and for capturable and differentiable.
    """
    combination = (group["target"], group["scale"], group["coupling"])
    if combination not in LEGAL_COMBINATIONS:
        legal = "; ".join(", ".join(c) for c in LEGAL_COMBINATIONS)
        raise ValueError(f"Invalid (target, scale, coupling): {', '.join(map(str, combination))}; legal: {legal}")
    for name, what in (("capturable", "a CUDA graph cannot capture"), ("differentiable", "autograd cannot follow")):
        if group[name]:
            raise ValueError(f"Invalid {name}: True; {what} a step that asks the perturbation. Leave it out")


def checked_weight(value: Any) -> float:
    """quantum_weight as a number.

    Raises:
        ValueError: unless it is a number of at least 0.
    """
    if callable(value) or not float(value) >= 0:
        rule = "a group takes a number, the constructor a schedule" if callable(value) else "it must be at least 0"
        raise ValueError(f"Invalid quantum_weight: {value}; {rule}")
    return float(value)
