# Everything runs in .venv, which is made once and remade when pyproject.toml or constraints.txt change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-torch lint docs bench clean

demo: .venv/installed
	$(BIN)/python examples/quickstart.py

test: .venv/installed
	$(BIN)/python -m pytest

# All tests with another version of torch: make test-torch TORCH=2.14.1
TORCH ?= 2.14.1
test-torch: .venv-torch-$(TORCH)/installed
	.venv-torch-$(TORCH)/bin/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/basedpyright --pythonpath $(BIN)/python

# The pages of docs/ and the reference of all public names, as a site in out/site
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: .venv/installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-torch-* out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch .venv/installed

.venv-torch-$(TORCH)/installed: pyproject.toml
	$(PYTHON) -m venv .venv-torch-$(TORCH)
	.venv-torch-$(TORCH)/bin/pip install --quiet --disable-pip-version-check torch==$(TORCH) --editable ".[dev]"
	touch .venv-torch-$(TORCH)/installed
