# Everything here sets itself up: see .ci/setup.

PYTHON ?= python3
export PYTHON

# One environment for each Python, so that several can be tried in turn.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
RUN := $(VENV)/bin/python -m

.PHONY: help demo test check bench results compat soak test-versions matrix
.PHONY: mutants docs release-check clean browser-test

help:
	@echo "make demo    see the pool at its main job, on real servers"
	@echo "make test    check, run all tests, measure their coverage"
	@echo "make check   formatting, lint and types alone"
	@echo "make bench   measure the pool beside its peers (ARGS=\"cycle --quick\")"
	@echo "make results measure again what docs/results shows, in half an hour"
	@echo "make docs    build the documentation and check its links"
	@echo "make mutants put mistakes into the code and see the tests notice (JOBS=2)"
	@echo "make compat  drivers' own tests, with their pools and with ours"
	@echo "make browser-test   the status page in Chromium, and its picture"
	@echo "make soak    storms over every pool of ours (MINUTES=5)"
	@echo "make test-versions   the tests of adapters with older drivers"
	@echo "make matrix  the tests with all supported versions (ARGS=\"--list\")"
	@echo "make release-check   build and try what would be published (ADDRESS=https://...)"
	@echo "make clean   remove what the others left here"
	@echo "PYTHON=...   the interpreter to use (default: python3)"

demo:
	@.ci/setup $(VENV) bench optional
	@$(RUN) benchmarks.demo

bench:
	@.ci/setup $(VENV) bench required
	@$(RUN) benchmarks $(ARGS)

results:
	@.ci/setup $(VENV) bench optional
	@$(RUN) benchmarks --scale page --page
	@$(RUN) tests.failures --page docs/results/failures.rst

check:
	@.ci/setup $(VENV) dev optional
	$(RUN) ruff format --check --quiet --diff .
	$(RUN) ruff check --quiet .
	$(VENV)/bin/codespell
	$(RUN) mypy

test:
	@.ci/setup $(VENV) dev required
	@$(MAKE) --no-print-directory check
	$(RUN) coverage run -m pytest
	$(RUN) coverage report

browser-test:
	@.ci/setup $(VENV) browser required
	GEVENTPOOL_PICTURE=docs/pictures/status.png $(RUN) pytest tests/browser

docs:
	@.ci/setup $(VENV) docs optional
	$(RUN) sphinx --quiet --fail-on-warning --keep-going -b html docs build/docs/html
	$(RUN) sphinx --quiet --fail-on-warning --keep-going -b linkcheck docs build/docs/links
	@echo build/docs/html/index.html

compat:
	@.ci/setup $(VENV) dev required
	@$(RUN) tests.compat.gsocketpool_suite
	@$(RUN) tests.compat.redis_suite
	@$(RUN) tests.compat.sqlalchemy_suite
	@$(RUN) tests.compat.django_suite

JOBS ?= 2

mutants:
	@.ci/setup $(VENV) dev required
	@$(RUN) tests.mutants --jobs $(JOBS) $(ARGS)

MINUTES ?= 5

soak:
	@.ci/setup $(VENV) dev required
	@$(RUN) tests.failures.soak --minutes $(MINUTES)

test-versions:
	@.ci/setup $(VENV) dev required
	@$(RUN) tests.compat.versions

matrix:
	@.ci/setup $(VENV) matrix optional
	@$(RUN) nox $(ARGS)

release-check:
	@.ci/setup $(VENV) release required
	@$(RUN) tests.compat.release $(if $(ADDRESS),--address $(ADDRESS))

clean:
	rm -rf .venv .nox build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find geventpool tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
