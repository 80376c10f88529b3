# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint format bench docs clean

demo: .venv/installed ## trains TESLA on scikit-learn's digits: table, plot and network in demo/
	$(BIN)/tapernet train --data digits --output demo/digits.safetensors

test: .venv/installed
	$(BIN)/pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix src tests benchmarks

bench: .venv/installed ## speed as ratios against a named peer; wants a quiet machine
	$(BIN)/python benchmarks/training.py

docs: .venv/installed ## the public API as text, from its docstrings
	$(BIN)/python -m pydoc tapernet

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints-cpu.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints-cpu.txt torch
	$(BIN)/pip install --quiet -c constraints-cpu.txt -e '.[dev]'
	touch $@
