"""Measure circuits in this package and in others side by side, on one thread: `make bench`.

The script measures probabilities of the paper's circuit (depth 2; 15 for 2 qubits), and their gradients with respect to
inputs and weights, against other torch simulators (scripts/peers.py), and QuantumNetwork against the Aer run inside it.
Sides take turns in rotating order, with two calls each, of which the second is timed. Times are medians over rounds.
Ratios are medians of the ratio within a round, with a 95 % bootstrap interval, as in benchmark.py.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from benchmark import Ratio, ratio
from numpy.typing import NDArray
from peers import SIDES, Z_SIDES, Side, depth_of
from qiskit_aer.primitives import SamplerV2
from qiskit_machine_learning.neural_networks import SamplerQNN
from rich.console import Console
from rich.table import Table

from lightning_qsgd.quantum import AerSampler, QuantumNetwork, superposition_circuit

SIZES = {
    2: (1, 32, 256, 2048), 4: (1, 32, 256, 2048), 8: (1, 32, 256, 2048), 10: (1, 32, 256), 12: (1, 32, 64, 256),
    16: (1, 8), 18: (1,), 20: (1,),
}  # fmt: skip
Z_SIZES = {4: (1, 32, 256), 8: (1, 32), 12: (1, 32), 16: (1,)}
OURS = {torch.complex64: SIDES[0].name, torch.complex128: SIDES[1].name}
LONGEST = 20.0  # maximum seconds of a call
PACKAGES = (
    "torch",
    "qiskit",
    "qiskit-aer",
    "qiskit-machine-learning",
    "pennylane",
    "pyqtorch",
    "tensorcircuit-ng",
    "torchquantum-ng",
)
Step = Callable[[], object]


@dataclass
class Cell:
    """One side at one size."""

    ms: float
    same: Ratio  # to this package in the same precision
    float32: Ratio  # to this package in float32


Results = dict[tuple[int, int, bool, str], Cell]  # (n, B, backward, side)


def interleave(steps: dict[str, Step], rounds: int, warmup: int) -> dict[str, NDArray[np.float64]]:
    """Measure the seconds of each step in each round."""
    names = list(steps)
    seconds = {name: np.zeros(rounds) for name in names}
    for i in range(-warmup, rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            steps[name]()  # untimed, since other sides ran in between, unlike in a training loop
            start = time.perf_counter()
            steps[name]()
            if i >= 0:
                seconds[name][i] = time.perf_counter() - start
    return seconds


def reversed_bits(probabilities: torch.Tensor) -> torch.Tensor:  # (B, 2**n)
    n = probabilities.shape[1].bit_length() - 1
    return probabilities.reshape(-1, *[2] * n).permute(0, *range(n, 0, -1)).reshape(len(probabilities), -1)


class Task:
    """A side at one size: evaluates the probabilities, or gradients of a fixed random linear functional of them."""

    def __init__(self, side: Side, num_qubits: int, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(batch, num_qubits, generator=generator)
        weights = torch.randn((2 * depth_of(num_qubits) - 1) * num_qubits, generator=generator)
        self.forward, self.weights = side.make(num_qubits, batch, weights.to(side.dtype))
        self.inputs = inputs.to(side.dtype).requires_grad_()
        start = time.perf_counter()
        outputs = self.evaluate()
        functional = torch.randn(outputs.shape, generator=generator)
        self.functional = (reversed_bits(functional) if side.big_endian else functional).to(outputs.dtype)
        self.differentiate()
        self.first_call = time.perf_counter() - start
        self.probabilities = (reversed_bits(outputs) if side.big_endian else outputs).double()
        assert self.inputs.grad is not None
        assert self.weights.grad is not None
        self.gradient = torch.cat([self.inputs.grad.flatten(), self.weights.grad.flatten()]).double()

    def evaluate(self) -> torch.Tensor:  # "forward" in the tables
        with torch.no_grad():
            return self.forward(self.inputs)

    def differentiate(self) -> None:  # "forward and backward"
        self.inputs.grad = self.weights.grad = None
        (self.forward(self.inputs) * self.functional).sum().backward()

    def check(self, name: str, reference: "Task") -> None:
        """Check that sides agree, in probabilities to 1e-5 and in gradients to 1e-4."""
        error = float((self.probabilities - reference.probabilities).abs().max())
        assert error <= 1e-5, f"{name}: wrong probabilities, error {error:.1e}"
        error = float((self.gradient - reference.gradient).abs().max() / reference.gradient.abs().max())
        assert error <= 1e-4, f"{name}: wrong gradients, relative error {error:.1e}"


def measure_circuits(num_qubits: int, batch: int, budget: float, among: list[Side] = SIDES) -> Results:
    """Measure all installed sides at one size, for about ``budget`` seconds, and at least 5 rounds, per direction."""
    sides = [side for side in among if side.installed and side.feasible(num_qubits, batch)]
    tasks = {side.name: Task(side, num_qubits, batch) for side in sides}
    for name, task in tasks.items():
        task.check(name, tasks[OURS[torch.complex128]])
    states = {side.name: side.state for side in sides}
    groups = [[s.name for s in sides if not s.slow and tasks[s.name].first_call < LONGEST]]
    groups += [[*OURS.values(), side.name] for side in sides if side.slow]  # in separate rounds, since it takes seconds
    results: Results = {}
    for backward in (False, True):
        for names in groups:
            steps: dict[str, Step] = {n: tasks[n].differentiate if backward else tasks[n].evaluate for n in names}
            trial = interleave(steps, rounds=2, warmup=2)
            rounds = int(np.clip(budget / 2 / sum(np.median(s) for s in trial.values()), 5, 300))
            seconds = interleave(steps, rounds, warmup=1)
            single = seconds[OURS[torch.complex64]]
            for name in names:
                cell = Cell(
                    float(np.median(seconds[name])) * 1e3,
                    ratio(seconds[name], seconds[OURS[states[name]]]),
                    ratio(seconds[name], single),
                )
                results.setdefault((num_qubits, batch, backward, name), cell)
    return results


def circuit_table(
    results: Results,
    num_qubits: int,
    backward: bool,
    among: list[Side] = SIDES,
    sizes: dict[int, tuple[int, ...]] = SIZES,
) -> Table:
    what = ("Z of each qubit, " if among is Z_SIDES else "") + ("forward and backward" if backward else "forward")
    title = f"{num_qubits} qubits, {what}: median ms; times as long as lightning_qsgd in the same precision [95 %]"
    table = Table(title=title, title_justify="left")
    for column in ("library", "state", *(f"B = {batch}" for batch in sizes[num_qubits])):
        table.add_column(column)
    for side in among:
        cells = []
        for batch in sizes[num_qubits]:
            cell = results.get((num_qubits, batch, backward, side.name))
            compared = "" if cell is None or side.name in OURS.values() else f"\n{pretty(cell.same)}"
            cells.append("-" if cell is None else f"{cell.ms:.4g}{compared}")
        if not side.installed:
            if side.optional:
                continue
            cells = ["not installed"]
        table.add_row(side.name, str(side.state).removeprefix("torch."), *cells)
    return table


def pretty(value: Ratio) -> str:
    return f"{value.median:.4g} [{value.low:.4g}, {value.high:.4g}]"


def goal_table(results: Results) -> Table:
    """The goals of the simulator, forward and backward: the time of a peer over that of this package."""
    table = Table(title="Goals, forward and backward: times as long as lightning_qsgd [95 %]", title_justify="left")
    for column in ("against", "in the same precision", "in float32", "goal"):
        table.add_column(column)
    connector = SIDES[-1].name
    goals = [(4, batch, "PennyLane", 1.8 if batch == 2048 else 4) for batch in SIZES[4]] + [(4, 32, connector, 1000)]
    for n, batch, name, goal in goals:
        if cell := results.get((n, batch, True, name)):
            table.add_row(f"{name}, n = {n}, B = {batch}", pretty(cell.same), pretty(cell.float32), f">= {goal}")
    peers = {name: cell for (n, b, back, name), cell in results.items() if (n, b, back) == (12, 64, True)}
    peers = {name: cell for name, cell in peers.items() if not name.startswith("lightning_qsgd")}
    for what, chosen in (
        ("best peer", {name: cell for name, cell in peers.items() if "by hand" not in name}),
        ("best, also by hand", peers),
    ):
        if chosen:
            name = min(chosen, key=lambda name: chosen[name].ms)
            same, single = pretty(chosen[name].same), pretty(chosen[name].float32)
            table.add_row(f"{what}, n = 12, B = 64: {name}", same, single, ">= 1" if what == "best peer" else "")
    return table


def measure_network(batch: int, rounds: int) -> tuple[dict[str, NDArray[np.float64]], bool]:
    """Seconds of QuantumNetwork, of the Aer run inside it and of the stock SamplerQNN, and whether all counts agree."""
    ansatz, sampler = superposition_circuit(4, 2), AerSampler(shots=1024)
    network = QuantumNetwork(ansatz, sampler)
    circuit = network.qnn.circuit  # measured and transpiled
    stock = SamplerQNN(
        circuit=circuit,
        sampler=sampler,
        input_params=ansatz.inputs,
        weight_params=ansatz.weights,
        interpret=int,
        output_shape=2**ansatz.num_qubits,
    )
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(batch, ansatz.num_inputs))
    weights = rng.normal(size=ansatz.num_weights)
    values = {ansatz.inputs: inputs, ansatz.weights: np.tile(weights, (batch, 1))}
    seed = int(np.random.SeedSequence((0, 1, 0)).generate_state(1)[0] >> 1)  # AerSampler's in the first call of step 0
    bare = SamplerV2.from_backend(sampler.backend, default_shots=1024, seed=seed)

    def run_network() -> NDArray[np.float64]:
        return network.probabilities(inputs, weights, step=0)

    def run_bare():
        return bare.run([(circuit, values)]).result()

    def run_stock():
        sampler.reseed(0)
        return stock.forward(inputs, weights)

    outcomes = run_bare()[0].data["meas"]
    counts = np.zeros((batch, 2**ansatz.num_qubits))
    for row in range(batch):
        for outcome, count in outcomes.get_int_counts(row).items():
            counts[row, outcome] = count
    equal = all(np.array_equal(np.rint(1024 * np.asarray(run())), counts) for run in (run_network, run_stock))
    return interleave({"network": run_network, "bare": run_bare, "stock": run_stock}, rounds, warmup=2), equal


def network_table(quick: bool) -> Table:
    table = Table(title="QuantumNetwork(AerSampler), 4 qubits, 1024 shots", title_justify="left")
    for column in ("B", "ms", "/ bare Aer run [95 %]", "/ stock SamplerQNN [95 %]", "counts equal"):
        table.add_column(column)
    for batch, rounds in ((28, 100), (625, 15)):
        seconds, equal = measure_network(batch, max(rounds // 5, 5) if quick else rounds)
        network = seconds["network"]
        ratios = [str(ratio(network, seconds[name])) for name in ("bare", "stock")]
        table.add_row(str(batch), f"{np.median(network) * 1e3:.1f}", *ratios, "yes" if equal else "NO")
    table.add_row("goal", "", "<= 1.15", "<= 1", "yes")
    return table


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"{', '.join(found)}; Python {platform.python_version()}; {platform.machine()}; one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--only", choices=(*(f"n{n}" for n in SIZES), "z", "network"), help="run only one part. Default: all"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, results = Console(width=130), {}
    for num_qubits, batches in SIZES.items():
        if arguments.only not in (None, f"n{num_qubits}"):
            continue
        for batch in batches:
            results |= measure_circuits(num_qubits, batch, budget=1.5 if arguments.quick else 6.0)
        for backward in (False, True):
            console.print(circuit_table(results, num_qubits, backward))
    for num_qubits, batches in Z_SIZES.items():
        if arguments.only in (None, "z"):
            found: Results = {}
            for batch in batches:
                found |= measure_circuits(num_qubits, batch, 1.5 if arguments.quick else 6.0, Z_SIDES)
            console.print(circuit_table(found, num_qubits, True, Z_SIDES, Z_SIZES))
    if any((n, True) in {(4, True), (12, True)} for n, *_ in results):
        console.print(goal_table(results))
    if arguments.only in (None, "network"):
        console.print(network_table(arguments.quick))
    if not all(side.installed or side.optional for side in SIDES):
        console.print("not installed: pip install -c constraints.txt '.[bench]'", markup=False)
    console.print(versions())


if __name__ == "__main__":
    main()
