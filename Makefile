# Everything runs in .venv, which is made on first use and brought up to date when pyproject.toml
# changes. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
SIDE ?=
ARGS ?=
FUZZ ?= 20000
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow test-faults fuzz slurm-test slurm-test-two shared-test report-test parity truth \
    bench bench-scaling bench-batch bench-scheduler bench-kernels test-versions lint docs changelog picture dist clean
.NOTPARALLEL:

help:
	@echo "make demo    simulate an exposure, calibrate it, compare with the truth (SIDE=4096: flight size)"
	@echo "make test    run the tests (ARGS=... goes to pytest)"
	@echo "make fuzz    edit files and configurations at random, and see (FUZZ=20000: so many cases)"
	@echo "make test-slow     run the blocks of the manual, the benchmarks on small detectors, compilers"
	@echo "make test-faults   kill workers, schedulers and clients of Dask clusters, and see"
	@echo "make slurm-test    run on a real SLURM of one node, then of two (only that: slurm-test-two),"
	@echo "             installed and started for it (root)"
	@echo "make shared-test   run from two nodes on a file system with old answers, such as NFS (root)"
	@echo "make report-test   look at reports in a real browser, installed for it (root)"
	@echo "make parity  compare with romanimpreprocess and romancal on full frames"
	@echo "make truth   both ramp fits against the truth, on ten million ramps of each rate"
	@echo "make bench   time and memory beside romanimpreprocess and romancal (ours alone: bench-scaling, bench-batch,"
	@echo "             bench-scheduler, bench-kernels)"
	@echo "make test-versions   the tests on Python 3.11 to 3.13, with the oldest and newest packages"
	@echo "make lint    ruff and mypy, and whether CITATION.cff is valid"
	@echo "make docs    build the manual in docs/_build/html, whole without a network"
	@echo "make changelog   what the next release will say, from changelog.d/"
	@echo "make picture the picture of the README, from the demo"
	@echo "make dist    source archive and wheel in dist/, installed and tried somewhere else"
	@echo "make clean   remove everything that make made, .venv too"

demo: $(VENV)/.plots
	$(BIN)/roman-dask-l2 demo $(if $(SIDE),--side $(SIDE)) $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m slow $(ARGS)

test-faults: $(VENV)/.test
	$(BIN)/python -m pytest -q -rs -m faults $(ARGS)

fuzz: $(VENV)/.test
	FUZZ=$(FUZZ) $(BIN)/python -m pytest -q -n 2 tests/fuzz $(ARGS)

slurm-test: $(VENV)/.test
	$(BIN)/python validation/slurm/run.py $(ARGS)
	$(BIN)/python validation/slurm/two_nodes.py

slurm-test-two: $(VENV)/.test
	$(BIN)/python validation/slurm/two_nodes.py $(ARGS)

shared-test: $(VENV)/.test
	$(BIN)/python validation/shared_files/run.py $(ARGS)

report-test: $(VENV)/.test
	$(BIN)/python validation/browser/run.py $(ARGS)

parity: $(VENV)/.test
	$(BIN)/python validation/parity/run.py $(ARGS)

truth: $(VENV)/.test
	$(BIN)/python validation/truth/likelihood.py $(ARGS)

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python benchmarks/observatory_bench.py)

bench-scaling: $(VENV)/.test
	$(BIN)/python benchmarks/scaling.py $(ARGS)

bench-batch: $(VENV)/.test
	$(BIN)/python benchmarks/batch.py $(ARGS)

bench-scheduler: $(VENV)/.test
	$(BIN)/python benchmarks/scheduler.py $(ARGS)

bench-kernels: $(VENV)/.bench
	$(BIN)/python -m pytest -q -m kernels benchmarks --benchmark-columns=min,median,rounds \
	    --benchmark-sort=name $(ARGS)

test-versions:
	$(PYTHON) validation/versions/run.py $(ARGS)

lint: $(VENV)/.dev $(VENV)-citation/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(VENV)-citation/bin/cffconvert --validate --infile CITATION.cff

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/offline.py docs/_build/html
	@echo "docs/_build/html/index.html"

changelog: $(VENV)/.dev
	$(BIN)/towncrier build --draft --version next 2>/dev/null

picture: demo
	$(BIN)/python docs/picture.py demo/quicklook.png docs/images/demo.png

# The wheel is tried where no source is near: in an empty environment, in a directory of its own.
dist: $(VENV)/.dev
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	rm -rf build *.egg-info/SOURCES.txt
	set -eu; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; wheel=$$(echo "$$PWD"/dist/*.whl); \
	    $(PYTHON) -m venv "$$place/venv"; cd "$$place"; \
	    venv/bin/python -m pip install -qq --disable-pip-version-check "$$wheel[plots]"; \
	    venv/bin/roman-dask-l2 --version; venv/bin/roman-dask-l2 demo --side 256 --quiet
	@ls -l dist

clean:
	rm -rf $(VENV) $(VENV)-citation demo out .benchmarks build dist *.egg-info docs/_build
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(VENV)/.NAME is the stamp of an installation with the extra NAME.
$(VENV)/.plots $(VENV)/.test $(VENV)/.bench $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: pyproject.toml setup.py | $(BIN)/python
	@echo "installing roman-dask-l2[$*] into $(VENV); the first time this takes a minute or two"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $@

# cffconvert needs an older jsonschema than the tests.
$(VENV)-citation/.done: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-citation
	@$(VENV)-citation/bin/python -m pip install -qq --disable-pip-version-check 'cffconvert>=2.0'
	@touch $@

# A Debian machine has a python3 that cannot make virtual environments until python3-venv is there.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) not found; install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is too old, 3.11 or newer is needed; say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
