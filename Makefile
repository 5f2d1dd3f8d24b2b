# make demo: dagbump beside what Airflow does, on an embedded PostgreSQL.   make lint: style and types.
# make test: what a change of SQL, client or command line can break; needs no Airflow. make test-slow: the rest of that, which
#   takes long: the demo, PgBouncer, a next revision, traps of a stranger, machines without containers.
# make test-airflow: what runs a real Airflow, on each release: the wheel beside it, the plugin inside its schedulers, what its
#   verify_integrity does. RELEASES="3.1.8 3.3.2" for some of them.
# make test-ui: the page in Airflow's UI, in a real browser, on each Airflow release; needs a Chromium. DAGBUMP_SCREENSHOTS=1
#   puts pictures of it into docs/page.
# make test-migrations: Airflow's own migrations, from release to release and back, with dagbump inside.
# make test-matrix: what is about SQL, on the tables of every Airflow and on every PostgreSQL; takes hours.
#   RELEASES=3.3.2 POSTGRES="postgres:15 embedded:13" for some of it. CI runs it every night, a pair per job.
# make prove: the proofs in docs/reliability.md in their long form, which takes hours; those that run a real Airflow, on each
#   release. ARGS="-k kills" for some of them. make test-slow and test-airflow run their short form.
# make mutants: breaks one clause of the SQL after the other, and fails where no test fails; takes hours. ARGS="bump parts/stale":
#   of these files. What is known of each mutant stays in .cache/mutants.json.
# make coverage: counts what make test runs of the functions and of the Python code, and names what it does not run.
#   ARGS="-m 'not airflow'": of these tests.
# make bench: what it costs, beside stock Airflow; wants an idle machine. bench-scheduler: what is left of a scheduler's loop
#   with the plugin. bench-page: how long the page in Airflow's UI takes. bench-repair: what a repair costs. bench-scale: a
#   large database and several schedulers; ARGS="--data DIR" keeps the database, which needs 45 GB and an hour. Each writes its
#   figures into docs/*.json, and from there the tables in README.md and docs/*.md. ARGS=--quick: in small, into
#   .cache/benchmark. ARGS=--report-only: writes the tables and plots of all of them, without measuring.
# make bench-quick: make bench in small; fails where what it counts is not as promised.
# make docs: the documentation site, into .cache/site; a warning, or a link that leads nowhere, fails.
# make package: the sdist, and the wheel from it, into dist/, and checks both.
# make test-newest: the suite with the newest of everything, in an environment of its own.
# make pins: writes pins/*.txt, the versions of all that is installed, with the newest of everything.
# make airflow-tables: takes over the tables of a new Airflow into the tests and the demo.
# make release-sql: keeps what the newest revision brings, in the commit of the release.
# Needs Python 3.10 or later, make and git; everything else is brought in, into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What may be installed: no other versions than these. Empty: the newest.
PINS := pins/development.txt

RELEASES ?= 3.0.6 3.1.8 3.2.2 3.3.2 3.4.0b2
# Where each PostgreSQL comes from: values of DAGBUMP_POSTGRES_IMAGE, 13 to 18.
POSTGRES ?= embedded:13 embedded:14 postgres:15 embedded:16 postgres:17 embedded

.PHONY: demo test test-slow test-newest test-airflow test-ui test-migrations test-matrix prove mutants coverage bench bench-quick bench-scheduler bench-page bench-repair bench-scale pins airflow-tables release-sql lint docs package clean

demo: $(VENV)/.demo
	$(BIN)/dagbump demo

# A worker per core, each with a PostgreSQL of its own, and tests of one file mostly on one. ARGS="-n 0": one worker.
test: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist worksteal -m "slow and not airflow and not migrations and not ui" $(ARGS)

test-airflow: $(VENV)/.dev
	for release in $(RELEASES); do DAGBUMP_AIRFLOW=$$release $(BIN)/pytest -m airflow $(ARGS) || exit; done

test-ui: $(VENV)/.dev
	for release in $(RELEASES); do DAGBUMP_AIRFLOW=$$release $(BIN)/pytest -n auto --dist loadfile -m ui $(ARGS) || exit; done

test-migrations: $(VENV)/.dev
	$(BIN)/pytest -m migrations $(ARGS)

