# Every target sets up what it needs. README.md shows the two that matter.
override known := ARGS BACKBONE CONFIG DATA DATASET DATE ENGINE EXPORT FIG IMAGE JOBS MEMORY MINUTES MODEL OUT PORT PYTHON \
	RAW REASON RECIPES REST REST_PORT RUN RUNS SAVE SEEDS SERVER SET SPLIT TABLE TASKS TO TRIALS TUNE
$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$(if $(filter $v,$(known)),,\
	$(error unknown variable $v; expected one of $(known); make help says what each is for))))
# A recipe's shell reads a variable from its environment, as "$$NAME". No recipe holds $(NAME), which
# would run what a value holds. make expands a variable of the command line before it exports it, so
# its text is fixed here. Where none is given the program's default holds.
$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$(eval override export $v := $$(value $v))))

override SHELL := /bin/bash
override PY := .venv/bin/python
# runs a module with the words of ARGS added
override words := $(PY) -m pipelines.words
# $(call flag,data,DATA): --data="$DATA", where DATA has a value
override flag = $${$2:+--$1="$$$2"}
override log = $(call flag,dataset,DATASET) $(call flag,raw,RAW) $(call flag,set,SET)
override model = --model="$${MODEL:-ctr}"
# $(call install,requirements.lock): into .venv, or into another environment
override install = $(or $2,.venv)/bin/python -m pip install --quiet --require-hashes -r $1 2> >(grep -v '^WARNING: Location' >&2)
# $(call create,.venv): a new environment of Python 3.11
override create = python=$${PYTHON:-$$(command -v python3.11 || command -v python3)}; \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { echo "error: $${python:-python3} is not Python 3.11; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	echo "setting up $1 from $<"; \
	rm -rf $1 && "$$python" -m venv $1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-spark data vectors train eval compare predict analyse serve verify-c verify-tfserving days nightly nightly-status rollback test-slow \
	tune search repeats waits reproduce check-results bench bench-gpu bench-peers soak soak-publish soak-nightly mutants gate-power test contract lint docs lock clean

help:
	@sed -n 's/^## //p' Makefile

## make setup       the environment to run, from requirements.lock   PYTHON=
setup: .venv/.ready
.venv/.ready: requirements.lock
	@$(call create,.venv)
	@$(call install,requirements.lock)
	@touch $@

## make setup-dev   the same with the tools for tests and lint, from requirements-dev.lock
setup-dev: .venv/.ready-dev
.venv/.ready-dev: requirements-dev.lock .venv/.ready
	@echo "setting up .venv from requirements-dev.lock"
	@$(call install,requirements-dev.lock)
	@touch $@

## make setup-spark pyspark, for ENGINE=spark
setup-spark: setup
	@$(call install,requirements-spark.txt)

## make data        prepare a dataset           DATASET= RAW= SET= ENGINE=duckdb|spark
##                  MEMORY=6GB, by default a quarter of the machine's; also of train and nightly
data: setup
	@$(PY) -m pipelines.prepare $(log) $(call flag,engine,ENGINE) $(call flag,memory,MEMORY)

## make vectors     vectors of users and items by SVD of the training graph, beside the raw log
##                  DATASET= RAW= SET= ARGS="--width=32 --first=4"
vectors: setup
	@$(words) pipelines.vectors $(log)

## make train       raw log to SavedModel   DATASET= CONFIG= RAW= SET=
train: setup
	@$(PY) -m pipelines.train $(log) $(call flag,config,CONFIG) $(call flag,memory,MEMORY)

## make eval        a finished run's metrics on its test split   RUN=runs/latest
##                  or on other rows: SPLIT=train|validation|test RAW=another log
eval: setup
	@$(PY) -m pipelines.evaluate $(call flag,run,RUN) $(call flag,split,SPLIT) $(call flag,raw,RAW)

## make compare     runs on the same test rows, each against the first   RUNS=a,b OUT=
compare: setup
	@$(PY) -m pipelines.compare $(call flag,runs,RUNS) $(call flag,out,OUT)

## make predict     an exported model's scores of a Parquet or CSV file of requests: docs/serving.md
##                  RUN=runs/latest RAW= OUT=scores.parquet ARGS="--absent= --nulls=missing"
predict: setup
	@$(words) pipelines.predict $(call flag,run,RUN) $(call flag,raw,RAW) $(call flag,out,OUT)

## make analyse     what runs learned, on one offline page: docs/analysis.md
##                  RUN=runs/latest or RUN=a,b,… OUT= ARGS="--rows=100000 --pairs=20000 --category="
analyse: setup
	@$(words) pipelines.analyse $(call flag,runs,RUN) $(call flag,to,OUT)

## make serve       the exported model by gRPC and REST   MODEL= PORT= REST_PORT=
serve: setup
	@exec $(PY) -m export.server.serve --model="$${MODEL:-runs/latest/export}" $(call flag,port,PORT) $(call flag,rest_port,REST_PORT)

## make verify-c    an export's golden rows through TensorFlow's C API   RUN=runs/latest
verify-c: setup
	@$(PY) -m export.native -- "$${RUN:-runs/latest}"

## make verify-tfserving   golden rows against TensorFlow Serving   EXPORT= SERVER= REST= IMAGE=
verify-tfserving: setup
	@$(PY) -m export.tfserving --export="$${EXPORT:-runs/latest/export/1}" $(call flag,server,SERVER) $(call flag,rest,REST) $(call flag,image,IMAGE)

## make days        the raw log (or a simulated one) in day folders   DATASET= RAW= SET= ARGS=
days: setup
	@$(words) pipelines.days $(log)

## make nightly     a night: train on, check, publish   DATE=2017-12-01 MODEL= DATASET= CONFIG= SET= ARGS=
##                  make ends with 2 for every exit code of the program but 0: docs/nightly.md
nightly: setup
	@$(words) pipelines.nightly --first_hold_ok $(model) $(call flag,memory,MEMORY) $(call flag,date,DATE) $(call flag,dataset,DATASET) $(call flag,config,CONFIG) $(call flag,set,SET)

## make nightly-status   the last nights, and what is live   MODEL= ARGS=
nightly-status: setup
	@$(words) pipelines.nightly status $(model)

## make rollback    the version before the live one, or TO=   MODEL= REASON="…" ARGS=
rollback: setup
	@$(words) pipelines.nightly rollback $(model) $(call flag,to,TO) $(call flag,reason,REASON)

## make tune        fields of a recipe searched on validation, never on test: docs/tuning.md
##                  DATASET= CONFIG= TUNE="fit.learning_rate=log:0.0003:0.01 head.dropout=0|0.1"
##                  TRIALS=30 JOBS= MINUTES= SAVE=name RAW= SET=
tune: setup
	@$(PY) -m pipelines.tune $(log) $(call flag,config,CONFIG) $(call flag,tune,TUNE) $(call flag,trials,TRIALS) $(call flag,jobs,JOBS) $(call flag,minutes,MINUTES) $(call flag,save,SAVE)

## make search      which auxiliary tasks help a log: each alone, the best together, within MINUTES
##                  DATASET= CONFIG=din MINUTES=60 SEEDS=3 TASKS=uim,nip JOBS= SAVE=name RAW= SET=
search: setup
	@$(PY) -m pipelines.search $(log) $(call flag,config,CONFIG) $(call flag,minutes,MINUTES) $(call flag,seeds,SEEDS) $(call flag,tasks,TASKS) $(call flag,jobs,JOBS) $(call flag,save,SAVE)

## make repeats     the effect of weights for repeated exposures, on a simulated log
##                  RAW= JOBS=
repeats: setup
	@$(PY) -m pipelines.repeats $(call flag,raw,RAW) $(call flag,jobs,JOBS)

## make waits       the effect of waiting for late conversions, on a simulated log
waits: setup
	@$(PY) -m pipelines.waits

## make reproduce   a table or figure of the paper; its runs export no model
##                  TABLE=2|3|4|5|external|tuning or FIG=2|3|4|5 or RECIPES=
##                  DATASET= SEEDS= BACKBONE= JOBS= RAW= SET= OUT=docs/results
reproduce: setup
	@$(PY) -m pipelines.reproduce $(log) $(call flag,table,TABLE) $(call flag,fig,FIG) $(call flag,recipes,RECIPES) $(call flag,backbone,BACKBONE) $(call flag,seeds,SEEDS) $(call flag,jobs,JOBS) $(call flag,out,OUT)

## make bench       speed of training, requests, reader, preparation and export on this machine
bench: setup
	@$(PY) -m benchmarks.counts && $(PY) -m benchmarks.bench_step && $(PY) -m benchmarks.bench_requests && $(PY) -m benchmarks.bench_train && $(PY) -m benchmarks.bench_loop
	@$(PY) -m benchmarks.bench_reader && $(PY) -m benchmarks.bench_prepare --rows 1000000
	@$(PY) -m benchmarks.bench_export

## make bench-gpu   a training step on this machine's GPUs: benchmarks/gpu.md   ARGS=
bench-gpu: setup
	@$(words) benchmarks.bench_gpu

## make bench-peers other libraries on rows of the same log, each in an environment of its own
##                  ARGS="--peers=at4ctr,fbgemm,keras --loads=pairs,pages --rounds=3"
bench-peers: setup
	@$(words) benchmarks.bench_peers

## make check-results   whether each quoted figure stands on a page that a command wrote
check-results: setup
	@$(PY) -m pipelines.check_results

## make soak        kill -9 at 20 random points of a training, against the undisturbed run
soak: setup-dev
	@$(PY) -m tests.soak_kills

## make soak-publish   500 random kills around publishing
soak-publish: setup-dev
	@$(PY) -m tests.soak_publish --kills 500

## make soak-nightly   faults injected into a night at every point (kill, full disk, broken disk)
##                  and at random ones (kill)
soak-nightly: setup-dev
	@$(PY) -m tests.soak_nightly soak-nightly.json

## make mutants     mutation testing: do the tests notice faults put into the code?   ARGS=
mutants: setup-dev
	@$(words) tests.mutation

## make gate-power  how often the model gate publishes and refuses, on simulated nights
gate-power: setup-dev
	@$(PY) -m tests.gates.power

## make test        the tests
test: setup-dev
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

## make contract    every backbone with every head and every set of auxiliaries; make test tries a sample
contract: setup-dev
	@AT4CTR_CONTRACT=all $(PY) -m pytest -n 2 -q tests/contract

## make test-slow   tests that take minutes each: more logs on Spark, more kills, hosts and devices
test-slow: setup-dev setup-spark
	@AT4CTR_SLOW=1 $(PY) -m pytest -q tests/data/engines/test_spark.py tests/pipelines/test_main_job.py \
		tests/pipelines/test_reproduce.py tests/test_cluster.py tests/test_fit.py tests/test_search.py \
		tests/test_stopping.py tests/test_warm.py

## make lint        ruff, mypy, import-linter
lint: setup-dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

## make docs        these pages and the API as a site to read offline   PYTHON=
docs: build/docs-env/.ready
	@NO_MKDOCS_2_WARNING=1 build/docs-env/bin/python -m mkdocs build && echo "page: `pwd`/build/docs/index.html"
build/docs-env/.ready: docs/requirements.lock
	@mkdir -p build && $(call create,build/docs-env)
	@$(call install,docs/requirements.lock,build/docs-env)
	@touch $@

## make lock        pin the requirements of setup.py and docs/requirements.in
lock: setup
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && $(PY) -m venv "$$tools" && \
	"$$tools/bin/python" -m pip install --quiet pip-tools && \
	compile() { "$$tools/bin/python" -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$$@"; } && \
	compile --output-file=requirements.lock setup.py && \
	compile --extra=dev --constraint=requirements.lock --output-file=requirements-dev.lock setup.py && \
	compile --output-file=docs/requirements.lock docs/requirements.in

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache
