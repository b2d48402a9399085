"""Help pages of the commands. Below all levels: they are printed without importing torch."""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

#: Commands and their purposes.
COMMANDS = {
    "fit": "train a model; the run folder gets metrics, TensorBoard logs, checkpoints and a summary",
    "validate": "compute a checkpoint's metrics on the validation data",
    "test": "compute a checkpoint's metrics on the test data, with a table of classes and a confusion matrix",
    "predict": "write labels and probabilities of new data to predictions.csv",
    "calibrate": "measure a circuit on its backend once, to use it in many runs",
    "compare": "train many runs as one experiment: arms, classical twins, seeds, tuning",
    "report": "write statistics, verdicts and figures of comparisons to one page",
    "audit": "explain in classical terms what the quantum part of a run did",
    "doctor": "show versions, devices and backends of this installation, and run a self-test",
    "init": "create a project folder with configurations and a data module to start from",
}

_OVERVIEW = """\
usage: lightning-qsgd COMMAND [options]      (or python -m lightning_qsgd COMMAND)

Train, evaluate, compare and audit models with quantum layers and the optimizer Superpositional Gradient Descent.

commands:
{commands}

examples:
  lightning-qsgd fit --config configs/seqcls.yaml
  lightning-qsgd fit --config configs/seqcls.yaml --config configs/overlay/adamw.yaml --experiment adamw
  lightning-qsgd test --config configs/seqcls.yaml --ckpt_path best
  lightning-qsgd audit --config configs/seqcls.yaml
  lightning-qsgd compare --config configs/compare/seqcls.yaml --dry_run
  lightning-qsgd init my_project

Options of a command: lightning-qsgd COMMAND --help. Shipped configurations are found from any folder.
An error exits with code 2, and the last line says what is wrong; --debug adds the traceback.
"""

_SETTINGS = """\
  --trainer...            epochs, devices, precision, strategy, callbacks: Lightning's Trainer
  --model... --data...    options of the classes that the configuration names
  --checkpoint...         the metric that decides which checkpoint is the best
  --exact_resume...       how often a run saves last.ckpt
  --finite...             what to do about NaN and infinity
  --time_to_target...     the target of the summary's "epochs to"
  --monitor... --attention_monitor...   what to log about perturbation and quantum attention
  --run_monitor...        what to log about learning rate and cost
  --predictions...        the file that predict writes
  --replace_circuits TWIN a classical twin in place of each QuantumLayer: linear, mlp, product and others

more, after lightning-qsgd {command}:
  --help WORD                     settings with WORD in their names, such as precision; all: every setting
  --config FILE --print_config    print a configuration with all its values, as YAML to run
  --model.help CLASS              the options of a class, such as lightning_qsgd.tasks.SequenceClassification;
                                  also --data.help, --trainer.callbacks.help and others
"""

_FIT = f"""\
usage: lightning-qsgd fit --config FILE [--config OVERLAY] [--SETTING VALUE]

{{purpose}}

examples:
  lightning-qsgd fit --config configs/seqcls.yaml
  lightning-qsgd fit --config configs/seqcls.yaml --model.optimizer.init_args.quantum_weight 0.1
  lightning-qsgd fit --config configs/seqcls.yaml --config configs/overlay/adamw.yaml --experiment adamw
  lightning-qsgd fit --config configs/textcls.yaml --data.train_file data/train.csv
  lightning-qsgd fit --config configs/seqcls.yaml --trainer.max_epochs 20 --ckpt_path last

set most often:
  --config NAME               a file, or a shipped configuration: seqcls, textcls, overlay/adamw; later ones override
  --trainer.max_epochs N      number of epochs
  --trainer.accelerator cpu   device: cpu, gpu or auto (default); --trainer.devices N: how many
  --trainer.precision P       32-true, bf16-mixed and others
  --experiment NAME           the run folder is logs/NAME/version_N; --trainer.default_root_dir replaces logs
  --seed_everything N         initial weights, dropout, order of batches. Default: 0
  --ckpt_path last            resume a run from last, best, previous or a file; auto: from last if it exists
  --weights_from FILE         start a new run from the weights of a checkpoint
  --threads N                 number of torch's threads. Default: 1
  --model CLASS --data CLASS  use another model or data module, also from a file in this folder: my_data.MyData
  --model.optimizer CLASS     use another optimizer; --model.optimizer.init_args.lr: its learning rate

all groups:
{_SETTINGS}"""

