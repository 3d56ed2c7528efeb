# make demo: evaluate the bundled policy on LIBERO. make test: run the tests. make pipeline: collect,
# train and evaluate a small policy. All set up first.
PYTHON ?= $(shell VENV="$(VENV)" ./install-system-packages --python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The chain that made the policy `spatial`, with a twentieth of its demonstrations and of the target's
# steps.
PIPELINE := results/pipeline
PIPELINE_COLLECT := --suite libero_spatial --demos 2 --noise 0.25 --assets lite
PIPELINE_TRAIN := --train.steps 200 --train.draft-steps 600 --train.warmup 20 --train.average 0.98
PIPELINE_EVALUATE := --num-trials 2 --arms expert autoregressive speculative parallel --assets lite

.PHONY: demo test pipeline setup setup-dev foreign system assets lint benchmark clean

demo: setup
	$(BIN)/rsd evaluate

# In two processes: tests/conftest.py says which test goes to which.
test: setup-dev
	$(BIN)/python -m pytest -n 2

# Anew each time; every step names its folder, so that one can be repeated by hand.
pipeline: setup
	rm -rf $(PIPELINE)
	$(BIN)/rsd collect $(PIPELINE_COLLECT) --output $(PIPELINE)/data
	$(BIN)/rsd train --data $(PIPELINE)/data --output $(PIPELINE)/policy $(PIPELINE_TRAIN)
	$(BIN)/rsd evaluate --policy $(PIPELINE)/policy --output $(PIPELINE)/run \
	    $(PIPELINE_EVALUATE)

setup: system $(STAMP)
	@$(BIN)/python -m rsd.envs.rendering

setup-dev: system $(VENV)/.installed-dev
	@$(BIN)/python -m rsd.envs.rendering

# What pip cannot bring: Python 3.11 to 3.13, a compiler for source packages, a renderer.
system:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" ./install-system-packages

# CMake 4 refuses the source packages below otherwise; a virtual environment without pip is one that
# was interrupted while it was made. Source packages are built by pinned tools, too.
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
BUILT := --build-constraint "$(CURDIR)/constraints.txt"

$(STAMP): export CMAKE_POLICY_VERSION_MINIMUM := 3.5
$(STAMP): requirements.txt constraints.txt pyproject.toml | system
	@echo "installing into $(VENV): some minutes"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(INSTALL) --upgrade pip setuptools wheel
	@$(INSTALL) $(BUILT) -r requirements.txt
	@$(INSTALL) $(BUILT) --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(STAMP) requirements-dev.txt requirements-remote.txt requirements-onnx.txt
	@$(INSTALL) $(BUILT) -r requirements-dev.txt -r requirements-remote.txt -r requirements-onnx.txt
	@touch $@

# Software of others that tests talk to, each in an environment of its own. What cannot be had is
# left out, and its tests say so.
foreign: .foreign/openpi_client/.installed .foreign/vla_eval/.installed \
    .foreign/json_numpy/.installed $(VENV)/.installed-log

# Experiment trackers, which are called in the same process.
$(VENV)/.installed-log: $(STAMP) requirements-log.txt
	-@$(INSTALL) $(BUILT) -r requirements-log.txt && touch $@

.foreign/%/.installed: tests/remote/foreign/%.txt
	-@"$(PYTHON)" -m venv --clear .foreign/$* && \
	    .foreign/$*/bin/python -m pip install --quiet --no-deps -r $< && touch $@ || \
	    rm -rf .foreign/$*

assets: setup
	$(BIN)/python -m rsd.envs.assets

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup
	$(BIN)/rsd benchmark rollout
	$(BIN)/rsd benchmark decoding
	$(BIN)/rsd benchmark driver

clean:
	rm -rf $(VENV) .foreign
