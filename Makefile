# make demo: install, train on real digits, sample in 1000 to 3 steps, draw a page.   make test: install, run the tests.
# make docs: install, build the documentation as a site in site/, with no warning; then open site/index.html.
# make notebooks: install, run the notebooks in examples/notebooks and keep their output in them.
# make package: build the wheel and the source distribution into dist/, and try them in an empty environment.
# make lowest: install the lowest versions of all libraries into .venv-lowest, and run a part of the tests with them.
# make bench: install, measure speed and memory beside diffusers and others in under 15 minutes; leave the machine alone meanwhile.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test slow lowest bench check docs notebooks package format clean

demo: .venv/installed
	$(BIN)/leapstep demo --out demo --overwrite

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lowest: .venv-lowest/installed  # old libraries warn of newer ones beneath them
	.venv-lowest/bin/python -m pytest -n 2 --override-ini filterwarnings=default \
		$(addprefix tests/,core networks files data models inference training diffusers/test_scheduler.py cli/test_cli.py cli/test_cli_sample.py)

bench: .venv/installed-bench
	$(BIN)/python benchmarks/speed.py --out bench

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: .venv/installed-dev
	$(BIN)/python examples/notebooks/execute.py

docs: .venv/installed-docs
	rm -rf site
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs/site . site
	$(BIN)/python docs/site/check.py site

package: .venv/installed-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m pytest -m package tests/test_package.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest demo bench site reference dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("leapstep needs Python >= 3.11; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[report]'
	touch $@

.venv/installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ .venv/installed

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

.venv/installed-docs: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@

.venv/installed-bench: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[bench]'
	touch $@ .venv/installed
