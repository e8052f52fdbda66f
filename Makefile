# make quickstart   install, then train, predict and score a toy model on this machine; results in work_dirs/quickstart
# make test         install, then ruff and pytest;   make test PYTEST_ARGS="-n 2 -k shards"
# make lint | install | clean
#
# Needs Python 3.11 or newer with venv and pip. Everything is installed into VENV once and reused until setup.py, constraints.txt or this
# file changes.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export OMP_NUM_THREADS := 1
# Tools that are started by name (ninja, torchrun) must be the ones of this environment.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: quickstart test lint install clean
.DEFAULT_GOAL := install

quickstart: $(STAMP)
	$(BIN)/unipixel quickstart --out work_dirs/quickstart

test: lint
	$(BIN)/python -m pytest --durations=15 $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .

install: $(STAMP)

$(STAMP): setup.py constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d: set PYTHON=..." % v[:2])'
	@test -x $(BIN)/python || { echo "[1/4] creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[2/4] torch (the largest download, a few minutes)"
	$(PIP) torch torchvision
	@echo "[3/4] sam2, against the torch that is now installed and without its CUDA extension (nothing here uses it)"
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation sam2
	@echo "[4/4] the toolkit and its other dependencies"
	$(PIP) --editable '.[dev]'
	@touch $(STAMP)
	@echo "installed; the command is $(BIN)/unipixel"

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
