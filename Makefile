# Everything runs in a virtual environment that these rules make. Nothing else is needed but Python 3.11 or later.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
# Another Python has an environment of its own. Where `python3` has become another one, the next use makes .venv anew.
VENV   := .venv$(if $(filter-out python3,$(PYTHON)),-$(VERSION))
BIN    := $(VENV)/bin
READY  := $(VENV)/installed-$(VERSION)
SUPPLY := .venv-supply
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_ARGS ?=
TEST_ARGS ?=
ROOM ?=
ONLY ?=
QUICK ?=
TIMES ?= 1

.PHONY: help demo test check prove mutants bench figures test-systemd test-image audit sbom lint install install-dev requirements docs clean

help:  ## Show what can be made
	@sed -n 's/^\([a-z-]*\):.*##/make \1 \t/p' Makefile

demo: install  ## Watch snaprotd work, on a simulated provider (DEMO_ARGS="--rounds 2" ends by itself)
	@$(BIN)/snaprotd demo $(DEMO_ARGS)

test: lint  ## Run lint, types, the import contracts and the tests, but for what `make prove` has (ROOM=engine: those of one room)
	$(BIN)/python -m pytest $(TEST_ARGS) $(ROOM:%=tests/%)

check: lint  ## In a minute: lint, types, the import contracts and the tests of one room (ROOM=core)
	$(BIN)/python -m pytest $(TEST_ARGS) tests/$(or $(ROOM),core)

prove: install-dev  ## Run the searches in their long form, and all cases of the long stories (TIMES=10: for hours)
	SNAPROTD_PROVE=yes SNAPROTD_PROVE_TIMES=$(TIMES) $(BIN)/python -m pytest -m "search or hypothesis" $(TEST_ARGS) $(ROOM:%=tests/%)

mutants: install-dev  ## Break the lines that promises rest on, one at a time: do the tests notice? (ONLY=power; minutes)
	$(BIN)/python -m tests.support.mutants "$(ONLY)"

bench: install-dev  ## Measure what snaprotd costs, in one table and half an hour (QUICK=1: in minutes; ONLY="ledger many")
	@QUICK=$(QUICK) $(BIN)/python -m bench $(ONLY)

figures: install-dev  ## Print the figures of the house: files and lines of each room, lengths of functions
	@$(BIN)/python -m tests.support.house_figures

test-systemd: install-dev  ## Try the unit in a booted systemd (root, mmdebstrap, systemd-nspawn; SUITE=bookworm)
	$(BIN)/python -m pytest -n 0 tests/deploy/booted_systemd.py

test-image: install  ## Build the image for real and try it (root, buildah, mmdebstrap)
	.ci/test-image

audit: $(SUPPLY)/installed  ## Look whether a known vulnerability is in what is installed
	.ci/audit $(SUPPLY)/bin/pip-audit requirements.txt

sbom: $(SUPPLY)/installed  ## Write dist/snaprotd.cdx.json: what the wheel and the image install, with licences (CycloneDX)
	rm -rf $(SUPPLY)/wheel && $(PYTHON) -m venv --without-pip $(SUPPLY)/wheel && mkdir -p dist
	$(SUPPLY)/bin/pip --disable-pip-version-check --quiet --python $(SUPPLY)/wheel/bin/python install --require-hashes -r requirements.txt
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --gather-license-texts --output-reproducible \
	  --output-file dist/snaprotd.cdx.json $(SUPPLY)/wheel/bin/python

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

requirements:  ## Pin the dependencies anew, with the hashes of what was found (needs uv)
	for extra in "" "-dev"; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header \
	    --extra postgresql $${extra:+--extra dev} pyproject.toml --output-file requirements$$extra.txt; \
	done
	printf 'pip-audit\ncyclonedx-bom\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-strip-extras --no-annotate --no-header - --output-file requirements-supply.txt

docs: install-dev  ## Write anew what is made from something else: reference tables, copies of the alert rules
	$(BIN)/python -m tests.support.reference_page
	$(BIN)/python -m tests.support.charts
	$(BIN)/python -m tests.support.notices

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

install: $(READY)

install-dev: $(READY)-dev

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("snaprotd needs Python 3.11 or later: set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-deps --editable .
	@touch $@

$(SUPPLY)/installed: requirements-supply.txt
	$(PYTHON) -m venv --clear $(SUPPLY)
	$(SUPPLY)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-supply.txt
	@touch $@

$(READY)-dev: $(READY) requirements-dev.txt
	$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@
