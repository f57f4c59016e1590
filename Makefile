# Everything a contributor runs. Each target makes what it needs; only Python 3.11 or newer is asked for.
PYTHON ?= python3
BIN := .venv/bin
PODMAN ?= $(shell command -v podman || command -v docker)
BASE_IMAGE ?= registry.access.redhat.com/ubi9/python-312-minimal:latest
IMAGE_PREFIX ?= localhost/
# What seals, what reads YAML and what speaks HTTP is compiled: the wheels are those of the images' Linux and Python,
# whatever this machine has.
IMAGE_PYTHONS ?= 3.11 3.12 3.13 3.14
IMAGE_ARCH ?= $(subst arm64,aarch64,$(shell uname -m))
IMAGE_PLATFORMS ?= manylinux_2_28_$(IMAGE_ARCH) manylinux_2_17_$(IMAGE_ARCH) manylinux2014_$(IMAGE_ARCH)
WHEELS ?= wheels

.PHONY: help demo test lint bench fuzz images wheels manifests clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

.venv/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is missing (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

demo: .venv/.done ## The whole story in ten seconds: 2 receivers, send, logs, scale to 5, send, logs
	@$(BIN)/fanout local demo

test: .venv/.done ## All tests, two at a time; those with containers or a nameserver say so where they cannot run
	@$(BIN)/python -m pytest --numprocesses 2 $(PYTEST_ARGS)

lint: .venv/.done ## Ruff, mypy --strict, and the contracts between the floors
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

bench: .venv/.done ## Measure, side by side: some ten minutes; as root it builds a laboratory of network namespaces
	@$(BIN)/python -m bench $(BENCH_ARGS)

fuzz: .venv/.done ## Fuzz everything that reads what strangers send, 49 million inputs: half an hour; FUZZ_ARGS="decode --inputs 100000"
	@$(BIN)/pip install --quiet --group fuzz
	@$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

wheels: .venv/.done ## fanout and what it needs, as a folder of wheels for the images
	@$(BIN)/pip wheel --quiet --wheel-dir $(WHEELS) .
	@for python in $(IMAGE_PYTHONS); do \
	  $(BIN)/pip download --quiet --dest $(WHEELS) --only-binary=:all: --python-version $$python \
	    $(IMAGE_PLATFORMS:%=--platform %) cryptography pyyaml aiohttp defusedxml || exit 1; \
	done

images: wheels ## Build the images of the sender, the receiver and the relay
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/sender/Containerfile -t $(IMAGE_PREFIX)fanout-sender:latest .
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/receiver/Containerfile -t $(IMAGE_PREFIX)fanout-receiver:latest .
	$(PODMAN) build --build-arg BASE_IMAGE=$(BASE_IMAGE) -f apps/relay/Containerfile -t $(IMAGE_PREFIX)fanout-relay:latest .

manifests: .venv/.done ## Render deployments/base and overlays from the Templates
	@$(BIN)/python deployments/render.py

clean: ## Remove what the targets made
	rm -rf .venv build dist wheels .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
