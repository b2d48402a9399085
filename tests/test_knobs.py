"""Settings of how a run is computed: each does something, and none changes what is learned."""

import json
import os

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_qsgd.cli import main
from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.experiment import build
from lightning_qsgd.models import TransformerClassifier
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS
from tests.optim.common import own_state

MODELS = ["seqcls", "seqcls_quantum_head", "seqcls_quantum_attention"]
NO_LOGS = "--trainer.logger=false"  # pictures and logs take a third of a small run
#: A circuit of few gates, which are traced one by one.
SHALLOW = ["--model.attention.num_qubits=2", "--model.attention.depth=1"]
SCALED = ["--trainer.precision=null", "--trainer.plugins=tests.ranks.Float16OnCpu"]


def fit(root, *arguments, model="seqcls", epochs=1):
    """The checkpoint after a small run."""
    few = [FEW_SHOTS] if model == "seqcls" else []
    main(
        ["fit", f"--config=configs/{model}.yaml", *few, *SMALL, *TINY_ARGUMENTS, f"--trainer.default_root_dir={root}",
         f"--trainer.max_epochs={epochs}", *arguments]
    )  # fmt: skip
    return torch.load(root / model / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def overlay(name):
    return f"--config=configs/overlay/{name}.yaml"


def assert_same(first, second, tolerance=0.0):
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], atol=tolerance, rtol=tolerance, msg=name)


# ---- the loss scaler of 16-mixed


@pytest.mark.parametrize("options", [[], [overlay("displaced")]], ids=["circuit", "displaced"])
def test_a_step_that_the_scaler_skips_advances_nothing(tmp_path, options):
    saved = fit(tmp_path, *SCALED, *options, "--trainer.callbacks=tests.ranks.InfiniteGradient")
    (optimizer,) = saved["optimizer_states"]
    assert own_state(optimizer)["step"] == 2  # of 3 batches
    assert {float(state["step"]) for state in optimizer["state"].values()} == {2.0}
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())
    assert saved["Float16OnCpu"]["scale"] == 2.0**9


def test_a_run_with_a_loss_scaler_resumes_bit_for_bit_with_its_scale(tmp_path):
    callback = "--trainer.callbacks=tests.ranks.InfiniteGradient"
    options = [*SCALED, callback, NO_LOGS]
    straight = fit(tmp_path / "straight", *options, epochs=2)
    fit(tmp_path / "resumed", *options)
    resumed = fit(tmp_path / "resumed", *options, "--ckpt_path=last", epochs=2)
    assert_same(straight, resumed)
    assert straight["Float16OnCpu"] == resumed["Float16OnCpu"]
    assert straight["Float16OnCpu"]["scale"] == 2.0**9


# ---- accumulated gradients


def test_accumulated_batches_are_one_large_batch(tmp_path):
    options = ["--trainer.precision=64-true", "--model.dropout=0", NO_LOGS]
    whole = fit(tmp_path / "whole", *options, epochs=2)
    parts = fit(tmp_path / "parts", *options, overlay("accumulate"), epochs=2)
    assert whole["global_step"] == parts["global_step"] == 6
    assert_same(whole, parts, 1e-10)


# ---- torch.compile


