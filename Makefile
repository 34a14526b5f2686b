# make train:   set up, train point navigation, show the adaptation table and plots.
# make test:    set up, run the fast tests.
# make figure4: Figure 4 of the paper: point navigation with every method. Interrupted runs are resumed.
# make figure5: Figure 5: the four locomotion families with MAML and three baselines; many hours.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/point-nav-$(shell date +%Y%m%d-%H%M%S)
SEED ?= 0

METHODS := maml first-order pretrained random oracle context-vector
LOCOMOTION := half-cheetah-vel half-cheetah-dir ant-vel ant-dir

.PHONY: train figure4 figure5 test test-slow lint format setup clean

train: setup
	$(BIN)/maml-rl train point-nav --seed $(SEED) --output $(RUN)
	$(BIN)/maml-rl evaluate $(RUN)
	$(BIN)/maml-rl plot $(RUN)

figure4: $(METHODS:%=runs/paper/point-nav.%/adaptation.json)
	$(BIN)/maml-rl plot $(dir $^) --output runs/paper/figure4

figure5: $(foreach preset,$(LOCOMOTION),$(foreach m,maml pretrained random oracle,runs/paper/$(preset).$(m)/adaptation.json))
	$(BIN)/maml-rl plot $(dir $^) --output runs/paper/figure5

# runs/paper/PRESET.METHOD: trained, or gone on with, and evaluated.
runs/paper/%/adaptation.json: | setup
	run=$(@D); name=$*; \
	if [ -e $$run/checkpoints/latest ]; then $(BIN)/maml-rl train --resume $$run; \
	else rm -rf $$run; $(BIN)/maml-rl train $${name%.*} --method $${name##*.} --output $$run; fi
	$(BIN)/maml-rl evaluate $(@D)

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
