# `make help` lists the targets. Everything runs in .venv, which `make install` fills
# from the pinned requirements; the other targets make it themselves when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run demo test fuzz check format bench bench-capacity soak clean openapi

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Trickle Relay needs Python 3.11 or newer as $(PYTHON); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "could not make $(VENV): install the venv module of $(PYTHON) (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

install: $(STAMP) ## make .venv with the pinned requirements

run: $(STAMP) ## start the relay on 0.0.0.0:8890
	@$(BIN)/python trickle_relay_service.py

demo: $(STAMP) ## see it move: trickle server, ComfyStream stand-in, relay, test pattern
	@$(BIN)/python -m demo

test: $(STAMP) ## the whole test suite, in three processes: much of it waits for media
	@$(BIN)/python -m pytest -q -n 3 --dist worksteal

fuzz: $(STAMP) ## what arrives from outside, for an hour or so: a hundred times the inputs of `make test`
	@HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q --timeout 0 tests/fuzz tests/integration/test_api_fuzz.py

check: $(STAMP) ## lint, types, format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## let ruff format and fix what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## added delay, loss and cost of one session
	@$(BIN)/python -m bench.latency

bench-capacity: $(STAMP) ## sessions that one core carries, their delay, loss and cost
	@$(BIN)/python -m bench.capacity

MINUTES ?= 60
soak: $(STAMP) ## sessions under random faults for MINUTES=60
	@$(BIN)/python -m bench.soak --minutes $(MINUTES)

openapi: $(STAMP) ## write docs/openapi.json again, after a route or a model has changed
	@$(BIN)/python trickle_relay_service.py --print-openapi > docs/openapi.json

clean: ## remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
