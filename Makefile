# The same few commands for people and for CI. `make` alone lists them.
# Everything runs in .venv, which the first command that needs it makes.

PYTHON ?= python3
# Installed first and by itself, so that no other package pulls a different build of it.
TORCH ?= torch==2.13.0
PY := .venv/bin/python
STAMP := .venv/.installed

# Processes that run the tests. Whatever starts Ray stays in one of them, and it begins with that.
WORKERS ?= 2
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all test-gpu bench check docs format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install everything (3 to 15 minutes, 2 GB)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: 3 to 15 minutes, as the network is. First PyTorch ($(TORCH)), the largest part."
	$(PY) -m pip install --disable-pip-version-check $(TORCH)
	@echo "Installing the rest: Ray, Transformers and what the tests need."
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[line,dev]"
	@touch $(STAMP)

demo: setup ## draw a folder of scenes, label it, show the masks
	$(PY) jobs/demo.py --output demo

test: setup ## run the tests (about 20 minutes on two cores)
	$(PYTEST) -m "not long"

test-all: setup ## run these and the long ones, which take minutes each
	$(PYTEST)

test-fast: setup ## run the tests that take seconds
	$(PYTEST) -m "not slow"

test-gpu: setup ## run the tests that need a GPU (two minutes on an H100)
	$(PYTEST) -n 0 tests/test_gpu.py

bench: setup ## measure the engine beside other ways, on this machine (two and a half hours; results go to out/bench)
	$(PY) -m tests.benchmarks --output out/bench

check: setup ## lint, types and import rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

docs: setup ## bring the README's tree and columns up to date
	$(PY) -m tests.readme_tree --write

format: setup ## put the code into its form
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## remove what the demo and the tools made
	rm -rf demo out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
