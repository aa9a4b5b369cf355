# Everything runs in .venv, which is made here; only Python 3.11+ with venv and pip is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow's start-up chatter, and a look for GPUs that the tests do not use.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-all test-backends test-distributed test-browser lint format docs bench clean

help:
	@echo "make demo      train, watch, diagnose and fold a small AlexNet (some minutes)"
	@echo "make test      run the tests (a few minutes)"
	@echo "make test-all  run the slow tests too"
	@echo "make test-backends      run the callbacks on JAX and PyTorch, in .venv-jax and .venv-torch"
	@echo "make test-distributed   run the monitor on several devices and processes"
	@echo "make test-browser  test the TensorBoard tab in Chromium"
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

# The other backends, each in an environment of its own without TensorFlow. On Linux "torch" may
# bring gigabytes for GPUs along; name the build that is at hand: make test-backends TORCH=torch
TORCH ?= torch==2.13.0
$(VENV)-%/done: pyproject.toml
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		$(if $(filter torch,$*),$(TORCH)) -e ".[$*]" pytest pytest-xdist
	@touch $@

demo: $(VENV)/demo
	$(BIN)/bnscope demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -n auto -m "not slow and not distributed"

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -n auto -m "not distributed"

# What runs on every backend: the files named test_backends*.py.
test-backends: $(VENV)-jax/done $(VENV)-torch/done
	KERAS_BACKEND=jax $(VENV)-jax/bin/python -m pytest -n auto -m "not slow" tests/test_backends*.py
	KERAS_BACKEND=torch $(VENV)-torch/bin/python -m pytest -m "not slow" tests/test_backends*.py

test-distributed: $(VENV)/dev $(VENV)-jax/done
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest tests/test_distributed.py
	KERAS_BACKEND=jax $(VENV)-jax/bin/python -m pytest tests/test_distributed.py

# Installs no browser, but says what is missing.
test-browser: $(VENV)/dev
	$(BIN)/python tests/browser/browser.py
	$(BIN)/python -m pytest tests/browser

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
	$(BIN)/python benchmarks/tab.py

clean:
	rm -rf $(VENV) $(VENV)-jax $(VENV)-torch .mypy_cache .ruff_cache .pytest_cache .hypothesis
