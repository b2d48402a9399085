"""Private names of libraries that the package needs, because nothing public does it: a change of theirs fails here.

The ceilings in pyproject.toml are raised only where these tests pass.
"""

import ast
import re
from pathlib import Path

import jsonargparse
import lightning as L
import pytest
import torch

import lightning_qsgd
from lightning_qsgd.parser import _option_of
from lightning_qsgd.scrubbing import chain
from tests.test_architecture import FILES

ROOT = Path(lightning_qsgd.__file__).parent
IMPORTED = {
    "jsonargparse._util.config_load_stack": "which file the parser is reading, for errors",
    "lightning.fabric.utilities.data._set_sampler_epoch": "restarts a loader in the middle of an epoch",
    "lightning.pytorch.loops.fetchers._PrefetchDataFetcher": "a look at the run before each fetch",
    "lightning.pytorch.strategies.launchers._MultiProcessingLauncher": "signals for the processes that train",
}
OF_THE_LOOPS = {
    "fit_loop": ("_combined_loader", "_data_fetcher", "_restarting"),
    "epoch_loop": ("_batches_that_stepped", "_results"),
}


def test_private_names_are_imported_from_lightning_and_jsonargparse_only_where_listed():
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and re.match(r"(lightning|jsonargparse)\b(?!_)", node.module or ""):
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                found |= {name for name in names if re.search(r"\._[a-z]|\._[A-Z]", name)}
    assert found == set(IMPORTED)


def test_the_loops_have_what_a_resumed_run_puts_right():
    fit_loop = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit_loop
    for loop, names in zip((fit_loop, fit_loop.epoch_loop), OF_THE_LOOPS.values(), strict=True):
        for name in names:
            assert hasattr(loop, name), f"{type(loop).__name__}.{name}"
    assert callable(fit_loop._should_accumulate)


def test_the_parser_has_what_errors_and_help_need():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=torch.nn.Module | None)
    option = parser._option_string_actions["--model"]  # all options: no public name lists them
    assert option._typehint == torch.nn.Module | None  # an option's type
    assert ", known subclasses: " in option.extra_help()  # what parser.py leaves out of the help
    with pytest.raises(jsonargparse.ArgumentError) as caught:
        parser.parse_args(["--model=nowhere.Model"])
    links = [link for link in chain(caught.value) if _option_of(link) is option]  # in the traceback of the error
    assert links
    parser.add_argument("--width", type=int, required=True)
    with pytest.raises(TypeError, match=r": width$"):  # names after a colon
        parser.validate(parser.parse_object({}, _skip_validation=True))
    with pytest.raises(KeyError):
        parser.validate(jsonargparse.Namespace(nothing=1))


def test_ceilings_are_set():
    text = (ROOT.parent / "pyproject.toml").read_text()
    assert re.search(r'"lightning>=2\.6,<2\.7"', text)
    assert re.search(r'"jsonargparse\[signatures\]>=4\.53,<5"', text)
