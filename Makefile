# Everything is installed into .venv, in this folder. Python 3.11 or newer and make are all it takes.
# With another Python: make setup PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

# Builds of PyTorch for CUDA bring their own Triton, so that constraints.txt cannot pin it. This is the
# one of PyTorch 2.13, for builds without.
TRITON := 3.7.1

# The same pins for the environments that pip builds in: the first for pip before 25.3, the second since.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-avx2 fuzz lint docs bench-speed bench-gpu clean

help:
	@echo "make setup   create .venv with everything pinned"
	@echo "make demo    decode a prompt with the shipped models and check it against plain decoding"
	@echo "make test    run the tests"
	@echo "make test-avx2   run those that depend on the instruction set as on a CPU with AVX2 alone"
	@echo "make fuzz    decode random cases for MINUTES=10 minutes, the same ones for the same SEED"
	@echo "make lint    run the linters and the type checker"
	@echo "make bench-speed   measure every shaper beside the library's own decoding (half an hour)"
	@echo "make bench-gpu   measure this machine's GPU (seven minutes)"
	@echo "make docs    rewrite the generated parts of docs/"
	@echo "make clean   remove builds and caches, keep .venv"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(PLUGINS:=/pyproject.toml)
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed, this is %d.%d: make setup PYTHON=python3.12' % sys.version_info[:2])"
	@echo "Setting up .venv (once; PyTorch is large)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet triton==$(TRITON) || echo "Triton is not to be had here: tests of GPU kernels are skipped"
	@$(BIN)/pip install --quiet --no-deps $(PLUGINS:%=-e ./%)
	@touch $@

demo: setup
	@$(BIN)/toolkit run "The old sailor looked at the sea and" --max-new-tokens 96 --verify

test: setup
	@$(BIN)/pytest -q -n auto --dist loadfile tests plugins

# Our own kernels, PyTorch's and oneDNN's each have a limit of their own.
test-avx2: export TOOLKIT_ISA := avx2
test-avx2: export ATEN_CPU_CAPABILITY := avx2
test-avx2: export ONEDNN_MAX_CPU_ISA := AVX2
test-avx2: setup
	@$(BIN)/pytest -q -n auto --dist loadfile tests/core/runtime/compute/executors tests/core/runtime/compute/linears tests/core/runtime/kernels/test_kernels.py \
		tests/core/runtime/test_numerics.py tests/core/runtime/models/test_load.py tests/core/test_drop_in.py tests/properties/test_kv.py

# Not part of the tests. Threads do not spin, because there may be more of them than cores.
fuzz: MINUTES ?= 10
fuzz: export OMP_WAIT_POLICY ?= passive
fuzz: setup
	@$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports

docs: setup
	@$(BIN)/python docs/reference.py

# Results go to results/, one folder for each run; `toolkit report` draws them.
bench-speed: setup
	@$(BIN)/toolkit bench --plan speed --dtype fp32 --out results/speed-fp32
	@$(BIN)/toolkit bench --plan speed --dtype bf16 --out results/speed-bf16
	@$(BIN)/python tools/enlarge.py stories-11m results/stories-98m
	@$(BIN)/toolkit bench --plan speed --target results/stories-98m --dtype fp32 --prompts 6 --out results/speed-98m-fp32
	@$(BIN)/toolkit bench --plan speed --target results/stories-98m --dtype bf16 --prompts 6 --out results/speed-98m-bf16

# It needs no network: without .venv, a Python that has all dependencies takes its place.
bench-gpu: NEEDED := attrs, cattrs, click, platformdirs, pluggy, pyarrow, rich, tomli_w, torch, transformers, triton
bench-gpu: OFFLINE := --quiet --no-index --no-deps --no-build-isolation
bench-gpu:
	@[ ! -e $(STAMP) ] && $(PYTHON) -c "import $(NEEDED)" 2>/dev/null || $(MAKE) --no-print-directory setup
	@if [ -e $(STAMP) ]; then \
		$(BIN)/python tools/bench_gpu.py --out results/gpu; \
	else \
		rm -rf build && $(PYTHON) -m pip install $(OFFLINE) --target build/installed . && \
		PYTHONPATH=build/installed:$$PYTHONPATH $(PYTHON) tools/bench_gpu.py --out results/gpu; \
	fi

clean:
	@rm -rf build dist .test-wheel .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@rm -rf ./*.egg-info plugins/*/*.egg-info plugins/*/build
	@find $(filter-out .venv .git,$(wildcard *)) -name __pycache__ -type d -prune -exec rm -rf {} +
