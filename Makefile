# The names that people rely on; each target is a few words of cmake, ctest or a script.
#   make build | run | test | test-long | tidy | demo-eval | bundle | gpu-test
.PHONY: build run test test-long tidy demo-eval bundle gpu-test setup setup-tests configure

JOBS ?= $(shell nproc)
BUILD := build/release
CTEST := ctest --test-dir $(BUILD) --output-on-failure --timeout 600

setup:
	@deploy/setup.sh

setup-tests:
	@deploy/setup.sh --tests

configure: setup
	@mkdir -p build
	@cmake --preset release >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }

build: configure
	@ninja -C $(BUILD) -j $(JOBS)

run: build
	@deploy/run.sh $(BUILD)/bin

test: setup-tests build
	@$(CTEST) -j $(JOBS) -LE 'slow|gpu|fuzz-long'

test-long: setup-tests build
	@deploy/test_long.sh

tidy: build
	@$(CTEST) -L tidy

demo-eval: build
	@deploy/demo-model/tools/eval.sh $(BUILD)/bin

bundle:
	@deploy/packaging/bundle.sh

gpu-test:
	@deploy/gpu_test.sh $(ARGS)
