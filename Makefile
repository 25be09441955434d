# `make` lists the targets. They need make, git and Python 3.10 or newer; everything else goes into .venv.
PYTHON ?= python3
# In the conda environment of environment.yml that environment is used as it is.
VENV ?= $(if $(filter ddpm,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX),.venv)
PROFILE ?= laptop
WORKERS ?= 2

BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ddpm-ready
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help data run lab test bench outputs book pdf

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

data: $(READY) ## get Fashion-MNIST and verify it
	$(BIN)/ddpm data

run: data ## run the whole course headlessly (PROFILE=smoke, laptop or full)
	$(BIN)/ddpm run --profile $(PROFILE)

lab: data ## open the course in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks

# The two notebooks that train come first, side by side: the others that need a training then find it done.
TRAIN := $(wildcard notebooks/04_*.ipynb notebooks/05_*.ipynb)
STORED := $(sort $(wildcard notebooks/*.ipynb book/*.ipynb \
	$(patsubst %.yaml,%.ipynb,$(wildcard notebooks/sweeps/*.yaml))))

test: data ## check style, run the tests, compare every notebook with its stored outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 2460 \
		--nbval --nbval-current-env --nbval-cell-timeout 2400 --nbval-sanitize-with tests/notebooks/sanitize.cfg \
		$(TRAIN) tests $(filter-out $(TRAIN),$(STORED))

bench: book ## our training beside the usual code and two packages (results in runs/bench)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks,test,course,book,sweeps,bench]'
	$(BIN)/python tests/benchmarks/bench.py
	$(BIN)/python tests/browser/latency.py
	$(BIN)/python tests/browser/demo_times.py
	$(BIN)/python tests/benchmarks/sweep_overhead.py notebooks/sweeps/guidance_sampler.yaml

book: $(READY) book/node_modules/.package-lock.json book/_build/model/model.onnx ## build the book (book/_build/html); needs npm
	$(BIN)/python -m sphinx --builder html --write-all --fail-on-warning --keep-going --quiet book book/_build/html

pdf: book ## print the book to one file (book/_build/book.pdf); needs Chromium
	$(BIN)/python book/pdf/print_pdf.py book/_build/html book/_build/book.pdf

book/node_modules/.package-lock.json: book/package-lock.json
	cd book && npm ci --silent

book/_build/model/model.onnx: book/export_model.py ddpm_lib/unet.py ddpm_lib/guidance.py $(wildcard ddpm_lib/pretrained/*.safetensors)
	$(BIN)/python $< $(@D)

outputs: data ## for authors: run the notebooks and store their outputs (ONLY="03 04": only these)
	$(BIN)/ddpm outputs $(addprefix --only ,$(ONLY))

# Done again when pyproject.toml changes.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than Python 3.10; try make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[notebooks,test,course,book,sweeps]'
	@touch $@
