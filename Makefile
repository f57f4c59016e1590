# Everything a contributor runs. Each target makes what it needs; only Python 3.11 or newer is asked for.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Most tests wait more than they compute.
TESTS_AT_A_TIME ?= 4
RUNS ?= 10
PODMAN ?= $(shell command -v podman || command -v docker)
BASE_IMAGE ?= registry.access.redhat.com/ubi9/python-312-minimal:latest
IMAGE_PREFIX ?= localhost/
# What seals, what reads YAML and what speaks HTTP is compiled: the wheels are those of the images' Linux and Python,
# whatever this machine has.
IMAGE_PYTHONS ?= 3.11 3.12 3.13 3.14
IMAGE_ARCH ?= $(subst arm64,aarch64,$(shell uname -m))
IMAGE_PLATFORMS ?= manylinux_2_28_$(IMAGE_ARCH) manylinux_2_17_$(IMAGE_ARCH) manylinux2014_$(IMAGE_ARCH)
WHEELS ?= wheels

# Modules are compiled once, and not by each of the processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check fmt unit test soak lint bench fuzz images wheels manifests clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# An environment that was made in another folder, or by another Python than is asked for, is made anew.
ifneq ($(shell cat .venv/.fanout 2>/dev/null),$(CURDIR))
STALE := yes
endif
ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
STALE := yes
endif
endif
ifdef STALE
.PHONY: .venv/.fanout
endif

# fanout and what it needs to run; what tests and lint need, six times as much, is for those who want them.
.venv/.fanout: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Making a virtual environment in .venv"
	@$(PYTHON) -m venv $(if $(STALE),--clear) .venv
	@echo "Installing fanout and what it needs: some 20 packages, 50 MB"
	@$(PIP) install --editable .
	@echo "$(CURDIR)" >$@

.venv/.dev: .venv/.fanout
	@echo "Installing what tests and lint need: some 50 packages, 270 MB"
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --group dev
	@touch $@

demo: .venv/.fanout ## The whole story in ten seconds: 2 receivers, send, logs, scale to 5, send, logs
	@$(BIN)/fanout local demo
	@echo
	@echo 'Your turn, in this shell:'
	@echo '  . .venv/bin/activate                # puts fanout on the PATH'
	@echo '  fanout local up --detach            # a headless Service with receivers; `fanout local down` ends it'
	@echo '  fanout send -s headless-udp -m hi'
	@echo '  fanout --help'

fmt: .venv/.dev ## Format, and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

check: lint unit ## Lint and the tests of the pure parts: at each save

unit: .venv/.dev
	@$(BIN)/python -m pytest --quiet --numprocesses 2 tests/unit

# What runs the tests; `.ci/run` measures with it what they reach.
RUN_TESTS ?= $(BIN)/python -m pytest

test: .venv/.dev ## All tests that this machine can run; at the end it says which it could not, and why
	@$(RUN_TESTS) --numprocesses $(TESTS_AT_A_TIME) $(PYTEST_ARGS)

soak: .venv/.dev ## All tests again and again on a machine that is kept busy; RUNS=10
	@$(BIN)/python -m tests.soak --runs $(RUNS) $(PYTEST_ARGS)

lint: .venv/.dev ## Ruff, mypy --strict, the contracts between the floors, one class to a name, types for users
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python tools/unique_names.py fanout apps benchmarks tools
	@# It finds the environment by the Python on the PATH.
	@mkdir -p build
	@PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --ignoreexternal --verifytypes fanout >build/verifytypes 2>&1 || \
	  { cat build/verifytypes; exit 1; }

bench: .venv/.dev ## Measure, side by side: a quarter of an hour; as root it builds a laboratory of network namespaces
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

fuzz: .venv/.dev ## Fuzz everything that reads what strangers send, 49 million inputs: half an hour; FUZZ_ARGS="decode --inputs 100000"
	@$(PIP) install --group fuzz
	@$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)
	@$(if $(FUZZ_ARGS),,FANOUT_HYPOTHESIS=exhaustive $(BIN)/python -m pytest -m hypothesis --timeout 0 -n 2 tests/unit)

wheels: .venv/.fanout ## fanout and what it needs, as a folder of wheels for the images
	@$(PIP) wheel --wheel-dir $(WHEELS) .
	@for python in $(IMAGE_PYTHONS); do \
	  $(PIP) download --dest $(WHEELS) --only-binary=:all: --python-version $$python \
	    $(IMAGE_PLATFORMS:%=--platform %) cryptography pyyaml aiohttp defusedxml || exit 1; \
	done

images: wheels ## Build the images of the sender, the receiver and the relay
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/sender/Containerfile -t $(IMAGE_PREFIX)fanout-sender:latest .
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/receiver/Containerfile -t $(IMAGE_PREFIX)fanout-receiver:latest .
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/relay/Containerfile -t $(IMAGE_PREFIX)fanout-relay:latest .

manifests: .venv/.fanout ## Render deployments/base and overlays from the Templates
	@$(BIN)/python tools/manifests/render.py

clean: ## Remove what the targets made
	rm -rf .venv build dist wheels .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
