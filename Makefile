# Everything runs in .venv, which is made here; only Python 3.11+ with venv and pip is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow's start-up chatter, and a look for GPUs that the tests do not use.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-all lint format docs bench clean

help:
	@echo "make demo      train, watch, diagnose and fold a small AlexNet (about two minutes)"
	@echo "make test      run the tests (a few minutes)"
	@echo "make test-all  run the slow tests too"
	@echo "make lint      ruff and mypy"
	@echo "make format    let ruff format the code"
	@echo "make docs      write docs/rules from the rules"
	@echo "make bench     measure speed and memory, ratios side by side"
	@echo "make clean     remove .venv and caches"

$(VENV)/demo: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

$(VENV)/dev: $(VENV)/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/demo
	$(BIN)/bnscope demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/dev
	$(BIN)/python benchmarks/lint.py
	$(BIN)/python benchmarks/monitor.py
	$(BIN)/python benchmarks/fold.py
	$(BIN)/python benchmarks/recalibrate.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
