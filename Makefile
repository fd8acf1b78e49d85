# make install: .venv with everything;  make demo: the whole way on virtual subjects;  make test: all tests
# make test-slow: a whole benchmark of real trainings, some minutes
# make test-attack: kills, full disks, thousands of damaged files; half an hour
# make test-kernels: the CUDA sources on the CPU, every type, and under sanitizers
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow test-attack test-kernels lint clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/nnunet-synth demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

test-attack: install
	$(BIN)/python -m pytest tests/attack -m "attack or not attack"

test-kernels: install
	$(BIN)/python -m pytest -m kernels

lint: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/lint-imports

clean:
	rm -rf .venv demo
