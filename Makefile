# make train:   set up, train point navigation, show the adaptation table and plots.
# make test:    set up, run the fast tests.
# make figure4: Figure 4 of the paper: point navigation with every method. Interrupted runs are resumed.
# make figure5: Figure 5: the four locomotion families with MAML and three baselines; many hours.
# make table1:  Table 1: Omniglot and MiniImagenet (SUPERVISED_MINIIMAGENET names its folder or zip file); days, or a GPU.
# make table2:  Table 2 and Figures 2, 3, 6, 7: sinusoids with MAML and six baselines; about an hour.
# make table3:  Table 3: Omniglot with a context vector.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/point-nav-$(shell date +%Y%m%d-%H%M%S)
SEED ?= 0

METHODS := maml first-order pretrained random oracle context-vector
LOCOMOTION := half-cheetah-vel half-cheetah-dir ant-vel ant-dir

OMNIGLOT := omniglot-5w1s.maml omniglot-5w5s.maml omniglot-5w1s-noconv.maml omniglot-5w5s-noconv.maml \
	omniglot-20w1s.maml omniglot-20w5s.maml
MINIIMAGENET := $(foreach m,maml first-order classifier,miniimagenet-1shot.$(m) miniimagenet-5shot.$(m))
SINUSOID := $(foreach m,maml pretrained oracle context-vector multi-task multi-task-l2 multi-task-l2-mean,sinusoid.$(m))
CONTEXT := $(foreach p,omniglot-5w1s omniglot-5w5s,$(p).maml $(p).context-vector)
# Shell commands of $(1) that train runs/paper/PRESET.METHOD, or go on with it.
trained = run=$(@D); name=$*; \
	if [ -e $$run/checkpoint.safetensors ]; then $(BIN)/$(1) train --resume $$run; \
	else rm -rf $$run; $(BIN)/$(1) train $${name%.*} --method $${name##*.} --output $$run; fi

.PHONY: train figure4 figure5 table1 table2 table3 test test-slow mutants audit lint format setup clean

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
	$(call trained,maml-rl)
	$(BIN)/maml-rl evaluate $(@D)

table1 table3: export SUPERVISED_OMNIGLOT ?= $(CURDIR)/data/omniglot
table1: $(OMNIGLOT:%=runs/paper/%/evaluation.json) $(MINIIMAGENET:%=runs/paper/%/evaluation.json)
	$(BIN)/supervised table $(dir $^) --output runs/paper/table1.csv

table2: $(SINUSOID:%=runs/paper/%/evaluation.json)
	for run in $(dir $^); do $(BIN)/supervised plot $$run || exit 1; done
	$(BIN)/supervised compare $(dir $^) --output runs/paper/figures3-6.png
	$(BIN)/supervised table $(dir $^) --output runs/paper/table2.csv

table3: $(CONTEXT:%=runs/paper/%/evaluation.json)
	$(BIN)/supervised table $(dir $^) --output runs/paper/table3.csv

# Trained, or gone on with, and evaluated, as above.
runs/paper/%/evaluation.json: | setup
	case $* in omniglot*) [ -e $$SUPERVISED_OMNIGLOT ] || $(BIN)/supervised download omniglot $$SUPERVISED_OMNIGLOT;; esac
	$(call trained,supervised)
	$(BIN)/supervised evaluate $(@D)

test: setup
	$(BIN)/pytest --durations 40

test-slow: setup
	$(BIN)/pytest -m slow --timeout 0

# Planted mistakes, one at a time, in the mathematics: MUTANTS='maml_rl.learning.trpo.*' names a module (CONTRIBUTING.md).
mutants: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children $(or $(CHILDREN),1) $(MUTANTS)
	$(BIN)/mutmut results

# Known vulnerabilities of the pinned versions.
audit: setup
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

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
	rm -rf $(VENV) mutants .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
