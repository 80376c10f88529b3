# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test fuzz lint format bench docs sanitize kernels-check kernels-check-older kernels-check-aarch64 clean

demo: .venv/installed ## on scikit-learn's digits: TESLA, then a small CNN that stops early; tables, plot, networks in demo/
	$(BIN)/tapernet train --data digits --output demo/digits.safetensors
	$(BIN)/tapernet terminate --net c10net-digits --bias_first true --tolerance 0.02 --epochs 3 \
	  --output demo/terminated.safetensors

test: .venv/installed
	$(BIN)/pytest -n 2

MINUTES ?= 10
fuzz: .venv/installed ## the engine, taper and extract against torch on networks drawn anew; a failure is printed as a script
	$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES)

lint: .venv/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix src tests benchmarks

bench: .venv/installed ## speed as ratios against a named peer; wants a quiet machine
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/extracted.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/placement.py
	$(BIN)/python benchmarks/engine.py

docs: .venv/installed ## the public API as text, from its docstrings
	$(BIN)/python -m pydoc tapernet

sanitize: .venv/installed ## the engine's tests on kernels that check memory and undefined behaviour; needs gcc and g++
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/sanitize \
	  -Ccmake.define.TAPERNET_SANITIZE=ON -Cbuild-dir=build/sanitize-objects .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 $(BIN)/python tests/engine/sanitized.py build/sanitize

CROSS := aarch64-linux-gnu
kernels-check: build/check/kernels_check ## the kernels against plain loops, here and emulated; needs cmake, g++ and qemu-user
	build/check/kernels_check
	@if command -v qemu-x86_64 && [ "$$(uname -m)" = x86_64 ]; then $(MAKE) kernels-check-older; \
	else echo "NOT CHECKED: processors with AVX2 alone, and with neither: qemu-x86_64 (Debian: qemu-user) is not here"; fi
	@if command -v $(CROSS)-g++ && command -v qemu-aarch64; then $(MAKE) kernels-check-aarch64; \
	else echo "NOT CHECKED: NEON: $(CROSS)-g++ or qemu-aarch64 (Debian: qemu-user) is not here"; fi

build/check/kernels_check: $(wildcard csrc/*.* csrc/*/*) CMakeLists.txt
	cmake -S . -B build/check -DTAPERNET_CHECK=ON
	cmake --build build/check

kernels-check-older: build/check/kernels_check ## on emulated processors with AVX2 alone, and with neither; the names are the sets that must run there
	qemu-x86_64 -cpu Haswell build/check/kernels_check avx2 portable 2>build/check/qemu.log
	qemu-x86_64 -cpu Westmere build/check/kernels_check portable 2>build/check/qemu.log

kernels-check-aarch64: ## the same for AArch64, compiled here and emulated
	cmake -S . -B build/check-aarch64 -DTAPERNET_CHECK=ON \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(CROSS)-g++
	cmake --build build/check-aarch64
	qemu-aarch64 -L /usr/$(CROSS) build/check-aarch64/kernels_check neon portable

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints-cpu.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing torch, the other packages and the library into .venv: some minutes"
	$(BIN)/pip install --quiet -c constraints-cpu.txt torch
	@if echo 'int main() {}' | $${CXX:-c++} -x c++ -o /dev/null - 2>/dev/null; then \
	  $(BIN)/pip install --quiet -c constraints-cpu.txt -e '.[dev]' && touch $@; \
	else \
	  echo "NO C++ COMPILER: the library is installed without its kernels, and runs through torch; with g++, make again"; \
	  TAPERNET_WITHOUT_KERNELS=1 PIP_NO_CACHE_DIR=1 $(BIN)/pip install --quiet -c constraints-cpu.txt -e '.[dev]'; \
	fi
