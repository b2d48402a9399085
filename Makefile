# Two commands set everything up on a fresh machine: `make fit` and `make test`. Every target builds .venv itself when it is missing or outdated.
.DEFAULT_GOAL := help
PYTHON ?= python3
RUN := .venv/bin/python
# One thread per process: the models here are small, and busy processes with more threads slow each other down.
export OMP_NUM_THREADS ?= 1

PAPER := logs/compare$(if $(QUICK),/quick)
FEW := --root $(PAPER) --seeds.evaluation "[301, 302, 303]" --seeds.tuning "[101]"
QUICKLY := $(if $(QUICK),$(FEW))

# Installs the package with some extras into .venv. It shows large downloads and errors; all of pip's output is in .venv/install.log.
comma := ,
define install
	@echo "Installing lightning_qsgd[$(1)] into .venv; the first time this takes minutes"
	@rm -f $@
	@{ PYTHONUNBUFFERED=1 $(RUN) -m pip install --disable-pip-version-check --no-compile --progress-bar off -c constraints.txt -e '.[$(1)]' && touch $@; } 2>&1 | tee .venv/install.log | awk ' \
		/^Collecting /                     { packages++; if (packages % 25 == 0) print "  found " packages " packages" } \
		/\([0-9][0-9]+(\.[0-9]+)? MB\)/   { print "  " $$0 } \
		/^Installing collected packages/   { print "  unpacking " split($$0, names, ",") " packages" } \
		/^ *ERROR/                         { print } \
		{ fflush() }'
	@test -e $@ || { tail -n 20 .venv/install.log; exit 1; }
endef

.PHONY: help fit paper test test-slow test-gpu bench docs docs-serve lint format tensorboard clean

help: ## list the targets
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("lightning_qsgd needs Python 3.11 or newer; found %s. Try: make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(call install,dev)

.venv/.bench: .venv/.installed
	$(call install,dev$(comma)bench)

.venv/.docs: .venv/.installed
	$(call install,dev$(comma)docs)

.venv: .venv/.installed ## install the environment from pyproject.toml and constraints.txt

fit: .venv/.installed ## train the main job on generated data
	$(RUN) -m lightning_qsgd fit --config configs/seqcls.yaml

paper: .venv/.installed ## run the paper's experiment with controls, and write its report: 2 hours on 2 cores; QUICK=1: exploratory, with 3 seeds and little tuning
	$(RUN) -m lightning_qsgd compare --config configs/compare/seqcls.yaml $(QUICKLY)
	$(RUN) -m lightning_qsgd compare --config configs/compare/seqcls.yaml --config configs/compare/seqcls_cosine.yaml $(QUICKLY) $(if $(QUICK),--tuning.trials 3)
	$(RUN) -m lightning_qsgd report $(PAPER)/seqcls $(PAPER)/seqcls_cosine --output $(PAPER)/paper

test: .venv/.installed ## run the tests on all cores: 20 minutes on 2
	$(RUN) -m pytest -n logical --dist worksteal -m "not slow and not gpu and not hardware"

test-slow: .venv/.installed ## run tests with whole training runs, many processes and a browser
	$(RUN) -m pytest -n logical --dist worksteal -m "slow and not gpu and not hardware"

test-gpu: .venv/.installed ## run the tests that need a CUDA device
	$(RUN) -m pytest tests/gpu -m gpu

bench: .venv/.bench ## measure speed, as ratios side by side in one run
	$(RUN) scripts/benchmark.py
	$(RUN) scripts/benchmark_start.py
	$(RUN) scripts/benchmark_optimizer.py
	$(RUN) scripts/benchmark_circuits.py
	$(RUN) scripts/benchmark_attention.py
	$(RUN) scripts/benchmark_llm.py

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/.docs ## build the documentation in site/: open site/index.html, no network needed
	$(RUN) -m mkdocs build --strict

docs-serve: export NO_MKDOCS_2_WARNING = 1
docs-serve: .venv/.docs ## serve the documentation at http://localhost:8000, rebuilt at each change
	$(RUN) -m mkdocs serve

lint: .venv/.installed ## run ruff and pyright
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

format: .venv/.installed ## fix what ruff can fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

tensorboard: .venv/.installed ## open the runs in TensorBoard
	.venv/bin/tensorboard --logdir logs

clean: ## remove caches and the environment; logs and data stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist site
