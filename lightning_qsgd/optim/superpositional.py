"""Superpositional Gradient Descent: AdamW whose steps are perturbed by a quantum circuit.

Paper: arXiv 2511.01918, "Superpositional Gradient Descent". It is neither stochastic gradient descent ("SGD") nor
quantized gradient descent (the other "QSGD"). :func:`lightning_qsgd.optim.update.update` has the arithmetic of a step,
``optim/reference.py`` the same in plain loops.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lightning_qsgd.distributed import rank
from lightning_qsgd.optim.coordinates import (
    Blocks,
    Piece,
    Touched,
    TouchedCoordinates,
    chunks,
    has_values,
    local,
    refuse_unknown_sharding,
)
from lightning_qsgd.optim.displacement import MeasuredDisplacement
from lightning_qsgd.optim.param_groups import (
    LEGAL_COMBINATIONS as LEGAL_COMBINATIONS,
)
from lightning_qsgd.optim.param_groups import (
    STATE,
    Coupling,
    Scale,
    Scope,
    Target,
    acts,
    check_options,
    checked_weight,
    participates,
    refuse_unknown_keys,
)
from lightning_qsgd.optim.perturbation import TWINS, Perturbation, SinePerturbation, TwinKind, require
from lightning_qsgd.optim.saved_state import damaged, pack, saved_state
from lightning_qsgd.optim.statistics import LargeSteps, Tally, warn_if_constant
from lightning_qsgd.optim.update import Lists, adam_step, ask, common_age, update

_ATTRIBUTES = ("perturbation", "displacement", "scope", "_options", "_schedule", "_step", "_warned")
_ATTRIBUTES += ("record_statistics", "_large_steps")
_DISPLACEMENT = "displacement."  # prefix of its entries in the saved state
_NO_DISPLACEMENT = "no displacement"


class SuperpositionalGradientDescent(torch.optim.AdamW):
    """AdamW whose step gains the perturbation lambda * Q(theta, g).

    With Adam's direction u = m_hat / (sqrt(v_hat) + eps), alpha the learning rate, and w the weight decay:

        theta <- (1 - alpha * w) * theta - alpha * (u + lambda * Q),    Q_i = s_i(pi * theta) * g_i

    Paper: arXiv 2511.01918, Eq. 1 and 2. The options ``scope``, ``coupling`` and ``bias_correction`` decide what the
    paper leaves open. Legal combinations of (target, scale, coupling) are those in ``LEGAL_COMBINATIONS``.

    Parameters may be DTensors (FSDP2); the step is then that of the whole tensors. Beyond AdamW's memory a step needs
    about as much as the touched coordinates take; with scope="all", as much as a chunk of 2^18 coordinates on a CPU and
    2^24 elsewhere, unless the perturbation needs all blocks at once (``Perturbation.blockwise``: some twins, shot
    noise, live circuits). A step with lr = 0 or without any gradient evaluates no perturbation and does not count.

    Args:
        params: parameters or parameter groups. A group may have its own quantum_weight, target, scale, coupling and
            bias_correction, and any other key for schedulers and users (initial_lr, lr_scale, name, ...). Keys that
            look like options but are none raise an error: misspelt ones, those that begin with "quantum" or "perturb",
            and the options of the whole optimizer (scope, perturbation, twin, displacement).
        lr: alpha, at least 0. Default: 1e-3.
        betas: decay of Adam's moments, in [0, 1). Default: (0.9, 0.999).
        eps: added to Adam's denominator, at least 0. Default: 1e-8.
        weight_decay: w, decoupled as in AdamW, at least 0. Default: 0 (torch.optim.AdamW: 0.01).
        quantum_weight: lambda, a number of at least 0 or a function of the step number, from 0. With 0 the step is
            torch.optim.AdamW's bit for bit. Default: 0.5 (the paper also uses 0.1).
        perturbation: source of s. Default: :class:`SinePerturbation` with 4 qubits, which is Eq. 2 in closed form and
            runs no circuit. ``CircuitPerturbation()`` runs one. A :class:`TwinPerturbation` that has been used or
            belongs to another optimizer is copied.
        twin: kind of a :class:`TwinPerturbation` ("frozen", ...). The optimizer then trains with this classical twin of
            ``perturbation``, also if stacked configurations describe the perturbation. Default: None, the perturbation
            itself.
        scope: the touched coordinates, in blocks of the perturbation's num_qubits: "first_of_tensor" (default; the
            first ones of each tensor in C order), "first_of_model" (the first ones of the model in the order of the
            groups) or "all" (each tensor flattened and padded with angle 0). Parameters without gradient and groups
            whose quantum_weight is the number 0 have none.
        target: "update" (default; Eq. 1) or "gradient" (the moments see g + lambda * Q: the paper's second variant, to
            which Adam is nearly invariant).
        scale: "gradient" (default; Q = s * g, Eq. 2) or "adam" (Q = s * u with Adam's direction u, so that lambda * s
            is a relative change of the learning rate; its effects are thousands of times larger). Q = s * g grows with
            the gradient, unlike Adam's step: with gradients of some 100 and lr of at least 1e-2 the defaults diverge
            within a few steps, so clip gradients. The optimizer warns once if lambda * Q exceeds 10 times Adam's step,
            and if "adam" has a quantum_weight above 1, with which steps can go uphill.
        coupling: "lr" (default; Q is multiplied by alpha) or "decoupled" (by lr / initial_lr, with the initial_lr of
            torch's schedulers; OneCycleLR sets it to max_lr / div_factor. Without a scheduler it is the constructor's
            lr).
        bias_correction: whether Adam's moments are corrected for their bias. The paper's formula has no correction.
            With False all parameters of a group must have taken equally many steps. Default: True.
        displacement: displaces the weights for each gradient, in ``step(closure)`` or within ``displaced()``. Default:
            None, gradients at the weights themselves.
        foreach, fused, maximize, amsgrad: as in torch.optim.AdamW. With fused=True a GradScaler unscales gradients and
            skips steps itself, as with other optimizers, because torch's fused kernel would show scaled gradients to
            the perturbation. Tensors that are not contiguous then take the plain loop.
        capturable, differentiable: not supported; True raises an error.

    Attributes:
        record_statistics: if True, each step leaves ``statistics``. A step that does not record takes no extra time.
            Default: False.
        statistics: statistics of the last recorded step by name, as docs/tensorboard.md defines them, and ``s``; or
            None. :meth:`statistics_of` returns those of some parameters. Steps without values (on the meta device or
            under FakeTensorMode) are not recorded and evaluate no perturbation.

    Raises:
        ValueError: for an invalid value or combination, for capturable or differentiable, and for FSDP1's flat
            parameters.
        RuntimeError: for sparse or complex gradients; with bias_correction=False for parameters of different age; in
            ``step()`` with a displacement, for gradients that were not taken at displaced weights.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        quantum_weight: float | Callable[[int], float] = 0.5,
        perturbation: Perturbation | None = None,
        twin: TwinKind | None = None,
        scope: Scope = "first_of_tensor",
        target: Target = "update",
        scale: Scale = "gradient",
        coupling: Coupling = "lr",
        bias_correction: bool = True,
        displacement: MeasuredDisplacement | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        amsgrad: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if scope not in get_args(Scope):
            raise ValueError(f"Invalid scope: {scope!r}; it must be one of {', '.join(get_args(Scope))}")
        perturbation = SinePerturbation(num_qubits=4) if perturbation is None else perturbation
        require("perturbation", perturbation, isinstance(perturbation, Perturbation), "a Perturbation")
        if twin is not None:
            require("twin", twin, twin in TWINS, f"one of {', '.join(TWINS)}, or None")
            perturbation = TWINS[twin](perturbation)
        self.perturbation = perturbation.fresh()
        self.scope: Scope = scope
        self.displacement = displacement
        self._schedule = quantum_weight if callable(quantum_weight) else None
        self._step = 0  # optimizer steps with lr > 0 and gradients so far
        self._warned = False
        self._large_steps = LargeSteps()
        self.record_statistics = False
        self._options: dict[str, Any] = {
            "quantum_weight": checked_weight(self._schedule(0) if self._schedule else quantum_weight),
            "scheduled": self._schedule is not None,
            "target": target,
            "scale": scale,
            "coupling": coupling,
            "bias_correction": bias_correction,
        }
        kernels = {"foreach": foreach, "fused": fused, "capturable": capturable, "differentiable": differentiable}
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **kernels)
        self.defaults |= self._options | {STATE: b""}
        self.__setstate__({})
        self._step_supports_amp_scaling = False  # a GradScaler then unscales gradients, and skips steps, before ours

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that it lacks are those of the constructor.

        Raises:
            ValueError: for an invalid value or combination, or a key that looks like an option and is none (see
                ``params``).
        """
        options = {*self.defaults, *self._options}
        refuse_unknown_keys(param_group, options - {"scheduled", "decoupled_weight_decay", STATE})
        group = self._options | param_group
        if "quantum_weight" in param_group:
            group |= {"scheduled": False, "quantum_weight": checked_weight(param_group["quantum_weight"])}
        check_options(self.defaults | group)
        lr = float(group.get("lr", self.defaults["lr"]))
        if group["coupling"] == "decoupled" and not lr > 0:
            raise ValueError(f"Invalid lr: {lr}; coupling='decoupled' is relative to it")
        super().add_param_group({"reference_lr": lr, **group})
        self._large_steps.look_at_options(self.param_groups[-1])
        try:
            for p in self.param_groups[-1]["params"]:
                refuse_unknown_sharding(p)
        except ValueError:
            self.param_groups.pop()
            raise

    def prepare(self) -> str | None:
        """Do one-time work now, such as fitting a series; otherwise the first step does it.

        Returns:
            Lines that report the work, or None.
        """
        needed = any(map(participates, self.param_groups))
        lines = (self.perturbation.prepare() if needed else None, self.displacement and self.displacement.prepare())
        return "\n".join(filter(None, lines)) or None

    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Any:
        """Take a step; ``closure`` recomputes the loss, as in torch.optim. torch.compile does not compile it."""
        return _uncompiled(self, closure) if torch.compiler.is_compiling() else self._take_step(closure)

    @torch.no_grad()
    def _take_step(self, closure: Callable[[], Tensor | float] | None) -> Any:
        loss = self._evaluate(closure)
        for group in self.param_groups:
            if group["scheduled"] and self._schedule is not None:
                group["quantum_weight"] = checked_weight(self._schedule(self._step))
        whole = self.scope == "all" and not self.perturbation.blockwise
        touched = self._touched(self.param_groups, self.scope, self.perturbation.num_qubits, whole=whole)
        for group in self.param_groups:
            if not group["bias_correction"]:
                common_age(self.state[p]["step"] if p in self.state else 0.0 for p in _with_gradients(group))
        if self.record_statistics:
            self._tally = self.statistics = None
        if any(acts(self.param_groups[k]) for k in touched):
            self._perturbed_step(touched)
        else:
            for group in self.param_groups:
                self._adam_step(group)
        self._step += any(float(group["lr"]) != 0 and bool(_with_gradients(group)) for group in self.param_groups)
        return loss

    def _adam_step(self, group: dict[str, Any]) -> Lists:
        lists, has_complex = self._lists(group)
        adam_step(group, lists, has_complex=has_complex)
        return lists

    def _lists(self, group: dict[str, Any]) -> tuple[Lists, bool]:
        lists = Lists([], [], [], [], [], [])
        return lists, self._init_group(group, *lists)

    def _perturbed_step(self, touched: Touched) -> None:
        real = has_values(next(iter(touched.values()))[0].param)
        tally = Tally(self.param_groups) if self.record_statistics and real else None
        self._large_steps.next_step(self.param_groups, real)
        in_chunks = self.scope == "all"
        if (ask_each := in_chunks and self.perturbation.blockwise) and real:
            self.perturbation.prepare()  # on all ranks, also where this one holds no coordinate
        s = {} if ask_each else self._ask_all(touched)
        for k, group in enumerate(self.param_groups):
            if k not in touched or not acts(group):
                lists = self._adam_step(group)
            else:
                lists, _ = self._lists(group)
                self._touched_step(group, lists, touched[k], s.get(k), tally)
            if tally is not None:
                tally.add_adam(group, lists)
        if tally is not None:
            tally.close()
            self._tally, self.statistics = tally, tally.statistics()

    def _touched_step(
        self, group: dict[str, Any], lists: Lists, pieces: Sequence[Piece], s: Tensor | None, tally: Tally | None
    ) -> None:
        """Apply AdamW and Q, with scope="all" in chunks, which bound the temporaries and stay in cache."""
        in_chunks, watched = self.scope == "all", self._large_steps.looks and group["target"] == "update"
        if group["target"] == "gradient":
            lists.keep_apart(pieces)
        for part in chunks(pieces, self.perturbation.num_qubits) if in_chunks else [pieces]:
            sizes = [piece.size for piece in part]
            if s is None:
                own = self._ask(Blocks(part))
            else:
                own, s = s.tensor_split([sum(sizes)])
            if in_chunks:
                moving = lists.cut(part)
                params, grads = moving.params, moving.grads
            else:  # whole tensors at once, of which the first coordinates are touched
                moving, params, grads = lists, [p.param for p in part], [local(lists.grads[p.place]) for p in part]
            own, need_u = own.to(params[0].device), watched or tally is not None
            g, change, u = update(group, moving, params, grads, sizes, own, None if in_chunks else part, need_u=need_u)
            if tally is not None and u is not None:
                tally.add(group, part, own, g, u)
            if watched and change is not None and u is not None:
                self._large_steps(group, change, u)
            if in_chunks:
                lists.put_back(part, moving)
        if in_chunks and lists.steps:
            torch._foreach_add_(lists.steps, 1)  # pyright: ignore[reportPrivateImportUsage]

    def _ask_all(self, touched: Touched) -> dict[int, Tensor]:
        """s of each group's coordinates, (sum of sizes,)."""
        s = self._ask(touched.blocks)
        if len(touched) == 1:
            return dict.fromkeys(touched, s)
        sizes = [sum(piece.size for piece in pieces) for pieces in touched.values()]
        return dict(zip(touched, s.split(sizes), strict=True))

    def _ask(self, blocks: Blocks) -> Tensor:
        s = ask(self.perturbation, blocks, self._step)
        if not self._warned and has_values(s):
            self._warned = True
            if rank() > 0:  # it may hold too few of the sharded weights to tell
                return s
            touched = next(group for group in self.param_groups if participates(group))
            warn_if_constant(s, touched, self.perturbation)
        return s

    def statistics_of(self, params: Iterable[Tensor]) -> dict[str, Tensor]:
        """The ``statistics`` of the last recorded step over some parameters, such as those of a layer.

        Args:
            params: parameters of this optimizer.

        Returns:
            Float64 scalars on the CPU by name.

        Raises:
            RuntimeError: if there is no recorded step, or the last one perturbed nothing.
            ValueError: if a parameter does not belong to this optimizer.
        """
        if self._tally is None:
            raise RuntimeError("No perturbed step has been recorded; set record_statistics = True before a step")
        return self._tally.statistics(params)

    # ---- gradients at displaced weights

    def displace(self, draw: int = 0) -> None:
        """Displace the weights for gradients of this step, until ``displacement.restore()``.

        Args:
            draw: number of the displacement within the step, such as that of the micro-batch. Default: 0.

        Raises:
            RuntimeError: if there is no displacement, or if the weights are already displaced.
        """
        if self.displacement is None:
            raise RuntimeError("This optimizer has no displacement; give it displacement=MeasuredDisplacement(...)")
        self.displacement.displace(self._all_parameters(), self._step, draw)

    @contextmanager
    def displaced(self, draw: int = 0) -> Iterator[None]:
        """Displace the weights within a block, for loops without a closure; see :meth:`displace`.

        Example: ``with optimizer.displaced(): loss_of(model(batch)).backward()``, and then ``optimizer.step()``.
        """
        self.displace(draw)
        try:
            yield
        finally:
            if self.displacement is not None:
                self.displacement.restore()

    def _all_parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        if self.displacement is None:
            with torch.enable_grad():
                return None if closure is None else closure()
        if closure is None and all(float(group["lr"]) == 0 for group in self.param_groups):
            return None  # torch's distributed state dicts take such a step to create Adam's state
        return self.displacement.evaluate(closure, self._all_parameters(), self._step)

    # ---- its state

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict; each group holds the state of perturbation and displacement as bytes.

        They are under "perturbation_state", and ``optim.saved_state.unpack`` reads them. Bytes are the one kind of
        value that all of torch's distributed state dicts carry whatever its size.
        """
        packed = pack(self._own_state())
        before = [(group, group.get(STATE, b"")) for group in self.param_groups]
        for group, _ in before:
            group[STATE] = packed
        try:
            return super().state_dict()  # its hooks see the state
        finally:
            for group, value in before:
                group[STATE] = value

    def _own_state(self) -> dict[str, Any]:
        own = {"step": self._step, "scope": self.scope, "identity": self.perturbation.identity()}
        displacement = {} if self.displacement is None else self.displacement.state_dict()
        displacement |= {"identity": self._displacement_identity()}
        return own | {f"{_DISPLACEMENT}{k}": v for k, v in displacement.items()} | self.perturbation.state_dict()

    def _displacement_identity(self) -> str:
        return _NO_DISPLACEMENT if self.displacement is None else self.displacement.identity()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of a plain AdamW, which leaves perturbation and displacement unchanged.

        As in torch, options of the state replace those of the constructor; a warning names the changed options of this
        class. A schedule of quantum_weight is not part of the state.

        Raises:
            ValueError: if the state belongs to another perturbation, displacement or scope, or is damaged. Nothing is
                loaded then.
        """
        before = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)  # calls __setstate__ between its hooks
        for old, group in zip(before, self.param_groups, strict=True):
            if changed := [f"{k} {old[k]!r} by {group[k]!r}" for k in self._options if group[k] != old[k]]:
                warnings.warn(f"The loaded state replaces {', '.join(changed)}", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _ATTRIBUTES}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "param_groups" in state and "perturbation" not in state:  # from load_state_dict; pickles have all attributes
            self._load(state["param_groups"])
        super().__setstate__(state)
        self._touched = TouchedCoordinates()
        self._tally: Tally | None = None
        self.statistics: dict[str, Tensor] | None = None
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
            group.setdefault("reference_lr", float(group["lr"]))
            group[STATE] = b""

    def _load(self, groups: Sequence[dict[str, Any]]) -> None:
        """Load this class's state from loaded groups, and complete the groups of a plain AdamW."""
        if own := saved_state(groups):
            self._check(own)
            before = [(part, dict(vars(part))) for part in _parts(self.perturbation, self.displacement)]
            try:
                self.perturbation.load_state_dict(own)
                if self.displacement is not None:
                    start = len(_DISPLACEMENT)
                    self.displacement.load_state_dict(
                        {name[start:]: value for name, value in own.items() if name.startswith(_DISPLACEMENT)}
                    )
            except Exception as error:
                for part, attributes in before:
                    part.__dict__ = attributes
                raise damaged(f"{type(self.perturbation).__name__} cannot load it: {error!r}") from error
            self._step = own["step"]
        for mine, group in zip(self.param_groups, groups, strict=True):
            for name in (*self._options, "reference_lr"):
                group.setdefault(name, mine[name])
            group |= {"capturable": False, "differentiable": False}
            if mine["scheduled"] or group["scheduled"]:
                group |= {"scheduled": mine["scheduled"], "quantum_weight": mine["quantum_weight"]}

    def _check(self, own: dict[str, Any]) -> None:
        for name, kind in {"step": int, "scope": str, "identity": str}.items():
            if type(own.get(name)) is not kind:
                raise damaged(f"its {name} is {own.get(name)!r}")
        if own["step"] < 0:
            raise damaged(f"its step is {own['step']}")
        displacement = own.get(f"{_DISPLACEMENT}identity", _NO_DISPLACEMENT)
        for theirs, mine, what in (
            (own["identity"], self.perturbation.identity(), "perturbation and scope"),
            (own["scope"], self.scope, "perturbation and scope"),
            (displacement, self._displacement_identity(), "displacement"),
        ):
            if theirs != mine:
                raise ValueError(
                    f"The state belongs to {theirs}, this optimizer has {mine}; resume with the same {what}, or start "
                    "a new run"
                )


@torch.compiler.disable(reason="a perturbation is any Python, and may run circuits")
def _uncompiled(optimizer: SuperpositionalGradientDescent, closure: Callable[[], Tensor | float] | None) -> Any:
    return optimizer._take_step(closure)


def _with_gradients(group: Mapping[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _parts(*parts: Any) -> Iterator[Any]:
    """The perturbations and displacements among some values and within them: all that loading a state changes."""
    for part in parts:
        if isinstance(part, (Perturbation, MeasuredDisplacement)):
            yield part
            yield from _parts(*vars(part).values())
