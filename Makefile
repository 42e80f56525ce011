# Two commands matter: `make sample` and `make test`. Each builds the environment first when it is missing.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV ?= .venv
EXTRAS ?= viz,cloud,grib,eval,test
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
STAMP := $(VENV)/.complete
BIN := $(VENV)/bin

.PHONY: help env sample test lint clean

help:
	@echo "make sample   an ensemble forecast with a figure: forecast_2024010100.nc"
	@echo "make test     layers, style, types and tests"
	@echo "make lint     the first three of these"
	@echo "make env      only the environment, in $(VENV)"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed (make PYTHON=…)" >&2; exit 2; }
	@PYTHON="$(PYTHON)" VENV="$(VENV)" EXTRAS="$(EXTRAS)" bash tools/environment.sh
	@touch $@

sample: $(STAMP)
	$(BIN)/gen sample --task forecast --init 2024-01-01

lint: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
