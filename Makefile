# make train:   set up, train point navigation, show the adaptation table and plots.
# make test:    set up, run the fast tests.
# make test-system: those of whole programs, searches, clusters, tutorials and packages, as .ci/run does, too.
# make figure4: Figure 4 of the paper: point navigation with every method, five seeds (SEEDS4). Interrupted runs are resumed.
# make figure5: Figure 5: the four locomotion families with MAML and three baselines, three seeds (SEEDS5); days.
# make metaworld: ML1, ML10 and ML45, three seeds (SEEDS5); days.
# make table1:  Table 1: Omniglot and MiniImagenet (SUPERVISED_MINIIMAGENET names its folder or zip file); days, or a GPU.
# make table2:  Table 2 and Figures 2, 3, 6, 7: sinusoids with MAML and six baselines; about an hour.
# make table3:  Table 3: Omniglot with a context vector.
# make results: the tables and figures of RESULTS.md and the documentation, from the files in results/.
# make docs:    the documentation, as pages in site/ that need no server.
# make dist:    wheel and source distribution in dist/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/point-nav-$(shell date +%Y%m%d-%H%M%S)
SEED ?= 0
# Of the paper's figures.
SEEDS4 ?= 0 1 2 3 4
SEEDS5 ?= 0 1 2

METHODS := maml first-order pretrained random oracle context-vector
LOCOMOTION := half-cheetah-vel half-cheetah-dir ant-vel ant-dir
METAWORLD := $(foreach p,ml1-reach ml1-push ml1-pick-place,$(p).maml) ml10.maml ml10.rl2 ml45.maml

OMNIGLOT := $(foreach p,5w1s 5w5s 5w1s-noconv 5w5s-noconv 20w1s 20w5s,omniglot-$(p).maml)
MINIIMAGENET := $(foreach m,maml first-order classifier,miniimagenet-1shot.$(m) miniimagenet-5shot.$(m))
SINUSOID := $(foreach m,maml pretrained oracle context-vector multi-task multi-task-l2 multi-task-l2-mean,sinusoid.$(m))
CONTEXT := $(foreach p,omniglot-5w1s omniglot-5w5s,$(p).maml $(p).context-vector)
# The folders of runs PRESET.METHOD $(1) with seeds $(2).
runs = $(foreach r,$(1),$(foreach s,$(2),runs/paper/$(r).seed$(s)))
# Shell commands of $(1) that train runs/paper/PRESET.METHOD.seedN, or go on with it.
trained = run=$(@D); seed=$${run\#\#*.seed}; name=$*; name=$${name%.seed*}; \
	if [ -e $$run/checkpoint.safetensors ]; then $(BIN)/$(1) train --resume $$run; \
	else rm -rf $$run; $(BIN)/$(1) train $${name%.*} --method $${name\#\#*.} --seed $$seed --output $$run; fi

.PHONY: train figure4 figure5 metaworld table1 table2 table3 results docs dist test test-system test-slow mutants audit lint format setup clean

train: setup
	$(BIN)/maml-rl train point-nav --seed $(SEED) --output $(RUN)
	$(BIN)/maml-rl evaluate $(RUN)
	$(BIN)/maml-rl plot $(RUN)

figure4: $(addsuffix /adaptation.json,$(call runs,$(METHODS:%=point-nav.%),$(SEEDS4))) results
	$(BIN)/maml-rl plot $(call runs,$(METHODS:%=point-nav.%),$(SEEDS4)) --output runs/paper/figure4

FIGURE5 = $(call runs,$(foreach p,$(LOCOMOTION),$(foreach m,maml pretrained random oracle,$(p).$(m))),$(SEEDS5))
figure5: $(addsuffix /adaptation.json,$(FIGURE5)) results
	$(BIN)/maml-rl plot $(FIGURE5) --output runs/paper/figure5

metaworld: $(addsuffix /adaptation.json,$(call runs,$(METAWORLD:%=metaworld-%),$(SEEDS5))) results

# runs/paper/PRESET.METHOD.seedN: trained, or gone on with, evaluated, and its result published.
runs/paper/%/adaptation.json: | setup
	$(call trained,maml-rl)
	$(BIN)/maml-rl evaluate $(@D) --publish $(if $(findstring metaworld,$*),$(if $(findstring rl2,$*),,--steps 1))

table1 table3: export SUPERVISED_OMNIGLOT ?= $(CURDIR)/data/omniglot
table1: $(addsuffix /evaluation.json,$(call runs,$(OMNIGLOT) $(MINIIMAGENET),$(SEED))) results
	$(BIN)/supervised table $(call runs,$(OMNIGLOT) $(MINIIMAGENET),$(SEED)) --output runs/paper/table1.csv

table2: $(addsuffix /evaluation.json,$(call runs,$(SINUSOID),$(SEED))) results
	for run in $(call runs,$(SINUSOID),$(SEED)); do $(BIN)/supervised plot $$run || exit 1; done
	$(BIN)/supervised compare $(call runs,$(SINUSOID),$(SEED)) --output runs/paper/figures3-6.png
	$(BIN)/supervised table $(call runs,$(SINUSOID),$(SEED)) --output runs/paper/table2.csv

table3: $(addsuffix /evaluation.json,$(call runs,$(CONTEXT),$(SEED))) results
	$(BIN)/supervised table $(call runs,$(CONTEXT),$(SEED)) --output runs/paper/table3.csv

# Trained, or gone on with, evaluated and published, as above.
runs/paper/%/evaluation.json: | setup
	case $* in omniglot*) [ -e $$SUPERVISED_OMNIGLOT ] || $(BIN)/supervised download omniglot $$SUPERVISED_OMNIGLOT;; esac
	$(call trained,supervised)
	$(BIN)/supervised evaluate $(@D) --publish

results: setup
	$(BIN)/python results/render.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: setup
	$(BIN)/python -m build --outdir dist

PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --durations 20

test: setup
	$(BIN)/pytest $(PARALLEL)

test-system: setup
	$(BIN)/pytest -m "system and not slow" $(PARALLEL)

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
	rm -rf $(VENV) mutants .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