test-matrix: $(VENV)/.dev
	failed=; for release in $(RELEASES); do for postgres in $(POSTGRES); do \
	    echo "=== the tables of Airflow $$release on $$postgres"; \
	    DAGBUMP_REQUIRE_CONTAINERS=1 DAGBUMP_AIRFLOW=$$release DAGBUMP_POSTGRES_IMAGE=$$postgres $(BIN)/pytest -n auto --dist worksteal \
	        -m "not once and not airflow and not migrations and not ui" $(ARGS) || failed="$$failed $$release/$$postgres"; \
	done; done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

test-newest:
	rm -rf .venv-newest
	DAGBUMP_NEWEST=1 $(MAKE) test VENV=.venv-newest PINS=

# The benchmark shares with the tests where PostgreSQL and Airflow come from.
BENCH = PYTHONPATH=tests $(BIN)/python -m benchmarks

PROVE = DAGBUMP_LONG=1 DAGBUMP_RECORD=1 $(BIN)/pytest
# pytest's exit code where ARGS leaves no test.
NO_TESTS = 5

prove: $(VENV)/.dev
	$(PROVE) -m "proof and not airflow" $(ARGS) || test $$? = $(NO_TESTS)
	for release in $(RELEASES); do \
	    DAGBUMP_AIRFLOW=$$release $(PROVE) -m "proof and airflow" $(ARGS) || test $$? = $(NO_TESTS) || exit; \
	done
	$(BENCH) --report-only

mutants: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.sql_mutants $(ARGS)

COVERAGE = PYTHONPATH=tests $(BIN)/coverage

coverage: $(VENV)/.dev
	rm -rf .cache/coverage
	$(COVERAGE) run -m pytest -p support.plpgsql_coverage -n auto --dist worksteal $(ARGS)
	$(COVERAGE) combine --quiet
	$(COVERAGE) json --quiet -o .cache/coverage/python.json
	PYTHONPATH=tests $(BIN)/python -m support.coverage_report $(ARGS)

bench: $(VENV)/.bench
	$(BENCH) loops $(ARGS)

bench-quick: $(VENV)/.bench
	$(BENCH) loops --quick $(ARGS)

bench-scheduler bench-page bench-repair bench-scale: bench-%: $(VENV)/.bench
	$(BENCH) $* $(ARGS)

# With dagbump beside it, an Airflow keeps the versions that it has without.
COMPILE = $(BIN)/uv pip compile --quiet --universal --no-python-downloads --no-annotate --no-header --no-emit-package dagbump
pins: $(VENV)/.dev
	echo '-e .[demo,metrics]' | $(COMPILE) --upgrade --python-version 3.10 --group dev --group docs --group package --group build - -o pins/development.txt
	for packages in pins/airflow-*.in; do \
	    pins=$${packages%.in}; \
	    $(COMPILE) --upgrade --python-version 3.11 $$pins.in -o $$pins.txt && \
	    echo '-e .' | $(COMPILE) --python-version 3.11 - $$pins.in -c $$pins.txt -o $$pins.txt || exit; \
	done

airflow-tables: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.airflow_tables

release-sql: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.sql_release

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=tests $(BIN)/python -m support.sql_lint
	$(BIN)/zizmor --offline --quiet .github

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir .cache/site

package: $(VENV)/.package
	rm -rf dist
	$(BIN)/uv build --quiet $(PINS:%=--build-constraint %)
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/check-wheel-contents dist

clean:
	rm -rf .venv .venv-newest .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

# uv makes the environment and installs into it; where the machine has none, one is put into it first.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(PINS:%=--constraint %) $(PINS:%=--build-constraint %)

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINS:%=--constraint %) uv

$(VENV)/.demo: $(VENV)/bin/uv pyproject.toml $(PINS)
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/.bench: $(VENV)/bin/uv pyproject.toml $(PINS)
	$(INSTALL) --editable . --group bench
	touch $@

$(VENV)/.dev: $(VENV)/bin/uv pyproject.toml $(PINS)
	$(INSTALL) --editable . --group dev
	touch $@ $(VENV)/.demo $(VENV)/.bench

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --editable '.[demo]' --group docs
	touch $@

$(VENV)/.package: $(VENV)/bin/uv pyproject.toml $(PINS)
	$(INSTALL) --group package
	touch $@
