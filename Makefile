# make demo: install and run the comparison.  make test: lint, types and the quick tests, minutes.
# make test-all: the slow tests too, which start Flower's own engines.  make docs: out/docs.
# make sbom: what is installed, as CycloneDX, in out/sbom.json.
# make vit-small, make lite0: fetch a small foundation model (90 MB), or a CNN (19 MB), into the
# user's cache; nothing else needs them.
# Only Python 3.11 to 3.13, git and make are needed. Paths with spaces are fine.
SHELL := /bin/bash
PYTHON ?= python3
CONFIG ?= experiments/compare.toml
OUT ?= out/demo
JOBS ?= 2
SBOM ?= out/sbom.json
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-all lint docs sbom vit-small lite0 clean

demo: .venv/installed
	$(BIN)/mfd compare "$(CONFIG)" --out "$(OUT)" --resume

test: lint
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: test
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/lint-imports --no-cache --no-logo

docs: .venv/installed
	$(BIN)/mkdocs build --strict --quiet

sbom: .venv/installed
	mkdir -p "$(dir $(SBOM))"
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-file "$(SBOM)" $(BIN)/python

vit-small lite0: .venv/installed
	$(BIN)/python -m experiments.fetch_$(subst -,_,$@)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "mfd-flower needs Python 3.11 to 3.13, this is %d.%d; say make PYTHON=..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv out
