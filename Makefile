# Each target makes its own .venv and installs what it needs; nothing else is assumed but
# Python >= 3.11, and Node.js for the Azure server of the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := .cache
DEMO   ?= demo
EXTRAS ?= dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs soak clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed ## the main job on real files: record, measure, replay, prove parity, picture
	$(BIN)/tracekit demo -o $(DEMO) --overwrite

test: $(VENV)/.installed-dev $(CACHE)/.servers ## all tests but soak and benchmarks
	$(BIN)/python -m pytest -q

soak: $(VENV)/.installed-dev $(CACHE)/.servers ## the minutes-long tests
	$(BIN)/python -m pytest -q -m soak --timeout 1800

lint: $(VENV)/.installed-dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy tracekit

bench: $(VENV)/.installed-dev $(CACHE)/.servers ## every benchmark: tables on the terminal, CSV in analysis/benchmarks/results
	@for file in analysis/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.installed-dev ## docs/cli-reference.md, made anew from --help
	$(BIN)/python -m tracekit.cli.reference docs/cli-reference.md

clean: ## forget the environment and the demo
	rm -rf $(VENV) $(CACHE) $(DEMO)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed

# Debian packages and Azurite for the tests; where they cannot be had, the tests that need them say so.
$(CACHE)/.servers: .ci/servers
	@mkdir -p $(CACHE)
	bash .ci/servers $(CACHE)
	@touch $@
