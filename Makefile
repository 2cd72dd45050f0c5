# Everything a contributor or a pipeline calls. `make` alone lists the targets.
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHONS := platform benchmarks scenarios

# Without bytecode each of the processes that work together here compiles its imports anew: a second of CPU each, every time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-demo test-k8s test-servers image image-size check format lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1	\2/' | expand -t 22

setup: $(READY) ## make .venv with exactly what requirements.lock names

# uv installs the locked set in seconds where pip takes a minute; it lives in the environment it fills.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is `$(PYTHON) -V 2>&1`, aftershock needs 3.11 or newer" >&2; \
	    echo "hint: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)-tools || \
	  { echo "hint: install your system's venv package (python3-venv on Debian and Ubuntu)" >&2; exit 1; }
	@$(VENV)-tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(VENV)-tools/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@$(VENV)-tools/bin/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(VENV)-tools/bin/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## a local cluster, the shop, four experiments, one verdict table
	@$(BIN)/aftershock demo

test: $(READY) ## pass the tests
	$(BIN)/pytest -q --numprocesses=2 --dist=loadfile

test-demo: $(READY) ## run the demo as users do: whole, twice at once, as another user, interrupted, killed
	$(BIN)/pytest -q -m demo platform/tests/test_demo.py

test-k8s: $(READY) ## the same experiments on the Kubernetes cluster of KUBECONFIG (images from `make image` loaded there)
	$(BIN)/pytest -q -m k8s --durations=20 platform/tests/k8s

test-servers: $(READY) ## the graph on the Neo4j of NEO4J_URI, the model on the Ollama of OLLAMA_HOST
	$(BIN)/pytest -q -m servers platform/tests

image: ## the images for a real cluster: shop, database, runner (ARCHIVES=DIR writes them there as well)
	$(PYTHON) platform/images.py build $(if $(ARCHIVES),--archives $(ARCHIVES))

image-size: ## the shop's image beside the same app built in one stage
	$(PYTHON) platform/images.py size

check: $(READY) ## format, lint, types and the walls between packages
	$(BIN)/ruff format --check $(PYTHONS)
	$(BIN)/ruff check $(PYTHONS)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff format and fix
	$(BIN)/ruff format $(PYTHONS)
	$(BIN)/ruff check --fix $(PYTHONS)

lock: $(READY) ## write requirements.lock anew from pyproject.toml, and those of the images
	$(VENV)-tools/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --quiet --output-file requirements.lock
	for image in shop runner "postgres --no-deps"; do set -- $$image; \
	  $(VENV)-tools/bin/uv pip compile platform/$$1-requirements.in --constraint requirements.lock $$2 --universal --python-version 3.12 \
	    --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file platform/$$1-requirements.lock || exit 1; done

clean: ## remove what set-up and tools made
	rm -rf $(VENV) $(VENV)-tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
