"""Superpositional Gradient Descent: AdamW with steps that are perturbed by a quantum circuit.

Paper: arXiv 2511.01918, "Superpositional Gradient Descent". "SGD" there is not stochastic, and this is not quantized,
gradient descent (the other "QSGD"). The arithmetic of a step is :func:`lightning_qsgd.optim.update.update`; the same in
plain loops is in ``optim/reference.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lightning_qsgd.distributed import rank
from lightning_qsgd.optim.coordinates import Blocks, Piece, Touched, chunks, has_values
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
from lightning_qsgd.optim.saved_state import SavedState
from lightning_qsgd.optim.sharding import local, refuse_unknown_sharding
from lightning_qsgd.optim.statistics import LargeSteps, Tally, warn_if_constant
from lightning_qsgd.optim.update import Lists, adam_step, ask, common_age, update


class SuperpositionalGradientDescent(SavedState):
    """AdamW whose step gains the perturbation lambda * Q(theta, g).

    With Adam's direction u = m_hat / (sqrt(v_hat) + eps), alpha the learning rate, and w the weight decay:

        theta <- (1 - alpha * w) * theta - alpha * (u + lambda * Q),    Q_i = s_i(pi * theta) * g_i

    Paper: arXiv 2511.01918, Eq. 1 and 2. What the paper leaves open is an option: ``scope`` (which coordinates),
    ``coupling`` (whether alpha multiplies Q), ``bias_correction``.

    Args:
        params: parameters or parameter groups; a group may hold its own quantum_weight, target, scale, coupling and
            bias_correction. Sparse and complex ones are refused. Groups keep other keys, as torch's do, for schedulers
            and users (initial_lr, lr_scale, name, ...), but for those that were meant as options: scope, perturbation,
            twin and displacement (of the whole optimizer), misspelt ones, and any that begins with "quantum" or
            "perturb" are refused.
        lr: alpha, at least 0. Default: 1e-3.
        betas: decay of Adam's moments, in [0, 1). Default: (0.9, 0.999).
        eps: added to Adam's denominator, at least 0. Default: 1e-8.
        weight_decay: w, decoupled as in AdamW, at least 0. Default: 0 (torch.optim.AdamW: 0.01).
        quantum_weight: lambda, a number of at least 0, or a function of the step number (from 0). With 0 the step
            is torch.optim.AdamW's bit for bit. Default: 0.5 (the paper also uses 0.1).
        perturbation: where s comes from. None (default): :class:`SinePerturbation` of 4 qubits, that is Eq. 2 in
            closed form: no circuit runs. ``CircuitPerturbation()`` runs one. A :class:`TwinPerturbation` that has
            been used, or belongs to another optimizer, is not changed: this optimizer starts with a copy.
        twin: train with this classical twin of ``perturbation`` in its place, by the kind of a
            :class:`TwinPerturbation` ("frozen", ...); in stacked configurations that is the twin of the perturbation
            that all of them together describe. None (default): train with the perturbation itself.
        scope: the touched coordinates, in blocks of the perturbation's num_qubits: "first_of_tensor" (default; the
            first of each tensor, C order), "first_of_model" (of the first parameters in group order) or "all" (each
            tensor flattened, padded with angle 0). Parameters without gradient contribute nothing, nor do groups whose
            quantum_weight is the number 0.
        target: "update" (default; Eq. 1) or "gradient" (g + lambda * Q enters the moments: the paper's second arm; Adam
            is nearly invariant to it).
        scale: "gradient" (default; Q = s * g, Eq. 2) or "adam" (Q = s * u, u Adam's direction in this step: then
            lambda * s is a relative change of the learning rate, and effects are thousands of times larger). Q = s * g
            grows with the gradient, as Adam's step does not: with gradients of some 100 and lr of at least 1e-2 the
            defaults diverge within a few steps, so clip gradients. |lambda * Q| above 10 times Adam's step is warned
            of, once; so is "adam" with a quantum_weight above 1, which lets steps go uphill.
        coupling: "lr" (default; alpha multiplies Q) or "decoupled" (lambda * lr / initial_lr does, initial_lr as
            torch's schedulers set it: with OneCycleLR that is max_lr / div_factor; without one, the constructor's lr).
        bias_correction: Adam's correction of its moments (default: True; the paper's formula prints none). False needs
            all parameters of a group to have taken equally many steps.
        displacement: gradients are taken at weights that it displaces: in ``step(closure)``, or where the loss and its
            gradients are computed within ``displaced()``. None (default): at the weights themselves.
        foreach, fused, maximize, amsgrad: as in torch.optim.AdamW. With fused=True a GradScaler unscales gradients and
            skips steps itself, as it does for other optimizers (torch's fused AdamW does both inside of its kernel, and
            would show the perturbation scaled gradients), and tensors that are not contiguous take the plain loop.
        capturable, differentiable: refused; only there to say so.

    Legal (target, scale, coupling): see ``LEGAL_COMBINATIONS``. A step with lr = 0, or without any gradient, perturbs
    nothing, asks no circuit and advances no counter. ``state_dict()`` holds the perturbation's
    state as bytes in each of its ``param_groups``, under "perturbation_state"; ``optim.saved_state.unpack`` reads them.

    Parameters may be DTensors (FSDP2): the step is that of the whole tensors. Memory beside AdamW's: of the order of
    the touched coordinates; with scope="all" that of a chunk of 2^18 coordinates on a CPU, 2^24 elsewhere, unless the
    perturbation needs all blocks at once (``Perturbation.blockwise``: twins, shot noise, live circuits).

    Attributes:
        record_statistics: set it to True, and each step leaves ``statistics``: see ``optim/statistics.py``. A step
            that does not record costs nothing. Default: False.
        statistics: those of the last recorded step, or None. :meth:`statistics_of` gives them for some parameters.
            Without values (on the meta device, under FakeTensorMode) no step is recorded, and no perturbation asked.

    Raises:
        ValueError: for an invalid value or combination, capturable, differentiable, or FSDP1's flat parameters.
        RuntimeError: for sparse or complex gradients, or bias_correction=False with parameters of different age;
            for ``step()`` with a displacement and gradients that are not of displaced weights.
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
        self.statistics: dict[str, Tensor] | None = None
        self._tally: Tally | None = None
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
        """Do the one-time work now, such as fitting surrogates; otherwise the first step that needs it does."""
        needed = any(map(participates, self.param_groups))
        lines = (self.perturbation.prepare() if needed else None, self.displacement and self.displacement.prepare())
        return "\n".join(filter(None, lines)) or None

    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Any:
        """One step of all groups; ``closure`` recomputes the loss, as in torch.optim. torch.compile leaves it alone."""
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
        """AdamW and Q. With scope="all" chunk by chunk: no temporary is larger, and a chunk stays in cache."""
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
            if rank() > 0:  # of weights that are spread over ranks it may hold too few to judge by
                return s
            touched = next(group for group in self.param_groups if participates(group))
            warn_if_constant(s, touched, self.perturbation)
        return s

    def statistics_of(self, params: Iterable[Tensor]) -> dict[str, Tensor]:
        """The ``statistics`` of the last recorded step over some parameters only: those of a group, or of a layer.

        Args:
            params: parameters of this optimizer.

        Raises:
            RuntimeError: if the last recorded step perturbed nothing, or there is none.
            ValueError: for a parameter that is none of this optimizer's.
        """
        if self._tally is None:
            raise RuntimeError("No perturbed step has been recorded; set record_statistics = True before a step")
        return self._tally.statistics(params)


@torch.compiler.disable(reason="a perturbation is any Python, and may run circuits")
def _uncompiled(optimizer: SuperpositionalGradientDescent, closure: Callable[[], Tensor | float] | None) -> Any:
    return optimizer._take_step(closure)


def _with_gradients(group: Mapping[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]
