# make demo: the main job, on an embedded PostgreSQL.   make test: the whole suite.   make lint: style and types.
# make test-airflow: the plugin inside real schedulers of four Airflow releases; RELEASES="3.1.6 3.3.2" for some of them.
# make bench: what it costs, beside stock Airflow; writes docs/benchmark.* and wants an idle machine.
# make bench-quick: the same in small, into .cache/benchmark; fails where what it counts is not as promised.
# make demo-tables: takes over the tables of a new Airflow into the demo.
# make freeze: renders sql/ into migrations/, after each change there.
# Needs Python 3.10 or later, make and git; everything else is brought in, into .venv.

PYTHON ?= python3
BIN := .venv/bin

RELEASES ?= 3.0.6 3.1.6 3.2.2 3.3.2

.PHONY: demo test test-airflow bench bench-quick demo-tables freeze lint clean

demo: .venv/.demo
	$(BIN)/dagbump demo

test: .venv/.dev
	$(BIN)/pytest $(ARGS)

test-airflow: .venv/.dev
	for release in $(RELEASES); do DAGBUMP_AIRFLOW=$$release $(BIN)/pytest -m airflow $(ARGS) || exit; done

# The benchmark shares with the tests where PostgreSQL and Airflow come from.
bench: .venv/.bench
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

bench-quick: .venv/.bench
	PYTHONPATH=tests $(BIN)/python -m benchmarks --quick $(ARGS)

demo-tables: .venv/.dev
	PYTHONPATH=tests $(BIN)/python -m support.demo_tables

freeze:
	$(PYTHON) sql/freeze.py

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

clean:
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

# uv makes the environment and installs into it; where the machine has none, one is put into .venv first.
.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/.demo: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[demo]'
	touch $@

.venv/.bench: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group bench
	touch $@

.venv/.dev: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group dev
	touch $@ .venv/.demo .venv/.bench
