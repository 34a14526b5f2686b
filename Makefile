# make train: set up, train point navigation, show the adaptation table and plots.
# make test:  set up, run the fast tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/point-nav-$(shell date +%Y%m%d-%H%M%S)
SEED ?= 0

.PHONY: train test test-slow lint format setup clean

train: setup
	$(BIN)/maml-rl train point-nav --seed $(SEED) --output $(RUN)
	$(BIN)/maml-rl evaluate $(RUN)
	$(BIN)/maml-rl plot $(RUN)

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/installed

# Torch first and pinned: an unpinned resolve would fetch its newest build.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,metaworld]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
