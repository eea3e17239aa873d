# Everything works from a fresh clone with Python 3.11+ and make:  make demo,  make test.
#
# PYTHON=python3.12 make test   chooses the interpreter (default: the first of python3, python3.13, .12, .11 that is 3.11+).
# EXTRAS="dev cuda" make venv   adds optional dependencies of pyproject.toml.
# Without uv.lock (an offline mirror, say): python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && touch .venv/.dev

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
UV_VENV ?= .cache/uv
EXTRAS ?=
WORKERS ?= 2
DEMO_ARGS ?=
THEORY_ARGS ?=
PYTEST_ARGS ?=
export UV_LINK_MODE ?= copy

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
endif

BIN := $(VENV)/bin
UV := $(UV_VENV)/bin/uv
SOURCES := moejax kernels experiments configs tests notebooks

.PHONY: docs help demo demo-diffusion theory test test-slow lint format types notebooks lock wheel venv clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.run  ## trains a dense ViT, V-MoE, expert choice and Soft MoE on real images and writes the report
	$(BIN)/python experiments/demo.py $(DEMO_ARGS)

demo-diffusion: $(VENV)/.run  ## trains a DiT-MoE on photographs of garments, samples it and shows what its experts do
	$(BIN)/python experiments/demo_diffusion.py $(DEMO_ARGS)

theory: $(VENV)/.run  ## runs every study of estimation rates and writes runs/theory/theory_report.html
	$(BIN)/python experiments/theory.py --all --workdir runs/theory $(THEORY_ARGS)

test: $(VENV)/.dev  ## the quick tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" --durations=20 $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## the tests marked slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m slow --durations=40 $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## formatting and lint, as CI checks them
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: $(VENV)/.dev  ## formats, and fixes what lint can fix
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: $(VENV)/.dev  ## mypy
	$(BIN)/mypy

notebooks: $(VENV)/.dev  ## writes the .ipynb of every notebooks/*.py (jupytext pairs)
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

docs: $(UV)  ## the documentation site, in site/
	UV_PROJECT_ENVIRONMENT=.cache/docs $(UV) sync --frozen --quiet --python "$(PYTHON)" --extra docs
	PYTHONPATH=.:kernels .cache/docs/bin/python docs/write_reference.py
	NO_MKDOCS_2_WARNING=1 .cache/docs/bin/mkdocs build --quiet

lock: $(UV)  ## brings uv.lock up to date; the lock names the public index only
	$(UV) lock

wheel: $(UV)  ## dist/*.whl and the source archive
	$(UV) build --quiet

venv: $(VENV)/.dev  ## the development environment alone

clean:  ## removes environments, caches and built files; keeps runs and data
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once per change of the lock. `.dev` holds everything, `.run` what the demo needs.
$(VENV)/.dev: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --inexact --quiet --python "$(PYTHON)" --extra dev $(EXTRAS:%=--extra %)
	@touch $(VENV)/.dev $(VENV)/.run

$(VENV)/.run: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --inexact --quiet --python "$(PYTHON)" $(EXTRAS:%=--extra %)
	@touch $@

$(UV):
	@test -n "$(PYTHON)" || { echo "moejax needs Python 3.11 or newer; none of python3, python3.13, python3.12," \
		"python3.11 is. Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON) is not" \
		"Python 3.11 or newer (or cannot be run)." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(UV_VENV) || { echo "Cannot make a virtual environment with $(PYTHON);" \
		"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(UV_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.7"
