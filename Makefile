# Two commands matter: `make run` starts everything on this machine, `make test` proves it.
.DEFAULT_GOAL := help
.PHONY: help run setup test check bench fuzz audit lock docs rebuild clean

PYTHON := .venv/bin/python
# Two workers suit two cores; each has a PostgreSQL (and, when it needs one, a RabbitMQ) of its own.
PYTEST_ARGS ?= -n 2 --dist loadfile
COMPILE := $(PYTHON) -m uv pip compile pyproject.toml --quiet --universal --generate-hashes \
	--custom-compile-command "make lock" --extra local

help:  ## show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

run:  ## start all three services and a private PostgreSQL
	@sh deploy/setup.sh
	@exec $(PYTHON) -m deploy.run

setup:  ## make .venv with everything the tests and checks need
	@sh deploy/setup.sh dev

# What failed is run once more, by itself: servers that are killed and clocks that are watched share two cores with
# other tests. The log keeps the first failure, which is to be looked into; a second one fails the run.
test: setup  ## run the tests (PYTEST_ARGS="-k name" for some)
	@$(PYTHON) -m pytest $(PYTEST_ARGS) || { \
		[ $$? = 1 ] || exit 1; \
		echo "==> Once more, by itself, what failed"; \
		$(PYTHON) -m pytest --last-failed --last-failed-no-failures none; \
	}

check: setup  ## format, lint, types, import rules, generated documents
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	@if [ -f deploy/generate.py ]; then $(PYTHON) -m deploy.generate --check; fi

bench: setup  ## measure the services against their floors
	$(PYTHON) -m bench

fuzz: setup  ## 100,000 damaged files for every reader of feeds (FUZZ_CASES, FUZZ_SEED); nightly
	FUZZ_CASES=$${FUZZ_CASES:-100000} $(PYTHON) -m pytest tests/fuzz -n 2

audit: setup  ## look the locked packages up in the database of known vulnerabilities; needs the network
	@for lock in requirements.lock requirements-dev.lock; do \
		echo "==> $$lock"; \
		$(PYTHON) -m pip_audit --requirement $$lock --require-hashes --disable-pip --strict --progress-spinner off && continue; \
		echo "==> Not proven clean: $$lock has packages with known vulnerabilities, or the database was not reached" >&2; \
		exit 1; \
	done

lock: setup  ## resolve the dependencies again and write both lock files
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --group dev --constraints requirements.lock --output-file requirements-dev.lock

docs: setup  ## write the generated documents (OpenAPI, AsyncAPI)
	$(PYTHON) -m deploy.generate

rebuild: setup  ## recompute reporting's tables from its events (REPORTING_OWNER_DATABASE_URL)
	$(PYTHON) -m services.reporting rebuild

clean:  ## remove .venv and caches, but no data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
