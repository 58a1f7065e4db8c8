# `make venv` makes the environment, `make demo` the digits comparison, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Set to constraints.txt for the exact versions of the committed results.
CONSTRAINTS ?=

.PHONY: venv demo test lint bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1  /p' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## make the virtual environment (about 6 GB with the CUDA build of torch)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found: Python 3.11 to 3.13 is needed, say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) --editable '.[dev]'
	touch $@

demo: venv ## train SDDPM+, SDDPM and their ANN twin on 8x8 digits and print the table (5 minutes on 2 idle cores)
	$(BIN)/sddpm-bench run --suite demo --out runs/demo

test: venv ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: venv ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv ## measure speed and write this kind of processor into results/speed.md (10 minutes; QUICK=1 prints it in 2)
	$(BIN)/python -m pytest benchmarks --benchmark-only $(if $(QUICK),--quick)

clean: ## remove the environment and the runs
	rm -rf $(VENV) runs