class Graphs:
    """A backend of torch.compile that counts its graphs and runs them as they are."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("seqcls", [overlay("displaced"), NO_LOGS]),
        ("seqcls", [overlay("checkpoint_activations"), NO_LOGS]),
        ("seqcls_quantum_attention", [*SHALLOW, "--data.train_size=32"]),  # a step that its monitor watches
    ],
    ids=["displaced", "checkpoint_activations", "attention"],
)
def test_a_compiled_model_learns_what_the_uncompiled_one_does(tmp_path, model, options):
    torch._dynamo.reset()
    first = fit(tmp_path / "plain", *options, model=model)
    second = fit(tmp_path / "compiled", *options, "--model.compile={backend: eager}", model=model)
    assert_same(first, second, 1e-5)


def test_checkpoints_of_compiled_and_uncompiled_models_go_both_ways(tmp_path):
    torch._dynamo.reset()
    plain = [NO_LOGS, "--data.train_size=64"]
    compiled = [*plain, overlay("compile"), "--model.compile={backend: aot_eager}"]
    fit(tmp_path / "first", *plain)
    fit(tmp_path / "second", *compiled)
    first = fit(tmp_path / "first", *compiled, "--ckpt_path=last", epochs=2)
    second = fit(tmp_path / "second", *plain, "--ckpt_path=last", epochs=2)
    assert_same(first, second, 1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_compiled_in_whole_graphs_and_learns_the_same(tmp_path, model):
    torch._dynamo.reset()
    own = {"seqcls": [FEW_SHOTS], "seqcls_quantum_attention": SHALLOW}.get(model, [])
    options = [*SMALL, *TINY_ARGUMENTS, *own, "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path}"]
    options += [NO_LOGS]  # an attention monitor's statistics are no part of the graph
    learned = []
    for graphs in (None, Graphs()):
        trainer, module, data = build([f"configs/{model}.yaml"], options)
        if graphs is not None:
            module.compile_options = {"backend": graphs, "fullgraph": True}
        trainer.fit(module, datamodule=data)
        learned.append({"state_dict": module.state_dict()})
    assert 2 <= graphs.count <= 4  # training, evaluation, and perhaps either again with batches of any size
    assert not any("_orig_mod" in name for name in module.state_dict())
    assert_same(*learned, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS[1:])  # but for its linear head, that of seqcls is part of the first
def test_inductor_learns_what_the_uncompiled_model_does(tmp_path, model):
    torch._dynamo.reset()
    options = ["--trainer.precision=64-true", "--model.dropout=0"]
    first = fit(tmp_path / "plain", *options, model=model)
    second = fit(tmp_path / "compiled", *options, overlay("compile"), model=model)
    assert_same(first, second, 1e-8)


def test_averaged_weights_and_a_compiled_model(tmp_path):
    torch._dynamo.reset()
    options = [overlay("ema"), NO_LOGS]
    compiled = fit(tmp_path / "compiled", *options, "--model.compile={backend: eager}")
    assert_same(compiled, fit(tmp_path / "plain", *options), 1e-5)


# ---- activation checkpointing


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that were made within the block and are still there."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return result

    @property
    def bytes(self):
        return sum(size for storage, size in self.storages.values() if not storage.expired())


@pytest.mark.parametrize("attention", ["classical", "quantum"])
@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointed_activations_give_the_same_gradients_from_less_memory(attention, autocast):
    tokens = torch.randint(64, (16, 32))
    mask = torch.arange(32)[None] >= torch.randint(1, 33, (16, 1))
    gradients, kept = [], []
    for again in (False, True):
        torch.manual_seed(0)
        model = TransformerClassifier(64, 4, num_layers=6, attention=attention, checkpoint_activations=again)
        with Alive() as alive, torch.autocast("cpu", enabled=autocast, cache_enabled=False):
            loss = F.cross_entropy(model(tokens, mask), tokens[:, 0] % 4)
            kept.append(alive.bytes)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
    assert kept[1] < kept[0] / 4


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("seqcls", "32-true"),
        ("seqcls", "bf16-true"),
        ("seqcls_quantum_attention", "bf16-mixed"),
        ("seqcls_quantum_attention", "bf16-true"),
    ],
)
def test_checkpointed_activations_change_no_run(tmp_path, model, precision):
    options = [f"--trainer.precision={precision}", "--model.num_layers=2", NO_LOGS]
    plain = fit(tmp_path / "plain", *options, model=model)
    again = fit(tmp_path / "again", *options, overlay("checkpoint_activations"), model=model)
    assert_same(plain, again)


def test_evaluation_keeps_and_computes_nothing_twice():
    model = TransformerClassifier(64, 4, num_layers=1, checkpoint_activations=True)
    calls = []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(model.training))
    tokens = torch.zeros(2, 3, dtype=torch.long)
    model(tokens).sum().backward()
    model.eval()(tokens).sum().backward()
    with torch.no_grad():
        model.train()(tokens)
    assert calls == [True, True, False, True]


def test_activations_of_a_sampled_circuit_are_measured_once(tmp_path):
    small = [*SHALLOW, "--data.train_size=32", NO_LOGS]
    small += ["--model.attention.sampler=lightning_qsgd.quantum.ExactSampler"]
    plain, again = (
        fit(tmp_path / name, *small, *options, model="seqcls_quantum_attention")
        for name, options in (("plain", []), ("again", [overlay("checkpoint_activations")]))
    )
    assert_same(plain, again)
    circuits = [
        json.loads((tmp_path / name / "seqcls_quantum_attention" / "version_0" / "summary.json").read_text())[
            "circuits"
        ]
        for name in ("plain", "again")
    ]
    assert circuits[0] == circuits[1]


# ---- loading


def test_workers_change_no_bit(tmp_path):
    assert_same(*(fit(tmp_path / str(n), f"--data.num_workers={n}", NO_LOGS, epochs=2) for n in (0, 2)))


def test_workers_stay_for_all_epochs():
    for workers in (0, 2):
        data = SyntheticSequences(train_size=64, val_size=64, num_workers=workers)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert loader.persistent_workers is (workers > 0)
            assert loader.pin_memory is False  # no GPU


# ---- profiling, determinism, threads


def test_profiles_lie_in_the_run_folder(tmp_path):
    fit(tmp_path, overlay("profile"))
    report = (tmp_path / "seqcls" / "version_0" / "fit-seconds.txt").read_text()
    assert "FIT Profiler Report" in report
    assert "run_training_epoch" in report


def test_the_profiler_of_operations_writes_a_table_and_a_trace(tmp_path):
    profiler = "--trainer.profiler=lightning.pytorch.profilers.PyTorchProfiler"
    fit(tmp_path, profiler, "--trainer.profiler.filename=operations", "--data.train_size=32", NO_LOGS)
    folder = tmp_path / "seqcls" / "version_0"
    assert "aten::" in (folder / "fit-operations.txt").read_text()
    (trace,) = folder.glob("*.pt.trace.json")
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.parametrize("model", MODELS)
def test_deterministic_runs_work_with_each_model(tmp_path, monkeypatch, model):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset")
    modes = []

    def look(*_):
        modes.append(torch.are_deterministic_algorithms_enabled())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        fit(tmp_path, overlay("deterministic"), model=model)
    finally:
        handle.remove()
    assert modes
    assert all(modes)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # what a GPU needs too


@pytest.mark.parametrize(("threads", "expected"), [("2", 2), ("null", 3)])
def test_threads_are_set_or_left_alone(tmp_path, threads, expected):
    torch.set_num_threads(3)  # what a process starts with
    try:
        fit(tmp_path, f"--threads={threads}", "--data.train_size=32", NO_LOGS)
        summary = json.loads((tmp_path / "seqcls" / "version_0" / "summary.json").read_text())
        assert torch.get_num_threads() == summary["torch_threads"] == expected
    finally:
        torch.set_num_threads(1)
