import csv
import json
import os
import resource
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from lightning_qsgd.callbacks import PredictionWriter, TestReport
from lightning_qsgd.cli import main
from lightning_qsgd.datamodules import GSM8K, InstructionTuning
from lightning_qsgd.optim import SuperpositionalGradientDescent, perturbed_groups
from lightning_qsgd.tasks import CausalLanguageModeling
from tests.ranks import on_two_ranks
from tests.tiny_llm import ROWS, Rows, save_llm, save_rows

pytest.importorskip("transformers")
ADAMW = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.0)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm"))


def trainer_of(folder, epochs=1, callbacks=(), **options):
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    options = silent | {"enable_model_summary": False, "default_root_dir": folder} | options
    return L.Trainer(max_epochs=epochs, callbacks=list(callbacks), **options)


def loaded(llm, **options):
    module = CausalLanguageModeling(llm, **options)
    module.configure_model()
    return module


def plain_losses(model, data, row):
    """Cross-entropies of one row's tokens after the first, and which of them are the answer's: one by one."""
    question, answer = row
    prompt = data.tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
    tokens = prompt + data.tokenizer(f" {answer}")["input_ids"] + [data.tokenizer.eos_token_id]
    losses = []
    with torch.no_grad():
        for t in range(1, len(tokens)):
            logits = model(torch.tensor([tokens[:t]])).logits[0, -1]
            losses.append(-logits.float().log_softmax(-1)[tokens[t]].item())
    return losses, [t >= len(prompt) for t in range(1, len(tokens))]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_losses_are_those_of_a_plain_loop(llm, tmp_path):
    data, module = Rows(llm, size=5, batch_size=2), CausalLanguageModeling(llm, optimizer=partial(ADAMW, lr=0.0))
    trainer = trainer_of(tmp_path)
    trainer.fit(module, data)
    each = [plain_losses(module.model, data, row) for row in ROWS[:5]]
    full = [loss for losses, _ in each for loss in losses]
    answer = [loss for losses, marks in each for loss, mark in zip(losses, marks) if mark]
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val/loss"] == found["val/loss_full"] == pytest.approx(mean(full), rel=1e-5)
    assert found["val/loss_answer"] == pytest.approx(mean(answer), rel=1e-5)
    assert found["val/perplexity"] == pytest.approx(torch.tensor(mean(full)).exp().item(), rel=1e-5)
    batches = list(trainer.train_dataloader)
    steps = [[each[i] for i in batch["id"]] for batch in batches]
    by_step = [mean(loss for losses, _ in step for loss in losses) for step in steps]
    assert found["train/loss_epoch"] == found["train/loss_full"] == pytest.approx(mean(by_step), rel=1e-5)
    answers = [mean(x for losses, marks in step for x, mark in zip(losses, marks) if mark) for step in steps]
    assert found["train/loss_answer"] == pytest.approx(mean(answers), rel=1e-5)


def test_what_is_trained_on_is_the_answer_where_the_prompt_is_masked(llm, tmp_path):
    found = {}
    for masked in (False, True):
        module = CausalLanguageModeling(llm, optimizer=partial(ADAMW, lr=0.0))
        trainer = trainer_of(tmp_path)
        trainer.fit(module, Rows(llm, size=4, mask_prompt=masked))
        found[masked] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name in ("loss_full", "loss_answer"):
        assert found[True][f"train/{name}"] == pytest.approx(found[False][f"train/{name}"], rel=1e-6)
        assert found[True][f"val/{name}"] == pytest.approx(found[False][f"val/{name}"], rel=1e-6)
    assert found[True]["val/loss"] == found[True]["val/loss_answer"] != found[False]["val/loss"]
    assert found[True]["train/loss_epoch"] == found[True]["train/loss_answer"]


def gradients(module, batch):
    module.zero_grad()
    module._sums(batch)["loss"][0].backward()
    return [p.grad.clone() for p in module.parameters()]


def test_padding_changes_nothing_and_a_masked_prompt_has_no_gradient_of_its_own(llm):
    module, data = loaded(llm), Rows(llm)
    narrow, wide = data.batch([(0, ROWS[0])]), data.batch([(0, ROWS[0])], width=90)
    torch.testing.assert_close(gradients(module, wide), gradients(module, narrow))
    masked = Rows(llm, mask_prompt=True).batch([(0, ROWS[0])])
    logits = module(masked)[0, :-1]
    targets, answer = masked["tokens"][0, 1:], masked["answer_mask"][0, 1:]
    module.zero_grad()
    F.cross_entropy(logits[answer], targets[answer], reduction="sum").backward()
    expected = [p.grad.clone() for p in module.parameters()]
    torch.testing.assert_close(gradients(module, masked), expected)


