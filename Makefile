# `make help` lists the targets. Each installs what it needs on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo up test check audit fuzz parity bench load chaos kills guarantees same outside migration lock clean
# Variables of the caller's shell must not affect the environment's Python.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

BIN := .venv/bin
# The first Python of 3.11 to 3.13 that can create virtual environments; PYTHON=... chooses another.
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  command -v $$p >/dev/null && $$p -I -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	    && exec $$p -I .ci/setup.py $(1); \
	done; \
	echo "No Python 3.11, 3.12 or 3.13 with venv found (Debian, Ubuntu: apt install python3-venv). PYTHON=/path/to/python3.11 names one." >&2; exit 1
ARGS ?=

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: ## create .venv with everything needed to run (instant when nothing changed)
	@$(call FIND_PYTHON,demo)

setup-dev:
	@$(call FIND_PYTHON,dev)

demo: setup ## train on real prices and run a study of 20 trials through the whole service, with metrics and a comparison
	@$(BIN)/python -m client.demo $(ARGS)

up: setup ## start API, worker and embedded servers; Ctrl-C stops them (ARGS="--port 9000")
	@$(BIN)/atft up $(ARGS)

test: setup-dev ## run all tests (ARGS="-k name" selects)
	@$(BIN)/python -m pytest -q -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup-dev ## lint, security, types, import contracts, generated code, file lengths, deployment files, JavaScript
	@$(BIN)/ruff check --quiet .
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml api atft client jobs migrations worker
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m client.sdk.generate --check
	@$(BIN)/python -m pytest -q -n0 tests/architecture
	@tests/web/check.sh

parity: setup-dev ## compare our numbers with the reference libraries, each in its own environment under var/parity
	@tests/parity/setup.sh
	@$(BIN)/python -m pytest -q -n0 tests/parity $(ARGS)

audit: setup-dev ## check the packages of constraints.txt for known vulnerabilities (needs the network)
	@$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip $(ARGS)

fuzz: setup-dev ## fuzz every operation, with and without a key (ARGS="--minutes 15 --least 10000")
	@$(BIN)/python -m tests.fuzz $(ARGS)

outside: setup-dev ## submit a job with a generated OpenAPI client and read our event files with TensorBoard
	@$(BIN)/python -m tests.outside

bench: setup-dev ## run the benchmarks (dated JSON under benchmarks/)
	@found=$$(ls benchmarks/bench_*.py 2>/dev/null); [ -n "$$found" ] || { echo "no benchmarks yet"; exit 1; }; \
	for file in $$found; do $(BIN)/python $$file $(ARGS) || exit 1; done

load: setup-dev ## measure the API under load beside MLflow's server on the same Postgres (ARGS="--rounds 1 --only submit")
	@$(BIN)/python benchmarks/load.py $(ARGS)

BEFORE ?= ../before
same: setup-dev ## whether another checkout, with its own .venv, gives bit-equal results (BEFORE=/path/to/it)
	@$(BIN)/python -m tests.same --before $(BEFORE) $(ARGS)

MINUTES ?= 2
chaos: setup-dev ## mixed work while every process is killed, then a check of every row and file (MINUTES=20, ARGS="--seed 7")
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

RUNS ?= 20
KILLS ?= 10
kills: setup-dev ## kill the same training at random moments; it must end bit-equal to an undisturbed one (RUNS=5 KILLS=3)
	@$(BIN)/python -m tests.chaos.equality --runs $(RUNS) --kills $(KILLS) $(ARGS)

N ?= 3
guarantees: setup-dev ## run the tests of G1 to G14 three times and print the table (N=10)
	@$(BIN)/python -m tests.guarantees --times $(N) $(ARGS)

migration: setup-dev ## generate a migration from changed tables (NAME="what changes")
	@[ -n "$(NAME)" ] || { echo 'usage: make migration NAME="what changes"' >&2; exit 2; }
	@exec 3< <(exec $(BIN)/python -m jobs.embedded --var var/migration); trap "kill $$!" EXIT; \
	read -r database <&3; read -r broker <&3; export "$$database" "$$broker"; \
	$(BIN)/python -m jobs.admin migrate && $(BIN)/python -m jobs.admin migration "$(NAME)"

lock: ## resolve the dependencies again into constraints.txt
	@$(call FIND_PYTHON,lock)

clean: ## remove .venv, caches and var/ (databases, runs, logs)
	rm -rf .venv var build dist tests/web/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
