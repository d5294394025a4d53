# Everything runs in .venv, made with the Python that is there; requirements/*.txt are pinned by hash.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ARGS ?=
.DEFAULT_GOAL := help
.PHONY: help setup setup-all run live airflow serve test browser promtool lint bench docs lock clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.batch ## make .venv with what the batch pipeline needs

run: setup ## listens to marts: extract, build, test, export, show (ARGS="--user NAME")
	$(BIN)/pulse run $(ARGS)

live: .venv/.streaming ## Kafka, Spark and a live table of what is trending (ARGS="--simulate 20")
	$(BIN)/pulse live $(ARGS)

airflow: .venv/.orchestration ## Airflow with the DAGs on 127.0.0.1 (ARGS="dags list" runs its command)
	$(BIN)/pulse airflow $(ARGS)

serve: .venv/.serving ## the page, the API and the ingest endpoint on 127.0.0.1 (ARGS="--port 8080")
	$(BIN)/pulse serve $(ARGS)

test: .venv/.all browser promtool ## the whole test suite (ARGS="-k name" for a part)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# A program that is no Python package: $(1) what it may be called, $(2) the Debian package, $(3) which tests need it.
define program
	@for program in $(1); do command -v $$program >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(2), for $(3)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(2) >/dev/null; \
	else \
		echo "error: $(3) need $(firstword $(1)): install it (Debian: apt-get install $(2))" >&2; exit 1; \
	fi
endef

browser:
	$(call program,chromium chromium-browser google-chrome,chromium,the tests of the page)

promtool:
	$(call program,promtool,prometheus,the tests of the alert rules)
	$(call program,prometheus,prometheus,the tests of what docker-compose.yml says)

lint: .venv/.all ## ruff, mypy, import-linter, sqlfluff, and dbt parse
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --config pyproject.toml dbt_project/models dbt_project/data_tests

bench: .venv/.all ## measure, and write benchmarks/README.md's tables
	$(BIN)/python -m benchmarks $(ARGS)

docs: setup ## build and serve the dbt docs site
	$(BIN)/pulse docs $(ARGS)

lock: .venv/.uv ## compile requirements/*.in to hash-pinned requirements/*.txt
	requirements/compile

clean: ## remove .venv, caches and built files; .pulse/ and data/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dbt_project/target dbt_project/logs

setup-all: .venv/.all ## make .venv with everything (Spark, Kafka, Airflow, tests)

.venv/.uv: requirements/setup.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear --without-pip .venv
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt
	@touch $@

# dbt's parse of the project is what each new database takes over (music_pulse/parsed.py).
.venv/.batch: .venv/.uv requirements/batch.txt pyproject.toml
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/batch.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m music_pulse.parsed
	@touch $@

.venv/.streaming: .venv/.batch requirements/streaming.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/streaming.txt
	@touch $@

.venv/.serving: .venv/.batch requirements/serving.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/serving.txt
	@touch $@

.venv/.orchestration: .venv/.batch requirements/orchestration.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/orchestration.txt
	@touch $@

.venv/.all: .venv/.batch requirements/streaming.txt requirements/serving.txt requirements/orchestration.txt requirements/dev.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/streaming.txt -r requirements/serving.txt -r requirements/orchestration.txt -r requirements/dev.txt
	@touch $@