_EVALUATE = f"""\
usage: lightning-qsgd {{command}} --config FILE --ckpt_path CHECKPOINT [--SETTING VALUE]

{{purpose}}

examples:
{{examples}}

required:
  --config FILE         the run's configuration; config.yaml in the run folder is the complete one
  --ckpt_path best      best, last or previous of the experiment's newest run, or a file

all groups:
{_SETTINGS}"""

_EXAMPLES = {
    "validate": """\
  lightning-qsgd validate --config configs/seqcls.yaml --ckpt_path best""",
    "test": """\
  lightning-qsgd test --config configs/seqcls.yaml --ckpt_path best
  lightning-qsgd test --config logs/seqcls/version_0/config.yaml --experiment seqcls --ckpt_path last""",
    "predict": """\
  lightning-qsgd predict --config configs/textcls.yaml --ckpt_path best --data.predict_file data/new.csv""",
}

_COMPARE = """\
usage: lightning-qsgd compare --config FILE [--config FILE] [--SETTING VALUE]

{purpose}
You can stop it at any time; run the same command again to keep finished runs and resume interrupted ones.

examples:
  lightning-qsgd compare --config configs/compare/seqcls.yaml --dry_run
  lightning-qsgd compare --config configs/compare/seqcls.yaml --workers 2
  lightning-qsgd compare --config configs/compare/seqcls.yaml --root logs/short --seeds.evaluation "[301, 302]"

{options}
settings of the comparison, usually in the file (configs/compare/seqcls.yaml explains them all):
  --name --base --arms --baseline     what to train; --root: the folder of all comparisons. Default: logs/compare
  --metric... --contrasts --claims --gatekeeper --targets --dose     what to judge
  --seeds... --tuning... --set --evaluation --test --short     how to judge it

more, after lightning-qsgd compare:
  --help WORD                     settings with WORD in their names, such as seeds; all: every setting
  --config FILE --print_config    print a specification with all its values
"""

_CALIBRATE = """\
usage: lightning-qsgd calibrate --config FILE --output FILE [--SETTING VALUE]

{purpose}
It measures the circuit of the configuration's perturbation, and tests the fit. --SETTING VALUE works as with fit.

examples:
  lightning-qsgd calibrate --config configs/seqcls.yaml --dry_run
  lightning-qsgd calibrate --config configs/seqcls.yaml --config configs/overlay/fake_manila.yaml -o data/manila.npz
  lightning-qsgd fit --config configs/seqcls.yaml --model.optimizer.perturbation.calibration data/manila.npz

{options}"""

_REPORT = """\
usage: lightning-qsgd report FOLDER [FOLDER] [--output FOLDER]

{purpose}
It writes report.html, report.md with its figures, and runs.csv. The comparison need not be finished.

examples:
  lightning-qsgd report logs/compare/seqcls
  lightning-qsgd report logs/compare/seqcls logs/compare/seqcls_cosine --output logs/report

{options}"""

_AUDIT = """\
usage: lightning-qsgd audit --config FILE [--config FILE] [--SETTING VALUE]

{purpose}
It trains as fit does, or replays checkpoints. It reports which share of the circuit's effect is constant, depends on
one angle, depends on several, or is noise, and which classical map has the same effect. --SETTING VALUE works as with
fit.

examples:
  lightning-qsgd audit --config configs/seqcls.yaml
  lightning-qsgd audit --config configs/seqcls.yaml --ckpt_path best
  lightning-qsgd audit --config configs/seqcls.yaml --compare

{options}"""

_DOCTOR = """\
usage: lightning-qsgd doctor

{purpose}
It takes no options, and never prints tokens.
"""

_INIT = """\
usage: lightning-qsgd init FOLDER [--kind KIND]

{purpose}
The folder must not exist. It gets a README with the commands, and by --kind:
  table, images, series, text   the configuration for such data, overlays that apply to it, and data to start from
  own (default)                 my_data.py (a data module to change), configs/my_data.yaml (a complete configuration
                                that uses it), and all other shipped configurations

example:
  lightning-qsgd init my_project --kind table
  cd my_project
  lightning-qsgd fit --config configs/table.yaml
"""


_PAGES = dict.fromkeys(_EXAMPLES, _EVALUATE) | {
    "fit": _FIT,
    "calibrate": _CALIBRATE,
    "compare": _COMPARE,
    "report": _REPORT,
    "audit": _AUDIT,
    "doctor": _DOCTOR,
    "init": _INIT,
}


