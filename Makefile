# Every target sets itself up. All that is needed is make and Python 3.11 or newer.
#
#   PYTHON=python3.12   which Python makes .venv
#   PORT, DATA_DIR      where `make run` listens and keeps its data
#   PYTEST_ARGS=...     more arguments for pytest
#   LOCK_ARGS=...       more arguments for uv, such as --upgrade

SHELL := /bin/sh
.DEFAULT_GOAL := help
here := $(dir $(lastword $(MAKEFILE_LIST)))

ifneq ($(here),./)
# Called as `make -f elsewhere/Makefile`: go there first.
goals := $(or $(MAKECMDGOALS),help)
.PHONY: $(goals)
$(goals):
	@$(MAKE) --no-print-directory -C "$(here)" $@
else

PYTHON ?= python3
export PYTHON
bin := .venv/bin

.NOTPARALLEL:
.PHONY: help setup run demo test check lint types bench bench-long lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '  %-12s %s\n' "$$name" "$$what"; done

setup: .venv/.dev ## Make .venv with everything that development needs

run: export PORT ?= 8000
run: export DATA_DIR ?= ./data
run: .venv/.runtime ## Serve on 127.0.0.1:8000 (PORT) with the data in ./data (DATA_DIR)
	@exec $(bin)/automatos serve

demo: .venv/.runtime ## Show the whole way from a command to the read models, then stop
	@exec $(bin)/automatos demo

test: .venv/.dev ## Run the tests; domain/ and commands/ must be covered completely
	@.ci/test $(PYTEST_ARGS)

check: lint types ## Run everything that reads the code: lint, types, architecture
	$(bin)/python -m pytest -qq tests/architecture

lint: .venv/.dev ## Check formatting, style and who imports whom
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/lint-imports

types: .venv/.dev ## Check the types with mypy and pyright
	$(bin)/mypy
	$(bin)/pyright

bench: .venv/.dev ## Measure, the short way
	@exec $(bin)/python -m benchmarks

bench-long: .venv/.dev ## Measure, the long way
	@exec $(bin)/python -m benchmarks --long

lock: ## Write the requirements files again from pyproject.toml
	@.ci/lock $(LOCK_ARGS)

clean: ## Remove .venv and what the tools left; data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.runtime: requirements.txt pyproject.toml .ci/venv
	@.ci/venv requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt pyproject.toml .ci/venv
	@.ci/venv requirements-dev.txt
	@touch .venv/.runtime $@

endif
