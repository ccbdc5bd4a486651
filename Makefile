# Every target sets up what it needs: an environment in .venv with the package installed in place. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench wheel clean

VENV := .venv
BIN := $(VENV)/bin
LOG := build/setup.log
NATIVE := CMakeLists.txt $(shell find csrc -name '*.cpp' -o -name '*.h')
# The first that is there, works and is supported; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/installed ## find, test and steer the neurons of the embedded model; ends in a table and an HTML report
	@$(BIN)/affectron demo

test: $(VENV)/installed ## run all tests
	@$(BIN)/python -m pytest

lint: $(VENV)/installed ## check style, types and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(filter csrc/%,$(NATIVE))

# The allocator keeps its memory, as in a process that has run for a while: without that, half of a float32 round is
# the kernel handing out fresh pages, for every contender alike.
bench: $(VENV)/installed ## time the kernels and the screening against what they replace; ends in a short table
	@MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 $(BIN)/python -m pytest benchmarks \
		--benchmark-json=benchmarks/results/cpu-$$(date +%F).json --benchmark-columns=min,median,rounds

wheel: $(VENV)/installed ## build a wheel in isolation, repair it, and try it in an empty environment
	@rm -rf dist build/wheel && mkdir -p build/wheel
	@$(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/build.log 2>&1 \
		|| { echo "error: the wheel could not be built; see build/wheel/build.log"; exit 1; }
	@PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --exclude libgomp.so.1 -w dist build/wheel/*.whl 2>&1 | tail -1
	@$(BIN)/python -m venv build/wheel/empty
	@build/wheel/empty/bin/pip install -q -c constraints.txt dist/*.whl
	@cd build/wheel && empty/bin/python $(CURDIR)/tests/wheel_smoke.py

clean: ## remove everything that these targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks

# The build tools first: an editable install without isolation uses the environment's own, and is quick to build again.
$(VENV)/tools: pyproject.toml constraints.txt
	@mkdir -p build
	@[ -n "$(PYTHON)" ] \
		|| { echo "error: no Python from 3.10 to 3.13 was found: install one (apt install python3)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null \
		|| { echo "error: PYTHON is $(PYTHON), which is no Python from 3.10 to 3.13: install one or name it"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null \
		|| { echo "error: $(PYTHON) has no venv module: install it (apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON), once; torch and transformers are large"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install -c constraints.txt scikit-build-core pybind11 cmake ninja > $(LOG) 2>&1 || $(failed)
	@touch $@

$(VENV)/installed: $(VENV)/tools $(NATIVE)
	@command -v $${CXX:-c++} > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null \
		|| { echo "error: no C++ compiler was found: install one (apt install g++)"; exit 1; }
	@$(BIN)/pip install --no-build-isolation -c constraints.txt -e '.[dev]' -C build-dir=build/editable > $(LOG) 2>&1 \
		|| $(failed)
	@touch $@

failed = { echo "error: setting up failed: $$(grep -iE 'error' $(LOG) | head -1); all of it is in $(LOG)"; exit 1; }
