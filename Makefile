# make demo | test | lint | bench     everything is installed into .venv on first use
PYTHON ?= python3
# On Linux, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" takes the small CPU build of torch.
PIP_ARGS ?=
BIN := .venv/bin
DEMO := out/demo

.PHONY: demo test lint bench clean

.venv/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	touch $@

.venv/.dev: requirements-dev.txt .venv/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-dev.txt
	touch $@

demo: .venv/.run  ## guided digits: a grid, a zip and a table of scores
	rm -rf $(DEMO)
	$(BIN)/python generate_images.py --preset=mnist16,mnist16-cfg,mnist16-interval,mnist16-autog \
	    --grid=$(DEMO)/grid.png --classes=0-9 --seeds=0-1
	$(BIN)/python generate_zip.py --preset=mnist16-autog --num_images=1000 --zip_dir=$(DEMO)
	$(BIN)/python calculate_metrics.py calc --images=$(DEMO) --ref=pretrained/mnist16-refs.npz --metrics=fd_mnist

test: .venv/.dev
	$(BIN)/python -m pytest $(TESTS)

lint: .venv/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: .venv/.run
	$(BIN)/python benchmarks/sampling.py

clean:
	rm -rf .venv out
