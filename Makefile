# Each target makes its own .venv and installs what it needs. Required: Linux, make, and Python 3.11 or
# newer with venv; for the S3, Azure and browser tests also what .ci/servers installs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := .cache
DEMO   ?= demo
TESTS  ?= 2# processes that run tests side by side
EXTRAS ?= dev
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

# What `make quick` runs: no servers, browser, mypy or replays in recorded time; a tenth of the examples of each property.
QUICK := tests/project tests/units tests/uri tests/redaction tests/whole tests/gate tests/errors tests/options tests/store \
         tests/metrics tests/loader/test_loader_options.py tests/loader/test_loader_order.py tests/replayer/test_plan.py \
         tests/formats/test_rows.py tests/formats/test_csv.py --ignore tests/options/test_option_typing.py \
         --ignore tests/options/test_option_flags.py --ignore tests/store/test_target.py --ignore tests/store/test_footer.py \
         --ignore tests/store/test_memory.py

.DEFAULT_GOAL := help
.PHONY: help demo test quick soak lint bench docs site lock ci clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed ## record, measure, replay and compare on real files, and draw the result
	$(BIN)/tracekit demo -o $(DEMO) --overwrite

test: $(VENV)/.installed-dev $(CACHE)/.servers ## run all tests but the soak tests
	$(BIN)/python -m compileall -q tracekit
	$(BIN)/python -m pytest -q -n $(TESTS) --dist loadfile

quick: $(VENV)/.installed-dev ## run the tests that need no servers, in less than a minute
	$(BIN)/python -m pytest -q -m "not soak and not server" --hypothesis-profile=quick $(QUICK)

soak: $(VENV)/.installed-soak $(CACHE)/.servers ## run the tests that take minutes each; ONLY=NAME runs some (docs/reliability.md)
	$(BIN)/python -m pytest -q -m soak --timeout 1800 $(if $(ONLY),-k '$(ONLY)')

lint: $(VENV)/.installed-dev ## ruff, ruff format, mypy --strict on tracekit/, mypy on tests/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict tracekit
	$(BIN)/mypy --config-file tests/mypy.ini

bench: $(VENV)/.installed-dev $(CACHE)/.servers ## run every benchmark; CSV files go to analysis/benchmarks/results
	@for file in analysis/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.installed-dev ## regenerate the generated pages of docs/
	$(BIN)/python -m tracekit.cli.reference docs/cli-reference.md
	$(BIN)/python -m tracekit.formats.matrix docs/formats.md

site: $(VENV)/.installed-dev ## build the documentation site in .cache/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f .ci/mkdocs.yml

lock: $(VENV)/.installed-dev ## pin the whole closure with hashes in .ci/requirements.lock, and list its licences
	$(PIP) --target $(CACHE)/uv --upgrade uv
	$(CACHE)/uv/bin/uv pip compile pyproject.toml -q --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-annotate -c constraints.txt --custom-compile-command 'make lock' -o .ci/requirements.lock
	$(BIN)/python .ci/licences.py

ci: ## run what a push must pass
	.ci/run

clean: ## remove the environment, the caches and the demo
	rm -rf $(VENV) $(CACHE) $(DEMO)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[report,fast]'
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed

# Ray and the fuzzer, which only the soak tests use.
$(VENV)/.installed-soak: $(VENV)/.installed-dev
	$(PIP) -e '.[$(EXTRAS),scale]' atheris==3.0.0
	@touch $@

# Debian packages and Azurite for the tests. What cannot be installed is reported, and the tests that need it skip.
$(CACHE)/.servers: .ci/servers
	@mkdir -p $(CACHE)
	bash .ci/servers $(CACHE)
	@touch $@
