# One virtual environment in .venv, made on first use; constraints.txt makes it the same everywhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help install demo test lint bench calibration alignment-figures proto tables clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed  ## make .venv and install gradnoise with every extra and the development tools

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (once; the largest piece is PyTorch)" >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@# PyTorch first and by exact version: a range would let the installer choose a build with CUDA libraries.
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[all]' --group dev
	@touch $@

demo: install  ## train four small networks on real data and print the tails of their gradient noise
	@$(BIN)/gradnoise demo

test: install  ## the whole test suite
	$(BIN)/python -m pytest

lint: install  ## formatting, lint, types, import rules, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/make_proto.sh --check

bench: install  ## benchmarks, each printing ratios measured side by side in one run
	$(PIP) --group bench
	$(BIN)/python -m tests.benchmarks

calibration: install  ## simulations behind every error bar, p-value and verdict (an hour)
	$(BIN)/python -m tests.calibration

alignment-figures: install  ## make the tables and pictures of docs/alignment.md anew (ten minutes)
	$(PIP) --group bench
	$(BIN)/python -m tests.alignment.figures

proto: install  ## regenerate the protobuf code
	tools/make_proto.sh

tables: install  ## regenerate the numerical tables of the statistics (minutes)
	$(BIN)/python tools/make_stable_table.py
	$(BIN)/python tools/make_null_table.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