def overview() -> str:
    """The first help page: all commands, one line each, with examples."""
    return _OVERVIEW.format(commands="\n".join(f"  {name:<11}{line}" for name, line in COMMANDS.items()))


def page(command: str) -> str | None:
    """The help page of a command; None for an unknown command."""
    if command not in COMMANDS:
        return None
    line = COMMANDS[command]
    purpose = f"{line[0].upper()}{line[1:]}."
    text, examples = _PAGES[command], _EXAMPLES.get(command, "")
    options = _options(command) if "{options}" in text else ""
    return text.format(command=command, purpose=purpose, examples=examples, options=options)


def add_options(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the options of calibrate, compare, report or audit to a parser. compare also has its specification's."""
    add = parser.add_argument
    if command == "calibrate":
        add("-o", "--output", type=Path, metavar="FILE", help="file to write, such as data/manila.npz")
        add("--dry_run", "--dry-run", action="store_true", help="print the plan and its QPU time, and stop")
        add("--held_out", type=int, default=64, metavar="N", help="number of points to test the fit on. Default: 64")
        add("--references", type=int, default=16, metavar="N", help="repeats of a point, to detect drift. Default: 16")
        add("--seed", type=int, default=0, metavar="N", help="seed of these points and of the order. Default: 0")
        limit = "age above which fit refuses the file. Default: 1 on hardware, otherwise no limit"
        add("--max_age_days", type=float, metavar="N", help=limit)
    elif command == "compare":
        add("--dry_run", "--dry-run", action="store_true", help="list the runs with their time and circuits, and stop")
        add("--workers", type=int, default=2, metavar="N", help="number of processes, with one thread each. Default: 2")
        address = "train on the workers of a Dask scheduler, such as tcp://127.0.0.1:8786"
        add("--scheduler", type=str, default=None, metavar="ADDRESS", help=address)
        add("--tuning_only", "--tuning-only", action="store_true", help="stop before the evaluation runs")
        again = "train failed runs again, but not diverged ones"
        add("--retry_failed", "--retry-failed", action="store_true", help=again)
    elif command == "report":
        add("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of a comparison; several share one page")
        add("-o", "--output", type=Path, metavar="FOLDER", help="folder to write to. Default: the first comparison's")
    else:
        assert command == "audit"
        checkpoint = "replay instead of training: a checkpoint (last, best or a file), or a folder of checkpoints"
        add("--ckpt_path", metavar="FILE", help=checkpoint)
        judged = "also train classical twins of perturbation and circuit layers, and judge whether the circuit helps"
        add("--compare", action="store_true", help=judged)
        add("--seeds", type=int, default=10, metavar="N", help="for --compare: number of seeds. Default: 10")
        margin = "for --compare: the smallest difference that matters. Default: 0.01"
        add("--margin", type=float, default=0.01, metavar="X", help=margin)
        add("--workers", type=int, default=2, metavar="N", help="for --compare: number of processes. Default: 2")
        add("-o", "--output", type=Path, metavar="FOLDER", help="folder to write to. Default: audit in the run folder")


def _options(command: str) -> str:
    """The options as argparse formats them."""
    layout = partial(argparse.HelpFormatter, max_help_position=32, width=118)
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False, formatter_class=layout)
    add_options(command, parser)
    return parser.format_help()


def asked(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """The help page that a command line asks for, or else the word after ``--help``; None for what is not given."""
    at = next((i for i, argument in enumerate(arguments) if argument in ("-h", "--help")), None)
    if at is None:
        return None, None
    if at == 0:
        return overview(), None
    if at + 1 < len(arguments) and not arguments[at + 1].startswith("-"):
        return None, arguments[at + 1]
    return page(arguments[0]), None


def select(text: str, word: str) -> str:
    """The entries of a parser's help for the settings with ``word`` in their names.

    Args:
        text: the parser's whole help.
        word: part of a name, case-insensitive; "all" for the whole text.

    Raises:
        ValueError: if no name contains the word.
    """
    if word == "all":
        return text
    entries = re.findall(r"^  -.*\n(?:   .*\n)*", text, re.MULTILINE)
    found = [entry for entry in entries if word.lower().lstrip("-") in re.split(r"\s{2,}", entry.strip())[0].lower()]
    if not found:
        raise ValueError(
            f"Invalid word after --help: {word!r}; no name of a setting contains it. Use --help all for all settings, "
            "and add --config FILE for those of a configuration's model, data and optimizer"
        )
    return "".join(found)
