# make demo: evaluate the bundled policy on LIBERO. make test: run the tests. Both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test setup system assets lint benchmark clean

demo: setup
	$(BIN)/python jobs/evaluate.py

test: setup-dev
	$(BIN)/python -m pytest

setup: system $(STAMP)
	$(BIN)/python -m rsd.envs.rendering

setup-dev: system $(VENV)/.installed-dev
	$(BIN)/python -m rsd.envs.rendering

# Distribution packages that pip cannot bring: a compiler for source packages, a renderer.
system:
	@./install-system-packages

$(STAMP): requirements.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip==26.0.1" "setuptools==80.9.0" wheel
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: $(STAMP) requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

assets: setup
	$(BIN)/python -m rsd.envs.assets

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup
	$(BIN)/python jobs/benchmark.py rollout
	$(BIN)/python jobs/benchmark.py decoding
	$(BIN)/python jobs/benchmark.py driver

clean:
	rm -rf $(VENV) results
