# make demo: install and run the comparison.  make test: install, lint, types, tests.
# Only Python 3.11 to 3.13, git and make are needed. Paths with spaces are fine.
SHELL := /bin/bash
PYTHON ?= python3
CONFIG ?= experiments/compare.toml
OUT ?= out/demo
MFD := .venv/bin/mfd
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo test lint slow clean

demo: .venv/installed
	$(MFD) compare "$(CONFIG)" --out "$(OUT)" --resume

test: lint
	.venv/bin/python -m pytest

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "mfd-flower needs Python 3.11 to 3.13, this is %d.%d; say make PYTHON=..." % v)'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv out
