# Two commands do everything: `make demo` and `make test`. They need make and python3 >= 3.11, nothing else.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

# The job of `make demo SOURCE=folder RECIPE=small` goes to a folder of its own, so that jobs never mix.
SOURCE ?=
RECIPE ?= demo
# The first stage: `teacher` predicts pixels, `contrast` tells images apart.
FIRST ?= teacher
OUT ?= demo$(if $(SOURCE),-$(shell basename '$(SOURCE)' | tr ' ' '-'))$(if $(filter-out demo,$(RECIPE)),-$(RECIPE))$(if $(filter-out teacher,$(FIRST)),-$(FIRST))

# A strict editable install links the files that existed when it ran: a new or removed file means installing again,
# an edited one does not. This list is rewritten only when it changes, and the install depends on it.
FILES := $(VENV)/files.txt
LISTED := $(sort $(wildcard $(foreach stage,cache train evaluate,$(foreach depth,. */. */*/. */*/*/.,$(stage)/$(depth)/*.py $(stage)/$(depth)/templates/*)) evaluate/report/*.csv */py.typed))

.PHONY: help demo dist test test-slow fuzz lint types docs format install bench bench-faults gpu-check results results-gpu clean-demo FORCE

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "usjepa needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) can't make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }

$(FILES): FORCE | $(VENV)/bin/python
	@printf '%s\n' $(LISTED) > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(STAMP): pyproject.toml constraints.txt pipelines.yaml $(FILES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[dev,docs]' --config-settings editable_mode=strict
	@touch $@

install: $(STAMP) ## Make .venv with everything pinned in constraints.txt

demo: $(STAMP) ## Build, train and evaluate on the phantom, or on SOURCE=folder; RECIPE=small trains for longer; FIRST=contrast
	$(BIN)/usjepa-cache build '$(OUT)/store.zarr' --pipeline '$(RECIPE)' $(if $(SOURCE),--source '$(SOURCE)')
	$(BIN)/usjepa-train '$(OUT)/store.zarr' '$(OUT)/teacher' --pipeline '$(RECIPE)-$(FIRST)'
	$(BIN)/usjepa-cache build '$(OUT)/store.zarr' --pipeline '$(RECIPE)' $(if $(SOURCE),--source '$(SOURCE)') --teacher '$(OUT)/teacher'
	$(BIN)/usjepa-train '$(OUT)/store.zarr' '$(OUT)/run' --pipeline '$(RECIPE)'
	$(BIN)/usjepa-evaluate '$(OUT)/run' --task '$(OUT)/store.zarr' --pipeline '$(RECIPE)' --set cache.teacher.weights='$(OUT)/teacher' \
	  -o '$(OUT)/report'
	@echo; echo "Done. Open $(OUT)/report/index.html; $(OUT)/run holds model.safetensors for timm."

# Three at once on two cores, a file each: half of a test's time is a child process that starts or waits.
test: $(STAMP) ## Run the test suite
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Each long proof has a time limit of its own; faulthandler's would only print its stack halfway.
test-slow: $(STAMP) ## Run the long proofs
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=0

fuzz: $(STAMP) ## Give every parser 100,000 hostile inputs; INPUTS=n for another number
	$(BIN)/python -m fuzz --inputs $(or $(INPUTS),100000) --json benchmarks/results/fuzz.json

lint: $(STAMP) ## Lint, check the format, and check that imports run one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## Check types of the packages, tests, benchmarks and examples, strictly
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py docs/examples/*.py

# Material's notice about a future MkDocs is no warning about these pages.
docs: $(STAMP) ## Build the documentation into site/; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP) ## Format and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# DEVICE=cpu tries the command itself, with tiny parts.
gpu-check: $(STAMP) ## On a GPU: exactness, build, teacher, step, batch size, two ranks, within 12 minutes
	$(BIN)/python -m benchmarks.gpu --device $(or $(DEVICE),cuda) --minutes $(or $(MINUTES),12)

bench-faults: $(STAMP) ## Injure stores and runs, ours and others alike; count what is noticed
	$(BIN)/python -m benchmarks.faults

dist: $(STAMP) ## Build wheel and sdist of what is committed into dist/, check them, and use the wheel in an empty environment
	.ci/dist

# Peers need a virtual environment of their own; one that can't be installed is named by the benchmark.
PEERS_PYTHON ?= $(PYTHON)
PEERS := benchmarks/.venv

$(PEERS)/installed: benchmarks/requirements.txt
	$(PEERS_PYTHON) -m venv $(PEERS)
	-$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: mosaicml-streaming
	@grep -v '^#' $< | while read -r peer; do \
	  $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "$$peer" \
	    || echo "can't be installed here, left out: $$peer"; done
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .
	@touch $@

# SALT of stable-pretraining asks for a hundred packages: apart from the others, and from us.
STEP_PEERS := benchmarks/.venv-step

$(STEP_PEERS)/installed: benchmarks/requirements-step.txt
	$(PEERS_PYTHON) -m venv $(STEP_PEERS)
	$(STEP_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check . -r benchmarks/requirements-step.txt
	@touch $@

bench: $(STAMP) $(PEERS)/installed $(STEP_PEERS)/installed ## Run the benchmarks; results go to benchmarks/results
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	$(STEP_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	$(PEERS)/bin/python -m benchmarks.read
	$(BIN)/python -m benchmarks.write
	$(BIN)/python -m benchmarks.build
	$(BIN)/python -m benchmarks.masks --json benchmarks/results/masks.json
	$(BIN)/python -m benchmarks.phantom
	$(BIN)/python -m benchmarks.step
	$(STEP_PEERS)/bin/python -m benchmarks.step.peers
	$(BIN)/python -m benchmarks.evaluate
	$(BIN)/python -m benchmarks.plan
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.object_storage
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.growth

results: $(STAMP) ## Does it learn? Conditions of training, three seeds each, on the phantom; on SOURCE=folder three folds of patients
	$(BIN)/python -m benchmarks.learning --recipe '$(RECIPE)' $(if $(SOURCE),--source '$(SOURCE)') $(if $(findstring contrast,$(FIRST)),--first contrast)

results-gpu: $(STAMP) ## On a GPU: a contrastive teacher and two students of ViT-S/16 at 224, within MINUTES=10
	$(BIN)/python -m benchmarks.learning.budget --minutes $(or $(MINUTES),10) --recipe $(or $(RECIPE_GPU),gpu) $(if $(SOURCE),--source '$(SOURCE)')

clean-demo: ## Remove what `make demo` made
	rm -rf '$(OUT)'
