# Two commands matter: `make demo` runs the main job, `make test` passes the tests.
# Each makes .venv by itself; nothing else is needed but Python 3.11+ with venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-federation test-slow test-gpu test-docker test-netns lint types check cov clean

help:            ## show the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

setup: $(VENV)/.ready  ## make .venv with everything that tests need

demo: setup      ## flwr run: FedAvg on labeled sites alone, then denoise with unlabeled ones
	$(BIN)/python -m experiments.demo

test: setup      ## the tests that run everywhere, in minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not docker and not netns and not gpu and not federation"
	$(BIN)/python -m pytest -m "federation and not slow and not docker and not netns and not gpu"

test-slow: setup ## learning suites and long contracts
	$(BIN)/python -m pytest -m "slow"

test-gpu: setup  ## the same work on a CUDA device
	$(BIN)/python -m pytest -m gpu

test-docker: setup ## image and compose, with a Docker engine
	$(BIN)/python -m pytest -m docker

test-netns: setup ## several hosts in network namespaces, as root
	$(BIN)/python -m pytest -m netns

lint: setup      ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup     ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## what CI runs

cov: setup       ## tests with branch coverage
	$(BIN)/python -m pytest -m "not slow and not docker and not netns and not gpu" \
	  --cov --cov-report=term-missing:skip-covered

clean:           ## remove what the targets above made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