def test_recomputed_layers_give_the_same_gradients(llm):
    batch = Rows(llm).batch(list(enumerate(ROWS[:3])))
    plain, saving = loaded(llm), loaded(llm, gradient_checkpointing=True)
    assert saving.model.is_activation_checkpointing
    torch.testing.assert_close(gradients(saving, batch), gradients(plain, batch), rtol=0, atol=0)


def test_accumulated_batches_are_one_step_of_their_mean(llm, tmp_path):
    weights = []
    for batch_size, window in ((1, 4), (4, 1)):
        module = CausalLanguageModeling(llm, optimizer=partial(torch.optim.SGD, lr=0.1))
        data = Rows(llm, size=4, batch_size=batch_size)
        data.rows = [ROWS[0]] * 4  # of one length: the mean of means is the mean
        trainer_of(tmp_path, accumulate_grad_batches=window).fit(module, data)
        weights.append([p.detach().clone() for p in module.parameters()])
    torch.testing.assert_close(*weights)


@pytest.fixture(scope="module")
def overfitted(llm, tmp_path_factory):
    """A model that knows two rows by heart, and its run folder."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    module = CausalLanguageModeling(llm, max_new_tokens=20, optimizer=ADAMW)
    trainer_of(folder, epochs=150, limit_val_batches=0).fit(module, Rows(llm, size=2, batch_size=2, mask_prompt=True))
    return module, folder


def test_exact_match_and_the_files_of_answers(llm, overfitted, tmp_path):
    module, _ = overfitted
    trainer = trainer_of(tmp_path, callbacks=[TestReport(), PredictionWriter("predictions.jsonl")])
    (metrics,) = trainer.test(module, Rows(llm, size=3, batch_size=2), verbose=False)
    assert metrics["test/exact_match"] == pytest.approx(2 / 3)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [True, True, False]
    assert rows[0] | {"generated": ""} == {
        "id": 0, "prompt": ROWS[0][0], "answer": ROWS[0][1], "reference": "0", "generated": "", "correct": True,
    }  # fmt: skip
    assert rows[1]["generated"].strip() == ROWS[1][1]  # and not a letter after the end token
    trainer.predict(module, Rows(llm, size=3, batch_size=2))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines == [{name: row[name] for name in ("id", "prompt", "generated")} for row in rows]
    trainer_of(tmp_path, callbacks=[PredictionWriter()]).predict(module, Rows(llm, size=3))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert [row["generated"] for row in csv.DictReader(file)] == [row["generated"] for row in rows]


def test_exact_match_of_gsm8k_is_that_of_the_same_rows(llm, overfitted, tmp_path):
    data = GSM8K(test_file=save_rows(tmp_path / "test.jsonl", ROWS[:3]), eval_batch_size=2)  # tokenizer: the model's
    (metrics,) = trainer_of(tmp_path).test(overfitted[0], data, verbose=False)
    assert metrics["test/exact_match"] == pytest.approx(2 / 3)
    (same,) = trainer_of(tmp_path).test(overfitted[0], Rows(llm, size=3, batch_size=2), verbose=False)
    assert metrics == same


def test_batches_generate_what_single_prompts_do(llm, overfitted):
    module, data = overfitted[0], Rows(llm)
    rows = [(0, ROWS[0]), (1, ("Why?", "-")), (2, ("What is the sum of " + "1 and " * 9 + "1?", "-"))]
    module.eval()
    assert module.generate(data.batch(rows)) == [module.generate(data.batch([row]))[0] for row in rows]


def test_the_saved_folder_is_the_trained_model(llm, overfitted, tmp_path):
    module, folder = overfitted
    again, batch = loaded(str(folder / "model")), Rows(str(folder / "model")).batch(list(enumerate(ROWS[:2])))
    torch.testing.assert_close(again(batch), module.train()(batch), rtol=0, atol=0)
    assert [path.name for path in folder.iterdir()] == ["model"]
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"Could not write .*model: .*; an earlier .* there is intact"):
            module.save_model(folder / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == before
    assert [path.name for path in folder.iterdir()] == ["model"]


def command(llm, root, *options):
    return [
        "--config=configs/gsm8k.yaml", "--config=configs/overlay/llm_cpu.yaml",
        "--config=configs/overlay/sine.yaml", "--model.max_new_tokens=3", f"--model.pretrained={llm}",
        "--data=tests.tiny_llm.Rows", f"--data.pretrained={llm}", f"--trainer.default_root_dir={root}", "--threads=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1", "--data.size=6", "--trainer.val_check_interval=0.5", *options,
    ]  # fmt: skip


def test_a_run_that_ended_within_its_epoch_goes_on_with_the_same_means(llm, tmp_path):
    folders = []
    for name, runs in (("straight", [[]]), ("stopped", [["--trainer.max_steps=4"], ["--ckpt_path=last"]])):
        for options in runs:
            main(["fit", *command(llm, tmp_path / name, *options)])
        folders.append(tmp_path / name / "gsm8k" / "version_0")
    states = [torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in folders]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    rows = []
    for folder in folders:
        with (folder / "metrics.csv").open(newline="") as file:
            rows.append([row for row in csv.DictReader(file) if row["train/loss_epoch"]])
    assert rows[0][-1] == rows[1][-1]
    summary = json.loads((folders[1] / "summary.json").read_text())
    for name in ("train/loss_epoch", "train/loss_full", "train/loss_answer"):
        assert summary[name] == pytest.approx(float(rows[0][-1][name]), abs=1e-6)

    main(["test", *command(llm, tmp_path / "straight", "--ckpt_path=best")])
    written = json.loads((folders[0] / "test.json").read_text())
    assert {"test/exact_match", "test/loss", "test/loss_full", "test/loss_answer", "test/perplexity"} <= set(written)
    assert len((folders[0] / "answers.jsonl").read_text().splitlines()) == 6
    best = torch.load(folders[0] / "checkpoints/best.ckpt", weights_only=True)
    assert "optimizer_states" not in best
    assert set(best["hyper_parameters"]) == {"dtype"}


def test_a_checkpoint_of_weights_only_says_where_to_resume_from(llm, tmp_path, capsys):
    main(["fit", *command(llm, tmp_path, "--trainer.max_steps=3", "--trainer.val_check_interval=3")])
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *command(llm, tmp_path, "--ckpt_path=best")])
    assert "holds only weights (checkpoint.save_weights_only)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions_keep_the_frequencies_and_train(llm, tmp_path, precision):
    module = CausalLanguageModeling(llm, optimizer=ADAMW)
    trainer = trainer_of(tmp_path, epochs=3, precision=precision)
    trainer.fit(module, Rows(llm, size=4, batch_size=2))
    dtype = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {p.dtype for p in module.parameters()} == {dtype}
    frequencies = module.model.model.rotary_emb.inv_freq
    expected = loaded(llm).model.model.rotary_emb.inv_freq
    torch.testing.assert_close(frequencies.float(), expected, rtol=0, atol=0)
    assert trainer.callback_metrics["val/loss"] < 5.5  # log(320) = 5.77 at first
    assert trainer.callback_metrics["train/loss_epoch"].dtype == torch.promote_types(dtype, torch.float32)


def test_bfloat16_weights_are_an_option_but_not_in_mixed_precision(llm, tmp_path):
    module = CausalLanguageModeling(llm, dtype="bfloat16", optimizer=ADAMW)
    with pytest.raises(ValueError, match=r"Invalid dtype: 'bfloat16'; with trainer.precision bf16-mixed weights stay"):
        trainer_of(tmp_path, precision="bf16-mixed").fit(module, Rows(llm))
    trainer_of(tmp_path).fit(module, Rows(llm, size=2))
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"Invalid dtype: 'float16'; it must be float32 or bfloat16 \(float16 weights"):
        CausalLanguageModeling(llm, dtype="float16")
    with pytest.raises(ValueError, match="Invalid max_new_tokens: 0; it must be at least 1"):
        CausalLanguageModeling(llm, max_new_tokens=0)


def test_what_is_perturbed_is_a_choice_and_shared_weights_count_once(llm):
    module = loaded(llm, leave_out=["norms"], perturb="layers.1", optimizer=SuperpositionalGradientDescent)
    chosen, others = (group["params"] for group in module.configure_optimizers().param_groups)
    names = {id(p): name for name, p in module.named_parameters()}
    assert chosen
    assert all("layers.1." in names[id(p)] and "norm" not in names[id(p)] for p in chosen)
    assert len({*chosen, *others}) == len(chosen) + len(others) == len(list(module.parameters()))
    assert module.model.lm_head.weight is module.model.model.embed_tokens.weight
    (group,) = perturbed_groups(module, ())
    assert len(group["params"]) == len(list(module.parameters()))


def test_folders_that_are_no_language_model_are_refused_with_a_way_out(llm, tmp_path):
    from transformers import BertConfig, BertModel

    with pytest.raises(Exception, match=f"{tmp_path}/nowhere"):
        loaded(str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="some-owner/some-model"):
        loaded("some-owner/some-model")  # there is no network here
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"Invalid pretrained: '.*bert' holds no causal language model: it lacks"):
        loaded(str(tmp_path / "bert"))


def two_ranks(llm, folder, strategy):
    torch.manual_seed(0)
    module = CausalLanguageModeling(llm, max_new_tokens=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = trainer_of(folder, devices=2, strategy=strategy, use_distributed_sampler=False)
    trainer.fit(module, Rows(llm, size=6))
    losses = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "train/loss"}
    (tests,) = trainer.test(module, Rows(llm, size=6), verbose=False)
    return losses | tests


def fsdp(llm, folder):
    from lightning.pytorch.strategies import ModelParallelStrategy

    return two_ranks(llm, folder, ModelParallelStrategy(2, 1, save_distributed_checkpoint=False))


@pytest.mark.filterwarnings("ignore:.*column 'prompt' is empty")
def test_empty_prompts_get_no_answer_and_the_rest_is_predicted(llm, tmp_path):
    file = tmp_path / "new.jsonl"
    file.write_text('{"prompt": ""}\n{"prompt": "What is 1 plus 2?"}\n{"prompt": null}\n')
    module = CausalLanguageModeling(llm, max_new_tokens=2)
    data = InstructionTuning(predict_file=str(file))
    trainer_of(tmp_path, callbacks=[PredictionWriter("all.jsonl")]).predict(module, data)
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert lines[0] == {"id": 0, "prompt": "", "generated": None}
    assert lines[2] == {"id": 2, "prompt": "", "generated": None}
    file.write_text('{"prompt": "What is 1 plus 2?"}\n')
    alone = InstructionTuning(predict_file=str(file))
    trainer_of(tmp_path, callbacks=[PredictionWriter("one.jsonl")]).predict(module, alone)
    assert json.loads((tmp_path / "one.jsonl").read_text())["generated"] == lines[1]["generated"]


@pytest.mark.slow
@pytest.mark.parametrize("run", [partial(two_ranks, strategy="ddp"), fsdp], ids=["ddp", "fsdp2"])
def test_two_ranks_are_one_process_with_batches_of_two(llm, tmp_path, run):
    first, second = on_two_ranks(run, tmp_path, llm, str(tmp_path))
    assert first == second
    single = CausalLanguageModeling(llm, max_new_tokens=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = trainer_of(tmp_path / "one", accumulate_grad_batches=2)
    data = Rows(llm, size=6)
    trainer.fit(single, data)
    for name in ("val/loss", "train/loss_epoch", "train/loss_answer"):
        assert first[name] == pytest.approx(trainer.callback_metrics[name].item(), rel=1e-4), name
    saved = loaded(str(tmp_path / "model"))
    for a, b in zip(saved.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_a_real_model_learns_and_answers(tmp_path):
    folder = os.environ.get("LIGHTNING_QSGD_LLM")
    if not folder:
        pytest.skip("set LIGHTNING_QSGD_LLM to the folder of a pretrained causal language model, such as SmolLM2-135M")
    module = CausalLanguageModeling(
        folder, max_new_tokens=8, save_pretrained=False, optimizer=partial(SuperpositionalGradientDescent, lr=2e-5)
    )
    data = Rows(folder, size=10)
    trainer = trainer_of(tmp_path, epochs=1, precision="bf16-mixed", limit_val_batches=0)
    first = loaded(folder)
    with torch.no_grad():
        sums = first._sums(data.batch(list(enumerate(ROWS[:10]))))
    before = {name: (total / count).item() for name, (total, count) in sums.items()}
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/loss_epoch"] < before["loss"]
    (metrics,) = trainer.test(module, Rows(folder, size=2, batch_size=2), verbose=False)
    assert metrics["test/loss_full"] < before["loss_full"]
    assert 0 <= metrics["test/exact_match"] <= 1
    assert Path(tmp_path / "model").exists() is False
