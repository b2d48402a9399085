"""The command ``doctor``: show what the installation can do, and test its circuits. Level 4."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "lightning-qsgd", "torch", "lightning", "jsonargparse", "qiskit", "qiskit-machine-learning", "qiskit-aer",
    "qiskit-ibm-runtime", "transformers",
)  # fmt: skip
#: The file of qiskit-ibm-runtime's saved accounts (see "Save your login credentials" in its documentation).
ACCOUNTS = Path.home() / ".qiskit" / "qiskit-ibm.json"


def doctor() -> None:
    """Print versions, devices, threads and backends, and run a self-test.

    Raises:
        RuntimeError: if the results of the self-test are wrong.
    """
    table = Table(title="lightning_qsgd doctor", show_header=False, title_justify="left")
    for name, value in diagnosis().items():
        table.add_row(name, value)
    Console(width=120).print(table)
    distance = self_test()
    if distance > 0.1:
        raise RuntimeError(
            f"Self-test failed: 4 qubits on Aer are {distance:.3f} (total variation) from the exact probabilities; "
            "reinstall with: pip install -c constraints.txt lightning-qsgd"
        )
    print(f"Self-test passed: 4 qubits on Aer, {distance:.3f} (total variation) from exact, as expected of 4096 shots")


def diagnosis() -> dict[str, str]:
    """Versions, devices and accounts of the installation by name, without tokens."""
    found = {"Python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["CUDA devices"] = ", ".join(cuda) or "none"
    found["threads"] = f"torch {torch.get_num_threads()}, cores {os.cpu_count()}"
    from lightning_qsgd.quantum.samplers import available_devices

    found["backends"] = f"exact statevector; Aer on {', '.join(available_devices())}"
    in_environment = "QISKIT_IBM_TOKEN" in os.environ
    found["IBM Quantum account"] = "saved" if has_account() else "in the environment" if in_environment else "none"
    return found


def has_account() -> bool:
    """Whether an account is saved. An empty file, which qiskit-ibm-runtime leaves behind, does not count."""
    try:
        return bool(json.loads(ACCOUNTS.read_text()))
    except (OSError, ValueError):
        return False


def self_test() -> float:
    """The largest total variation distance, in [0, 1], of Aer (4096 shots) from the paper's circuit at 4 inputs."""
    from lightning_qsgd.quantum import AerSampler, QuantumNetwork, superposition_circuit

    ansatz, rng = superposition_circuit(), np.random.default_rng(0)
    inputs, weights = rng.normal(size=(4, 4)), rng.normal(size=ansatz.num_weights)
    exact = QuantumNetwork(ansatz).probabilities(inputs, weights)
    sampled = QuantumNetwork(ansatz, AerSampler(shots=4096)).probabilities(inputs, weights)
    return float(np.abs(exact - sampled).sum(-1).max() / 2)
