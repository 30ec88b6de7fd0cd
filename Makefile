# Every target sets itself up: a virtual environment in .venv, with uv when it is on PATH, else with pip.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)

.PHONY: demo test check bench docs gpu clean

demo: .venv/train.stamp          ## a real scaling study on this machine, from images to report, in minutes
	$(BIN)/orch demo

test: .venv/dev.stamp            ## every test that this machine can run
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/slurm
	$(BIN)/python -m pytest tests/slurm

check: .venv/dev.stamp           ## lint, format, types, the dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_architecture.py

docs: .venv/dev.stamp            ## docs/cli.md, from the help of the commands
	$(BIN)/python docs/cli_reference.py

bench: .venv/dev.stamp           ## the benchmarks, each a ratio measured in one run
	for bench in tests/bench/bench_*.py; do $(BIN)/python $$bench || exit 1; done

gpu: .venv/train.stamp           ## what one NVIDIA GPU shows, in 8 minutes: gpu-report/gpu.json and gpu.md
	PYTHONPATH=tests/core $(BIN)/python tests/gpu/kit.py

.venv/bin/python:
	$(if $(shell command -v uv),uv venv --quiet --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)

.venv/%.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --constraint constraints.txt --editable '.[$(if $(filter dev,$*),train$(comma)data$(comma)dev,train)]'
	touch $@

comma := ,

clean:                           ## the environment and caches; never a study
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
