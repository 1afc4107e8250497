# Every target sets up what it needs. README.md shows the two that matter.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python

DATASET ?= taobao
CONFIG ?= din_at4ctr
RAW ?=
SET ?=
RUN ?= runs/latest
SEEDS ?= 5
RECIPES ?= widedeep,widedeep+uim,din,din+uim+nip
TABLE ?=
FIG ?=
BACKBONE ?=
JOBS ?= 1
OUT ?= docs/results
ENGINE ?= duckdb
MODEL ?=
PORT ?= 8500
REST_PORT ?= 8501
SERVER ?=
REST ?=
EXPORT ?= runs/latest/export/1
IMAGE ?= tensorflow/serving:latest
DATE ?=
TO ?=
REASON ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-spark data train eval serve verify-c verify-tfserving days nightly nightly-status rollback \
	reproduce bench bench-peers soak soak-publish soak-nightly test contract lint lock clean

help:
	@sed -n 's/^## //p' Makefile

## make setup       the environment, from requirements.lock
setup: $(VENV)/.ready
$(VENV)/.ready: requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { echo "error: $(or $(PYTHON),python3) is not Python 3.11; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) from requirements.lock"
	@rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV)
	@$(PY) -m pip install --quiet --require-hashes -r requirements.lock 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

## make setup-spark pyspark, for ENGINE=spark
setup-spark: setup
	@$(PY) -m pip install --quiet --require-hashes -r requirements-spark.txt 2> >(grep -v '^WARNING: Location' >&2)

## make data        prepare a dataset           DATASET= RAW= SET= ENGINE=duckdb|spark
data: setup
	@$(PY) -m pipelines.prepare --dataset="$(DATASET)" --raw="$(RAW)" --set="$(SET)" --engine="$(ENGINE)"

## make train       raw log to calibrated SavedModel   DATASET= CONFIG= RAW= SET=
train: setup
	@$(PY) -m pipelines.train --dataset="$(DATASET)" --config="$(CONFIG)" --raw="$(RAW)" --set="$(SET)"

## make eval        a finished run's metrics on its test split   RUN=runs/latest
eval: setup
	@$(PY) -m pipelines.evaluate --run="$(RUN)"

## make serve       the exported model by gRPC and REST   MODEL= PORT= REST_PORT=
serve: setup
	@exec $(PY) -m export.serve --model="$(or $(MODEL),runs/latest/export)" --port="$(PORT)" --rest_port="$(REST_PORT)"

## make verify-c    an export's golden rows through TensorFlow's C API   RUN=runs/latest
verify-c: setup
	@$(PY) -m export.native "$(RUN)"

## make verify-tfserving   golden rows against TensorFlow Serving   EXPORT= SERVER= REST= IMAGE=
verify-tfserving: setup
	@$(PY) -m export.tfserving --export="$(EXPORT)" --server="$(SERVER)" --rest="$(REST)" --image="$(IMAGE)"

## make days        the raw log (or a simulated one) in day folders   DATASET= RAW= ARGS=
days: setup
	@$(PY) -m pipelines.days --dataset="$(DATASET)" --raw="$(RAW)" $(ARGS)

## make nightly     a night: train on, check, publish   DATE=2017-12-01 MODEL= DATASET= CONFIG= ARGS=
nightly: setup
	@$(PY) -m pipelines.nightly --date="$(DATE)" --model="$(or $(MODEL),ctr)" $(if $(filter-out undefined default file,$(origin DATASET)),--dataset="$(DATASET)") $(if $(filter-out undefined default file,$(origin CONFIG)),--config="$(CONFIG)") $(if $(SET),--set="$(SET)") $(ARGS)

## make nightly-status   the last nights, and what is live   MODEL=
nightly-status: setup
	@$(PY) -m pipelines.nightly status --model="$(or $(MODEL),ctr)" $(ARGS)

## make rollback    the version before the live one, or TO=   MODEL= REASON="…"
rollback: setup
	@$(PY) -m pipelines.nightly rollback --model="$(or $(MODEL),ctr)" $(if $(TO),--to="$(TO)") --reason="$(REASON)"

## make reproduce   a table or figure of the paper, its runs not exported
##                  TABLE=2|3|4|5|external|tuning or FIG=2|3|4|5 or RECIPES=
##                  DATASET= SEEDS= BACKBONE= JOBS= RAW= SET= OUT=docs/results
reproduce: setup
	@$(PY) -m pipelines.reproduce --table="$(TABLE)" --fig="$(FIG)" --recipes="$(RECIPES)" --backbone="$(BACKBONE)" --dataset="$(DATASET)" --seeds="$(SEEDS)" --jobs="$(JOBS)" --out="$(OUT)" --raw="$(RAW)" --set="$(SET)"

## make bench       what is measured, and how fast
bench: setup
	@$(PY) -m benchmarks.counts && $(PY) -m benchmarks.bench_step && $(PY) -m benchmarks.bench_train
	@$(PY) -m benchmarks.bench_reader && $(PY) -m benchmarks.bench_prepare --rows 1000000
	@$(PY) -m benchmarks.bench_export

## make bench-peers five libraries on the same load, each in an environment of its own
bench-peers: setup
	@$(PY) -m benchmarks.bench_peers

## make soak        kill -9 at 20 random points of a training, against the undisturbed run
soak: setup
	@$(PY) -m tests.soak_kills

## make soak-publish   500 random kills around publishing
soak-publish: setup
	@$(PY) -m tests.soak_publish --kills 500

## make soak-nightly   every point of a night struck by kill, full and broken disk; random kills
soak-nightly: setup
	@$(PY) -m tests.soak_nightly soak-nightly.json

## make test        the tests
test: setup
	@$(PY) -m pytest -n 2 -q

## make contract    every backbone with every head and every set of auxiliaries; make test tries a sample
contract: setup
	@AT4CTR_CONTRACT=all $(PY) -m pytest -n 2 -q tests/contract

## make lint        ruff, mypy, import-linter
lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

lock: ## pin what setup.py asks for
	@$(PY) -m pip install --quiet pip-tools && $(PY) -m piptools compile --quiet --generate-hashes --allow-unsafe --extra=dev --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file=requirements.lock setup.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
