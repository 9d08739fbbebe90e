# Two commands matter: `make demo` runs the main job, `make test` passes the tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RAW ?=
LAKE ?=
DOMAIN ?=
PLACE = $(if $(DOMAIN),--domain "$(DOMAIN)") $(if $(RAW),--raw "$(RAW)") $(if $(LAKE),--lake "$(LAKE)")
# No run of ours speaks to the cloud's metadata address or to telemetry.
export AWS_EC2_METADATA_DISABLED ?= true
export DAGSTER_DISABLE_TELEMETRY = yes

.PHONY: help setup demo ui test test-fast lint lock bench-feed bench-ingest bench-quality bench-features soak wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.ready  ## the virtual environment, from the lock

$(VENV)/.ready: requirements.lock pyproject.toml scripts/install_torch.py scripts/setup.sh
	@PYTHON=$(PYTHON) UV=$(UV) VENV=$(VENV) bash scripts/setup.sh
	@touch $@

demo: setup  ## raw files in, trained models out (DOMAIN=retail or power, RAW=<folder> for your own files, LAKE=<folder or s3://...>)
	@$(BIN)/python -m dagster_project.demo $(PLACE)

ui: setup  ## the Dagster UI on the same lake, at http://127.0.0.1:3000 (UI_PORT=, RAW=, LAKE=)
	@$(BIN)/python -m dagster_project.ui $(PLACE)

test: setup lint  ## format, lint, types, arrows between packages, then every test
	$(BIN)/python -m pytest

test-fast: setup  ## the tests that take less than a few seconds each
	$(BIN)/python -m pytest -m "not slow"

lint: setup  ## format, lint, types, arrows between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

lock: setup  ## resolve the dependencies anew into requirements.lock
	$(UV) pip compile pyproject.toml --quiet --universal --generate-hashes --upgrade \
	  --python-version 3.11 --extra dagster --extra s3 --extra images --extra prometheus --extra excel --extra media --extra databases --extra opentelemetry --extra quality --extra dev \
	  --no-header --output-file requirements.lock

bench-feed: setup  ## the feed beside the peers that are installed (docs/benchmarks.md; ARGS="--scale 0.1")
	$(BIN)/python -m benchmarks.feed $(ARGS)

bench-ingest: setup  ## ingest beside scripts by hand and dlt, where installed (docs/benchmarks.md)
	$(BIN)/python -m benchmarks.ingest $(ARGS)

bench-quality: setup  ## expectations beside polars by hand, Great Expectations and pandera (docs/benchmarks.md)
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-features: setup  ## joins and windows beside Feast, DuckDB and polars by hand (docs/benchmarks.md)
	$(BIN)/python -m benchmarks.features $(ARGS)

soak: setup  ## ingest killed 200 times at random and at every step, for each of two seeds (ARGS="--s3 s3://...")
	$(BIN)/python -m tests.ingest.storm $(ARGS)

wheel: setup  ## a wheel holding penstock alone, into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:  ## remove the environment, every cache, and data/ with the lakes, the sample and what you put there
	rm -rf $(VENV) .uv data dist build .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
