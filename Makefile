# Every developer command. `make demo` and `make test` do all set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The photos and golden numbers that development machines have beside the repository; a clone has none.
DATA ?= ../shared/datasets
TASK ?= sr-x4
MINUTES ?= 30

.PHONY: setup demo check test test-all test-gpu-rehearsal bench docs dist wheel pictures train-compact scores worth

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# torch first and pinned: an unpinned torch brings gigabytes of CUDA packages.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

demo: setup
	$(BIN)/python docs/demo/demo.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n 2

# The kernels for NVIDIA GPUs, by Triton's interpreter on the CPU; installs Triton, 0.6 GB.
test-gpu-rehearsal: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[triton]"
	$(BIN)/python -m pytest -n 2 tests/kernels/test_fused.py tests/kernels/test_triton.py \
		tests/inference/test_recorded.py tests/inference/test_whole.py
	cd benchmarks && ../$(BIN)/python gpu.py --rehearse

bench: setup
	@for name in data evaluation fleet inference training; do \
		echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py --quick || exit 1; \
	done

# With the C++ kernels inside, if there is a compiler here.
wheel: setup
	$(BIN)/python -m build --wheel

# What a release consists of, in dist/: built, checked, with digests.
dist: setup
	$(BIN)/python -m release.dist

# The site, in site/; a warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -W error::DeprecationWarning:dirformer -m mkdocs build --clean
	$(BIN)/python -m pytest -n 0 tests/test_docs.py tests/test_site.py

pictures: setup
	$(BIN)/python -m release.pictures $(DATA)

# A leg of training from the shipped weights; the result is taken in if it is clearly better.
train-compact: setup
	$(BIN)/python -m release.run $(TASK)-compact $(DATA) $(MINUTES)

# Scores of all shipped models, and their cards.
scores: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,perceptual]"
	$(BIN)/python -m release.cards $(DATA)

# What the IPR is worth in each shipped model: four short trainings each.
worth: setup
	$(BIN)/python -m release.worth $(DATA)
