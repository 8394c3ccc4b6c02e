# `make help` lists what can be typed.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 7860
BIN := .venv/bin

.PHONY: help run test test-all checked dist lock bench specialists recorded rates transfer claims races pictures docs promises audit clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: .venv/installed  ## set up once, fetch the bundled model, and serve the app (HOST=, PORT=)
	@$(BIN)/python -m ftlab model
	@$(BIN)/python -m ftlab app --host $(HOST) --port $(PORT)

# ORDER=random runs the tests in random order, which none of them may notice.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal $(if $(ORDER),-p randomly)

test: checked  ## ruff, mypy, contracts, and the tests that are not slow (less than 10 minutes with the set-up)
	$(PYTEST) -m "not slow"

test-all: .venv/installed-ray build/docs/installed build/dist/bin/pyproject-build checked  ## all of that and the slow tests, with coverage, Ray, wheel, container and site (half an hour)
	$(PYTEST) --cov=ftlab --cov-report=term --parts --durations=20

checked: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python -m ftlab model

dist: build/dist/bin/pyproject-build  ## build the wheel, from the source archive beside it, in dist/
	rm -rf dist
	build/dist/bin/pyproject-build --outdir dist

lock: .venv/installed build/lock/bin/uv  ## write requirements-lock.txt: the versions of .venv, with hashes
	$(BIN)/python -m pip freeze --exclude-editable | sed -E '/ @ /d; s/\+[a-z0-9.]+$$//' > build/lock/installed.txt
	build/lock/bin/uv pip compile --quiet --no-config --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header --constraint build/lock/installed.txt --output-file build/lock/locked.txt requirements.txt
	{ echo "# For Linux on x86-64, Python 3.11 and the torch of PyPI, which holds CUDA: docs/guide.md. Made by \`make lock\`."; cat build/lock/locked.txt; } > requirements-lock.txt

bench: .venv/installed-dev  ## measure the README's table: four methods on SQL (about 10 minutes)
	$(BIN)/python -m tests.benchmarks.quality --update-readme

specialists: .venv/installed  ## train anew the adapters in assets/adapters (about 10 minutes)
	$(BIN)/python -m ftlab.maintain specialists

recorded: .venv/installed  ## measure the sample sweeps anew and ship them (about an hour)
	$(BIN)/python -m ftlab sweep --task sql --methods full,last_layers,lora,dora,pissa,lora_plus,qlora,vera,miss,oft,ia3,prompt_tuning --eval-examples 64 --seeds 0,1,2 --runs-dir build/recorded/many
	$(BIN)/python -m ftlab.maintain record --runs-dir build/recorded/many --replace
	$(BIN)/python -m ftlab sweep --task sql --methods full,lora,qlora,prompt_tuning --steps 60 --eval-examples 100 --seeds 0,1,2 --runs-dir build/recorded/four
	$(BIN)/python -m ftlab.maintain record --runs-dir build/recorded/four --replace

rates: .venv/installed  ## find every learning rate anew, docs/learning-rates.md (about 2 hours)
	$(BIN)/python -m ftlab tune --method all --task sql --runs-dir build/tuning --write docs/learning-rates.md

transfer: .venv/installed  ## run the study of assets/studies/transfer.json, or go on with it (20 methods over 3 seeds, some hours)
	$(BIN)/python -m ftlab.maintain transfer --runs-dir build/transfer --write build/transfer.json

claims: .venv/installed  ## try the claims of assets/studies/claims.json, or go on with it (100 runs, some hours)
	$(BIN)/python -m ftlab.maintain claims --runs-dir build/claims --write build/claims.json

races: .venv/installed-dev  ## record the sweeps against which races are replayed, or go on with them (30 minutes a task)
	for task in sql medical shakespeare; do \
		$(BIN)/python -m ftlab.maintain race_sweep --task $$task --runs-dir build/race-$$task --write tests/benchmarks/recorded_sweeps/$$task.json || exit 1; \
	done
	$(BIN)/python -m tests.benchmarks.race

pictures: .venv/installed-dev  ## take the documents' pictures anew (Chromium, about two minutes)
	$(BIN)/python -m tests.browser.pictures

docs: .venv/installed build/docs/installed  ## build the site of docs/ in build/site, and check its links (10 seconds)
	$(BIN)/python -m tests.site.reference build/reference
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet
	$(BIN)/python -m tests.site.check build/site

promises: .venv/installed-dev  ## inject every fault and hostile input, measure 50 browsers and a stranger's worst requests, write docs/promises.md (20 minutes)
	$(BIN)/python -m tests.benchmarks.load --minutes 5 --json build/load.json
	$(BIN)/python -m tests.benchmarks.strangers --json build/strangers.json
	$(BIN)/python -m tests.benchmarks.promises --load build/load.json --strangers build/strangers.json --write docs/promises.md

audit: .venv/installed build/audit/bin/pip-audit  ## known vulnerabilities of the lowest versions that requirements.txt lets in, and of what is installed
	$(BIN)/python -m ftlab.operations.requirements > build/audit/lowest.txt
	build/audit/bin/pip-audit --strict --vulnerability-service osv --no-deps --disable-pip -r build/audit/lowest.txt
	build/audit/bin/pip-audit --strict --vulnerability-service osv --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:  ## remove the virtual environment and caches; runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache htmlcov .coverage .coverage.* build/lib build/bdist.* ftlab.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ftlab needs Python 3.11 or newer; name one: make run PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

# In an environment of its own: pip-audit's dependencies are no part of what it looks at.
build/audit/bin/pip-audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --disable-pip-version-check "pip-audit>=2.10,<3"

build/docs/installed: requirements-docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --disable-pip-version-check -r requirements-docs.txt
	@touch $@

build/dist/bin/pyproject-build:
	$(PYTHON) -m venv build/dist
	build/dist/bin/python -m pip install --disable-pip-version-check "build>=1.3,<2"

build/lock/bin/uv:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --disable-pip-version-check "uv>=0.9,<1"

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-slurm.txt requirements-mcp.txt requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/installed

.venv/installed-ray: requirements-ray.txt .venv/installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-ray.txt
	@touch $@
