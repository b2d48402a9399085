"""Imports go down only; files of one level import each other only inside one folder."""

import ast
from functools import cache
from pathlib import Path

import lightning_qsgd

ROOT = Path(lightning_qsgd.__file__).parent
LEVELS = {
    "files": -1,
    "manual": -1,
    "twin_names": -1,
    "scrubbing": -1,
    "yaml_files": -1,
    "distributed": -1,
    "report": 0,
    "quantum": 0,
    "run_folder": 1,
    "parser": 1,
    "settings": 2,
    "failures": 0,
    "optim": 1,
    "models": 1,
    "datamodules": 1,
    "tasks": 2,
    "callbacks": 2,
    "experiment": 3,
    "comparison": 4,
    "audit": 5,
    "doctor": 4,
    "calibrate": 4,
    "init": 4,
    "cli": 6,
    "__main__": 7,
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@cache
def imported(path):
    """(module, whether it waits: inside of a function, or for type checkers only) for each import."""
    tree = ast.parse(path.read_text())
    waiting = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    waiting += [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    inside = {n for block in waiting for n in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
        found += [(name, node in inside) for name in names]
    return found


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_go_down():
    for path in FILES:
        own = part(path)
        assert own in LEVELS, f"{own} has no level: add it to the picture in docs/develop.md and here"
        for name, _ in imported(path):
            parts = name.split(".")
            if parts[0] == "lightning_qsgd" and parts[1] in LEVELS and parts[1] != own:
                assert LEVELS[parts[1]] < LEVELS[own], f"{path} imports {name}"


#: Circles of imports that are still there.
CIRCLES: set[frozenset[str]] = set()


def circles(graph):
    """Sets of names that import each other in a circle, found by a walk through all imports."""
    found, done = set(), set()

    def walk(name, trail):
        for other in graph[name]:
            if other in trail:
                found.add(frozenset(trail[trail.index(other) :]))
            elif other not in done:
                walk(other, [*trail, other])
        done.add(name)

    for name in graph:
        if name not in done:
            walk(name, [name])
    return found


def test_no_files_import_each_other_in_a_circle():
    """Imports within functions and for type checkers count."""
    assert circles({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": []}) == {frozenset("abc")}
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        targets = {target for target, _ in imported(path)} | {target.rpartition(".")[0] for target, _ in imported(path)}
        targets |= {f"{target}.__init__" for target in targets if path.parent.name != target.rpartition(".")[2]}
        graph[name] = sorted(targets & names.keys() - {name})
    assert circles(graph) == CIRCLES


def test_each_part_keeps_to_its_subject():
    for path in FILES:
        modules = {name for name, _ in imported(path)}
        if part(path) in ("quantum", "optim", "models"):
            assert not any(m == "lightning" or m.startswith("lightning.") for m in modules), path
        if part(path) == "datamodules":
            own = [m for m in modules if m.startswith("lightning_qsgd")]
            assert all(m.startswith("lightning_qsgd.datamodules") for m in own), path
        if part(path) != "quantum":
            at_top = {name for name, inside in imported(path) if not inside}
            assert not any(name.startswith("qiskit") for name in at_top), f"{path} imports qiskit at its top"
        if path.name == "superpositional.py":
            assert not any(m.startswith(("qiskit", "lightning_qsgd.quantum")) for m in modules)


def test_only_samplers_name_a_backend():
    for path in FILES:
        if path.name not in ("samplers.py", "noise.py", "hardware.py"):
            assert not any(n.startswith(("qiskit_aer", "qiskit_ibm_runtime")) for n, _ in imported(path)), path


def test_files_stay_small():
    """A class that is one thing may have 500 lines rather than be torn."""
    too_long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 500}
    assert not too_long


def test_every_module_has_its_test():
    tests = Path(__file__).parent
    exempt = {"__init__", "__main__"}
    tested = {p.stem.removeprefix("test_") for p in tests.rglob("test_*.py")}
    stems = {p.stem for p in FILES} - exempt
    covered_elsewhere = {
        "arrays": "table",
        "frames": "table",
        "image_files": "images",
        "times": "windows",
        "findings": "page",
        "training": "classification",
        "numbers": "supervised",
        "quantum_body": "parts",
        "parts": "run_monitor",
        "worker": "runner",
        "recorder": "runner",
        "stages": "simulator",
        "torch_engine": "simulator",
        "native_rows": "native",
        "native_row": "native",
        "circuit_files": "library",
        "lanes": "native",
        "fourier": "surrogate",
        "goodness": "calibration",
        "noise": "samplers",
        "jobs": "reliable",
        "attention": "transformer",
        "run_summary": "cli",
        "resume_state": "exact_resume",
        "update": "superpositional",
        "live_circuit": "fallback",
        "saved_state": "superpositional_state",
        "doctor": "cli",
        "reference": "superpositional",
        "value": "experiment",
        "lightning_cli": "cli",
        "parser": "errors",
        "test_outputs": "test_report",
        "twin_names": "layer_twins",
        "product_circuit": "layer_twins",
    }
    assert {s for s in stems if s not in tested and covered_elsewhere.get(s) not in tested} == set()
