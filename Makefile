# The commands to remember: make demo, make test, make lint, make bench. docs/development.md has the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BUILD_PACKAGES := g++ make nlohmann-json3-dev python3-dev python3-venv
TEST_PACKAGES := $(BUILD_PACKAGES) cmake ninja-build libgtest-dev qemu-user binutils
LINT_PACKAGES := clang-format clang-tidy cmake ninja-build nlohmann-json3-dev libgtest-dev
EXTRAS := train,gpu,bulk,metrics,ray,onnx,tensorrt-rtx,modelopt,video,lance,dev
DEMO := .venvs/demo
TEST := .venvs/test
BENCH := .venvs/bench
LINT := .venvs/lint
# Where tools/cpp-tests.sh leaves the module of single ops.
export GAITCRAFTER_TEST_MODULE := $(CURDIR)/build/test-release/tests/native

.PHONY: help demo test test-all torture lint bench bench-peers bench-native gpu-check clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo:  ## build, generate clips with the model that ships, and show where they are
	@tools/system-packages.sh $(BUILD_PACKAGES)
	@echo "building gaitcrafter-rt (first time: about two minutes)"
	@tools/venv.sh $(DEMO)
	@$(DEMO)/bin/gaitcrafter-rt demo demo --replace

test:  ## install what the tests need and run them, C++ and Python
	@tools/system-packages.sh $(TEST_PACKAGES)
	@tools/system-packages.sh chromium-headless-shell || echo "going on without a browser: the test that needs it will say so"
	@tools/onnxruntime-sdk.sh || true  # says what is left out without it
	@tools/tensorrt-headers.sh || true  # the same
	@tools/venv.sh $(TEST) $(EXTRAS)
	@tools/cpp-tests.sh release $(TEST)/bin/python
	@$(TEST)/bin/python tests/install_peers.py
	@$(TEST)/bin/pytest -q

test-all: test  ## the same, the slow tests too, and the C++ tests under sanitizers and qemu
	@tools/cpp-tests.sh asan-ubsan
	@tools/cpp-tests.sh tsan
	@$(TEST)/bin/pytest -q -m slow

torture:  ## kills, power cuts, failing calls, flips and mutations of the bulk job, all of them; writes docs/reliability.md; about half an hour
	@tools/venv.sh $(TEST) $(EXTRAS)
	@$(TEST)/bin/python tests/bulk/torture.py

lint:  ## ruff, mypy, clang-format, clang-tidy
	@tools/system-packages.sh $(LINT_PACKAGES)
	@tools/lint.sh $(LINT)

bench-native:
	@tools/system-packages.sh $(TEST_PACKAGES) libbenchmark-dev
	@tools/venv.sh $(BENCH) $(EXTRAS),bench
	@cmake --preset release -B build/bench -DGAITCRAFTER_DEV_TREE=OFF -DGAITCRAFTER_BENCHMARKS=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BENCH)/bin/python >/dev/null
	@cmake --build build/bench --target _gc_test ops_bench >/dev/null

bench: bench-native  ## every op at every shape, with its share of the core's limit; docs/benchmarks.md has the rest
	@$(BENCH)/bin/python benchmarks/ops.py

bench-peers: export GAITCRAFTER_TEST_MODULE := $(CURDIR)/build/bench/tests/native
bench-peers: bench-native  ## the engine beside OpenVINO, ONNX Runtime and torch; an hour the first time, then minutes
	@$(BENCH)/bin/python tests/install_peers.py
	@$(BENCH)/bin/python benchmarks/peers.py

gpu-check:  ## on a machine with an NVIDIA GPU: kernels, networks, speeds; writes gpu-report.json and .md (ARGS=--quick; PYTHON=)
	@tools/gpu-check.sh $(ARGS)

clean:  ## remove what the commands above made, except demo/
	rm -rf .venvs build .peers .sdks
