# Two commands do everything on a fresh machine: `make repro` runs the study, `make test` checks the project.
PYTHON ?= python3
VENV := .venv
ORDER ?= 2596167925 # seed of the random order of tests: the same on every machine; `make test ORDER=1` takes another
INSTALLED := $(VENV)/.installed
BENCHMARKS := 'prepare.py 100' 'fit.py demo 8 1' 'quality.py 300' 'cells.py' 'tracking.py' 'generators.py demo 1' 'gpu.py --toy'
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE # containers set it, and each process would compile all files again

.DEFAULT_GOAL := help
.PHONY: help install repro test pytest test-fast lint style types bench docs ui experiments lock clean

help: ## Show these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Set up the environment in .venv; all other targets do this, too.

repro: $(INSTALLED) ## Set up, then run the study of the profile named in params.yaml, and say where the results are.
	@ecgforge repro

test: $(INSTALLED) style ## Set up, then lint, check types, and run all tests.
	@$(MAKE) --no-print-directory --jobs 2 types pytest

pytest: $(INSTALLED)
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder --randomly-seed=$(strip $(ORDER)) --durations 15 # one thread each; a third worker uses the time in which others wait

test-fast: $(INSTALLED) ## Run the tests that take no more than a moment each, in a minute or two; `make test` runs them all.
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder --randomly-seed=$(strip $(ORDER)) -m "not slow and not browser"

lint: style types ## Lint, formatting, the direction of imports, and types.

style: $(INSTALLED)
	ruff check .
	ruff format --check .
	lint-imports

types: $(INSTALLED)
	nice mypy # in the time in which tests wait

bench: $(INSTALLED) ## Measure core seconds against references, in ten minutes on two free cores.
	@for one in $(BENCHMARKS); do echo "== benchmarks/$$one"; OMP_NUM_THREADS=1 python benchmarks/$$one || exit 1; done

docs: $(INSTALLED) ## Build the documentation as a site in the folder site/; warnings are errors.
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

ui: $(INSTALLED) ## Open MLflow's UI on the study's runs and models.
	@ecgforge ui

experiments: $(INSTALLED) ## Show all experiments of DVC, with the gain on each dataset.
	@dvc exp show --no-pager --drop '.*' --keep 'Experiment|gain\.'

lock: ## Pin all packages again from pyproject.toml into requirements.txt; what torch alone needs for CUDA stays out.
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check ".[dev]"
	.lock/bin/pip freeze --all --exclude ecgforge | sed 's/+cpu$$//' | grep -viE '^(pip|nvidia|triton)' > requirements.txt
	rm -rf .lock

clean: ## Remove the environment; data, models and runs stay.
	rm -rf $(VENV)

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check --prefer-binary -r requirements.txt
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@python -m compileall -q src # or all processes of the first run compile them at once
	@touch $@
