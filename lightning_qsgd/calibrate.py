"""The command ``calibrate``: measure the circuit of a configuration once, to use it in many runs. Level 4."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lightning_qsgd.experiment import Experiment
from lightning_qsgd.files import check_writable
from lightning_qsgd.manual import add_options
from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.parser import KnownArgumentsParser

if TYPE_CHECKING:
    from lightning_qsgd.quantum import Calibration


def calibrate(arguments: Sequence[str]) -> None:
    """Run the grid of a configuration's circuit on its sampler, test the fit, and write a file.

    Args:
        arguments: arguments of the command line, without the command's name.

    Raises:
        ValueError: if the configuration has no CircuitPerturbation, a number is invalid, or the series does not
            describe the sampler. In that last case the measurements are written to NAME.rejected.npz.
    """
    options, overrides = _parser().parse_known_args(list(arguments))
    configs = [part for path in options.config for part in ("--config", path)]
    perturbation, key = _circuit(Experiment.typed([*configs, *overrides]).settings)
    from lightning_qsgd.quantum import IBMSampler
    from lightning_qsgd.quantum import calibrate as measure
    from lightning_qsgd.quantum.calibration import num_circuits

    network, sampler = perturbation.network, perturbation.network.sampler
    try:
        circuits = num_circuits(network.ansatz, options.held_out, options.references)
    except ValueError as error:
        if perturbation.entanglement == "none":
            raise ValueError(f"{error}. Without entanglement, fit needs few circuits, and no calibration") from error
        raise
    console = Console(width=120)
    _show(console, "Calibration", _plan(perturbation, circuits))
    if options.dry_run:
        console.print("Dry run: nothing was submitted")
        return
    if options.output is None:
        raise ValueError("Invalid output: None; add --output data/calibrations/NAME.npz, or --dry_run")
    check_writable(options.output)
    on_hardware = isinstance(sampler, IBMSampler)
    age = options.max_age_days if options.max_age_days is not None or not on_hardware else 1.0
    hold = getattr(sampler, "hold", nullcontext)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with hold(), Progress(*columns, console=console) as progress:  # keeps the record of paid jobs
            task = progress.add_task("circuits", total=circuits)
            calibration = measure(
                network,
                perturbation.weights,
                held_out=options.held_out,
                references=options.references,
                seed=options.seed,
                max_age_days=age,
                on_progress=lambda done, total: progress.update(task, completed=done),
            )
            misfit = calibration.misfit()
            path = _rejected(options.output) if misfit else options.output
            calibration.save(path)
    except KeyboardInterrupt:
        sys.stderr.write(f"Stopped; {options.output} was not written\n")
        sys.exit(130)
    _show(console, "Result", _result(calibration))
    if misfit:
        raise ValueError(
            f"{options.output} was not written: {misfit}. The measurement is in {path}; fit accepts this file, with a "
            "warning"
        )
    for warning in calibration.warnings():
        console.print(f"warning: {warning}", style="yellow")
    console.print(f"Written: {options.output}", highlight=False, soft_wrap=True)
    console.print(f"Train with it: --{key}.init_args.calibration {options.output}", highlight=False, soft_wrap=True)


def _parser() -> KnownArgumentsParser:
    parser = KnownArgumentsParser(
        "lightning-qsgd calibrate",
        description="Measure the response of a configuration's circuit on its sampler once, test it, and write it to a "
        "file for training runs (the perturbation's option calibration). Further arguments override the configuration, "
        "as with fit.",
    )
    add_options("calibrate", parser)
    return parser


def _circuit(config: dict[str, Any]) -> tuple[CircuitPerturbation, str]:
    """The first CircuitPerturbation of a configuration, and its key."""
    for key, found in _specifications(config.get("model"), "model"):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(CircuitPerturbation, "perturbation")
        return parser.instantiate(parser.parse_object({"perturbation": found}))["perturbation"], key
    raise ValueError("The configuration has no CircuitPerturbation, whose circuit calibrate could measure")


def _specifications(config: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(config, dict):
        return
    for name, value in config.items():
        yield from _specifications(value, f"{key}.{name}")
    if isinstance(path := config.get("class_path"), str):
        kind = pkgutil.resolve_name(path)
        if isinstance(kind, type) and issubclass(kind, CircuitPerturbation):
            yield key, config


def _plan(perturbation: CircuitPerturbation, circuits: int) -> dict[str, Any]:
    from lightning_qsgd.quantum.samplers import backend_of

    network, sampler = perturbation.network, perturbation.network.sampler
    shots = getattr(sampler, "shots", None) or 0
    plan = {
        "circuit": perturbation.identity(),
        "sampler": type(sampler).__name__,
        "backend": getattr(backend_of(sampler), "name", None) or "exact",
        "transpiled depth": network.qnn.circuit.depth(),
        "circuits": f"{circuits:,}",
        "shots": f"{shots:,} a circuit, {circuits * shots:,} in all" if shots else "exact",
    }
    if (estimate := getattr(sampler, "qpu_seconds", None)) is not None:
        plan["estimated QPU time"] = f"{estimate(network.qnn.circuit, circuits):.0f} s"
    return plan


def _rejected(path: Path) -> Path:
    """An unused file name next to ``path``: measurements may have cost money, and are never overwritten."""
    names = (f"{path.stem}.rejected{number}{path.suffix}" for number in chain([""], count(2)))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def _result(calibration: Calibration) -> dict[str, Any]:
    results, provenance, residual = calibration.results(), calibration.provenance, calibration.residual
    untested = "too few shots to test" if provenance["shots"] else "exact: nothing to test"
    return {
        "seconds": provenance["seconds"],
        "backend calibrated": provenance["backend_calibrated"] or "-",
        "fit at held-out points": f"p = {results['fit_p']:.3g}, chi-square / dof "
        f"{results['fit_chi_square_per_dof']:.3f}"
        if "fit_p" in results
        else untested,
        "residual": f"{residual.found:.2g}" + ("" if residual.exact else f"; shots explain {residual.expected:.2g}"),
        "largest residual": f"{results['fit_largest_residual']:.2g}",
        "drift of the reference point": f"p = {results['drift_p']:.3g}" if "drift_p" in results else untested,
        "maximum age": "unlimited" if provenance["max_age_days"] is None else f"{provenance['max_age_days']:g} days",
    }


def _show(console: Console, title: str, values: dict[str, Any]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name, str(value))
    console.print(table)
