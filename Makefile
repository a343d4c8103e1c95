# The few tasks a person types. Everything else is configured in pyproject.toml.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: sandbox test lint bench fuzz fuzz-fhir crash soak clean

sandbox: $(VENV)/installed
	$(BIN)/direct-gateway sandbox

test: $(VENV)/installed-test
	tests/install.sh
	tests/interop/install.sh
	tests/clients/install.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/direct-gateway bench

fuzz: $(VENV)/installed-test
	tests/fuzz/run.sh

fuzz-fhir: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzz.fhir_requests 10000

# Breaks a served gateway at 240 places; a quarter of an hour.
crash: $(VENV)/installed-test
	tests/install.sh
	$(BIN)/python -m tests.helpers.gateway_sweep

# Ten minutes of mixed mail through a served gateway.
soak: $(VENV)/installed-test
	$(BIN)/python -m tests.helpers.soak

# Debian splits the venv module off Python: fetch it where it is missing.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); apt-get update -q && apt-get install -qy python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
