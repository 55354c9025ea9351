# Everything runs in .venv, which make creates itself; the stamps inside it depend on pyproject.toml alone, so that an
# up-to-date target starts at once. Plain POSIX shell and GNU make 3.81, so that it works on macOS as it comes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := src tests $(wildcard bench prove examples)

RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
EXAMPLES_STAMP := $(VENV)/.installed-examples

APP ?=
ARGS ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 4
BENCH_ARGS ?=
PROVE_ARGS ?=
FULL ?=
SHORT ?=
RACE_RUNS ?= 3
IMAGE ?= jobpipe
COVERAGE ?=
PINNED ?=

# The example apps need what the server does not.
RUN_NEEDS := $(RUN_STAMP) $(if $(filter examples%,$(APP)),$(EXAMPLES_STAMP))

# Most tests wait for something, so all of them are shared out to more processes than there may be cores. A few, chosen by
# PYTEST_ARGS, end before several processes have begun. The order of the files is that of tests/conftest.py.
SHARED_OUT := $(if $(PYTEST_ARGS),,-n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder)

.DEFAULT_GOAL := run
.PHONY: client run test test_race coverage vet check format bench bench-peers bench-growth bench-overload bench-backlog
.PHONY: bench-storage bench-guard prove build docker-build docker-run clean help

run: $(RUN_NEEDS) ## start a server; APP=package.module:app gives it handlers, ARGS="--port 9000" flags
	@exec $(BIN)/jobpipe serve $(APP) $(ARGS)

test: $(DEV_STAMP) ## run all tests in TEST_PROCESSES (4) processes; PYTEST_ARGS="-k settings" in one, passed on
	$(BIN)/python -m pytest $(SHARED_OUT) $(PYTEST_ARGS)

# Order and thread switches are what races hide behind: each run has another seed, and threads switch all the time.
test_race: $(DEV_STAMP) ## run the unit and contract tests RACE_RUNS times, in random order, with switches forced
	@seed=$$(date +%s); run=0; while [ $$run -lt $(RACE_RUNS) ]; do \
	    run=$$((run + 1)); seed=$$((seed + 1)); echo "race run $$run of $(RACE_RUNS), seed $$seed"; \
	    PYTHONASYNCIODEBUG=1 JOBPIPE_TEST_SWITCH_INTERVAL=1e-6 $(BIN)/python -m pytest \
	        -W error -m "not process" --randomly-seed=$$seed $(PYTEST_ARGS) \
	        tests/unit tests/contract || exit 1; \
	done

coverage: $(DEV_STAMP) ## run all tests under branch coverage, subprocesses included; fails under the limit
	@$(BIN)/coverage erase
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/coverage run -m pytest $(SHARED_OUT) $(PYTEST_ARGS) || { [ -n "$(AGAIN)" ] && \
	    echo "== once more, one at a time, what failed (name it: such a test depends on the machine's pace)" && \
	    COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/coverage run -m pytest -v --last-failed --last-failed-no-failures none; }
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

vet: $(DEV_STAMP) ## lint, formatting, types, which part may import which, circles and long functions
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python .ci/structure.py
	$(BIN)/python .ci/sync_client.py --check

client: $(DEV_STAMP) ## make the client for threads from the one for asyncio
	$(BIN)/python .ci/sync_client.py

# The tests run once: plainly here, under coverage in CI (COVERAGE=1).
check: vet $(if $(COVERAGE),coverage,test) ## what CI runs: vet and all tests; COVERAGE=1 adds coverage

format: $(DEV_STAMP) ## put the code into shape
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(DEV_STAMP) ## measure; BENCH_ARGS=--quick only shows that every benchmark works
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-peers: $(DEV_STAMP) ## measure other task queues beside Jobpipe (about 20 minutes); BENCH_ARGS="--scale 0.1"
	$(BIN)/python -m bench.peers --write $(BENCH_ARGS)

prove: $(DEV_STAMP) ## make faults and compare; FULL=1 for the record (hours), SHORT=1 in minutes, PROVE_ARGS="--only kill --seed 2"
	$(BIN)/python -m prove $(if $(FULL),--full)$(if $(SHORT),--short) $(PROVE_ARGS)

bench-growth: $(DEV_STAMP) ## measure stores of 1k to 10M tasks (about 15 minutes, 6 GB); BENCH_ARGS="--most 100000"
	$(BIN)/python -m bench.growth --write $(BENCH_ARGS)

bench-overload: $(DEV_STAMP) ## measure beyond capacity and during upkeep (about 4 minutes)
	$(BIN)/python -m bench.overload --write $(BENCH_ARGS)

bench-backlog: $(DEV_STAMP) ## measure PostgreSQL with 1k and 1M tasks waiting (about 2 minutes)
	$(BIN)/python -m bench.backlog $(BENCH_ARGS)

bench-storage: $(DEV_STAMP) ## measure the storage thread under other settings of SQLite (about 2 minutes)
	$(BIN)/python -m bench.storage $(BENCH_ARGS)

bench-guard: $(DEV_STAMP) ## has anything become slower? compares key ratios with bench/guard.json
	$(BIN)/python -m bench.guard $(BENCH_ARGS)

build: $(RUN_STAMP) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

docker-build: ## build the image IMAGE
	docker build -t $(IMAGE) .

docker-run: ## run the image on 127.0.0.1:8080, with its data in the volume jobpipe-data
	docker run --rm --init=false -p 127.0.0.1:8080:8080 -v jobpipe-data:/data --stop-timeout 40 $(IMAGE)

clean: ## remove the environment and everything built; databases stay
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache
	find src tests prove -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: Jobpipe needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

# The development dependencies include the examples' and the server's own. PINNED=1, as in CI: what constraints/ci.txt says,
# by its hashes; else the newest.
$(DEV_STAMP): pyproject.toml | $(BIN)/python
	$(if $(PINNED),$(BIN)/python -m pip install --quiet --require-hashes -r constraints/ci.txt)
	$(BIN)/python -m pip install --quiet $(if $(PINNED),--no-deps --no-build-isolation -e .,-e '.[dev]')
	@touch $(RUN_STAMP) $(EXAMPLES_STAMP) $@

$(EXAMPLES_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[examples]'
	@touch $(RUN_STAMP) $@
