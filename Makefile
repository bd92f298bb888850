# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-ray check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch alone is several gigabytes, a few minutes on a fresh machine"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

setup: $(INSTALLED) ## make the virtual environment

demo: setup ## train a real network on real images and watch its metrics live
	$(BIN)/python test_training_metrics.py

test: setup ## run the whole suite
	$(BIN)/python -m pytest -m 'not ray' -n logical --maxprocesses 4 --dist loadfile

test-ray: setup ## run the tests that start a Ray cluster of three nodes on this machine
	$(BIN)/python -m pytest -m ray tests/ray

check: setup ## lint, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets made; runs and data of the demo included
	rm -rf $(VENV) build demo state *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
