# make install | demo | test | test-all | test-slurm | test-peers | test-browser | lint | docs | bench | bench-scoring     installs on first use
# PYTHON=python3.12 takes that one, in an environment of its own: .venv-python3.12.
PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
# On Linux, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" takes the small CPU build of torch.
PIP_ARGS ?=
BIN := $(VENV)/bin
DEMO := out/demo

.PHONY: docs install demo test test-all test-slurm test-peers test-browser lint bench bench-scoring clean

$(VENV)/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	touch $@

install: $(VENV)/.run

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-dev.txt
	touch $@

SCORE = $(BIN)/python calculate_metrics.py
SCORED = --metrics=fd_mnist --ref=mnist16 --num=500 --ledger=$(DEMO)/scores.jsonl

demo: $(VENV)/.run
	rm -rf $(DEMO)
	$(BIN)/python generate_images.py --preset=mnist16,mnist16-cfg,mnist16-interval,mnist16-autog \
	    --grid=$(DEMO)/grid.png --classes=0-9 --seeds=0-1
	$(BIN)/python generate_zip.py --preset=mnist16-autog --num_images=500 --out=$(DEMO)/autoguidance.zip
	$(SCORE) gen --preset=mnist16 $(SCORED) --note="unguided"
	$(SCORE) gen --preset=mnist16-cfg $(SCORED) --note="classifier-free guidance"
	$(SCORE) gen --preset=mnist16-interval $(SCORED) --note="the same in an interval"
	$(SCORE) calc --images=$(DEMO)/autoguidance.zip $(SCORED) --note="autoguidance"
	$(SCORE) calc --images=mnist16-test-500 $(SCORED) --note="floor: real test digits"
	@echo
	@$(SCORE) table $(DEMO)/scores.jsonl
	@echo "Pictures: $(DEMO)/grid.png   images: $(DEMO)/autoguidance.zip"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

# With what takes minutes: storms of signals over thousands of images, compiled networks, interrupted training.
test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slurm and not peers and not browser" $(TESTS)

# Real jobs, through a Slurm of one node that is started for them: needs root and Debian's packages (a container will do).
test-slurm: $(VENV)/.dev
	trap tests/slurm/stop_slurm.sh EXIT INT TERM; set -e; config=$$(tests/slurm/start_slurm.sh); eval "$$config"; \
	    OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m slurm tests/slurm

.venv-peers/.run: requirements-peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-peers.txt
	touch $@

# Our measures beside those of other evaluators, which are installed in an environment of their own.
test-peers: $(VENV)/.dev .venv-peers/.run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m peers tests/peers

$(VENV)/.browser: requirements-browser.txt $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-browser.txt
	touch $@

# The pages we write, in Debian's Chromium (apt install chromium).
test-browser: $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m browser tests

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

$(VENV)/.docs: requirements-docs.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-docs.txt
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . out/docs
	@echo "The site: out/docs/docs/index.html"

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks --out=out/bench

bench-scoring: $(VENV)/.run .venv-peers/.run
	$(BIN)/python -m benchmarks --only=peers --out=out/bench-peers

clean:
	rm -rf .venv .venv-* out
