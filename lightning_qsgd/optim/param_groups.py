"""Parameter groups: their options, and how to exclude parts of a model from the perturbation."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args

from torch import Tensor, nn

Scope = Literal["first_of_tensor", "first_of_model", "all"]
Target = Literal["update", "gradient"]
Scale = Literal["gradient", "adam"]
Coupling = Literal["lr", "decoupled"]

#: The legal combinations of (target, scale, coupling).
LEGAL_COMBINATIONS = (
    ("update", "gradient", "lr"),
    ("update", "gradient", "decoupled"),
    ("update", "adam", "lr"),
    ("gradient", "gradient", "lr"),
)
#: The key in parameter groups under which state dicts hold the perturbation's state.
STATE = "perturbation_state"
Kind = Literal["norms", "biases", "embeddings"]
#: Keys that this optimizer and torch add to groups; groups from another optimizer may have them.
_INTERNAL = (STATE, "scheduled", "reference_lr", "param_names", "decoupled_weight_decay")
_CONSTRUCTOR_ONLY = ("scope", "perturbation", "twin", "displacement")
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def perturbed_groups(
    module: nn.Module, leave_out: Iterable[Kind] = get_args(Kind), pattern: str | None = None
) -> list[dict[str, Any]]:
    """Make two parameter groups: the perturbed parameters, and the others with quantum_weight 0 (plain AdamW).

    ``SuperpositionalGradientDescent(perturbed_groups(model), lr=1e-3)``

    Args:
        module: the module. Each parameter that requires gradients is in one group, also if weights are tied.
        leave_out: parameters to exclude. Default: all of

            - "norms": parameters of modules whose class name contains Norm (LayerNorm, RMSNorm, BatchNorm2d, ...);
            - "biases": parameters whose own name begins or ends with "bias";
            - "embeddings": weights of ``nn.Embedding`` and ``nn.EmbeddingBag``, also if an output layer shares them.
        pattern: a regular expression that is searched in the names of parameters; others are excluded. Default: all
            names match.

    Returns:
        [{"params": [...]}, {"params": [...], "quantum_weight": 0.0}]; the second group is omitted if it is empty.

    Raises:
        ValueError: for an unknown kind, an invalid regular expression, or if no parameter is left to perturb.
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
    """Refuse keys of a parameter group that look like options but would be ignored.

    Args:
        group: the group as the user gives it.
        options: names of the options.

    Raises:
        ValueError: for an option of the whole optimizer, a misspelt option, or an unknown name that begins with
            "quantum" or "perturb". Other names (initial_lr, lr_scale, name, ...) belong to users and schedulers.
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
    """Whether the perturbation can touch coordinates of a group."""
    return group["scheduled"] or group["quantum_weight"] != 0


def acts(group: Mapping[str, Any]) -> bool:
    """Whether the perturbation moves coordinates of a group in this step."""
    return group["quantum_weight"] != 0 and float(group["lr"]) != 0


def rate(group: Mapping[str, Any]) -> float:
    """The factor of lambda * Q in the weights: lr, or with coupling="decoupled" lr over the initial one."""
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
    """Check quantum_weight, and return it as a float.

    Raises:
        ValueError: unless it is a number of at least 0.
    """
    if callable(value) or not float(value) >= 0:
        rule = "a group takes a number, the constructor a schedule" if callable(value) else "it must be at least 0"
        raise ValueError(f"Invalid quantum_weight: {value}; {rule}")
    return float(value)
