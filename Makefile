# make demo: install, train on real digits, sample in 1000 to 3 steps, draw a page.   make test: install, run the tests.
# make docs: install, build the documentation as a site in site/, with no warning; then open site/index.html.
# make bench: install, measure speed and memory beside diffusers and others in under 15 minutes; leave the machine alone meanwhile.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test slow bench check docs format clean

demo: .venv/installed
	$(BIN)/leapstep demo --out demo --overwrite

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

bench: .venv/installed-bench
	$(BIN)/python benchmarks/speed.py --out bench

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs/site . site

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo bench site reference

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("leapstep needs Python >= 3.11; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[report]'
	touch $@

.venv/installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ .venv/installed

.venv/installed-docs: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@

.venv/installed-bench: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[bench]'
	touch $@ .venv/installed
