# make demo: guarded pictures on a fresh machine, no torch. make test: everything. make check: the quick loop.
PYTHON ?= python3
BIN := .venv/bin
# two workers, one thread each: more threads than cores wait for each other
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check lint model test-gpu clean

demo: .venv/demo.stamp
	$(BIN)/python examples/demo.py

test: .venv/dev.stamp lint
	$(PYTEST) -m "not gpu"

check: .venv/dev.stamp lint
	$(PYTEST) -q -m "not slow and not gpu"

# On a machine with an NVIDIA GPU, in an environment made by hand (docs/rtx.md, docs/jetson.md).
# Leaves gpu-report.json.
test-gpu:
	$(PYTHON) -m pytest -m gpu tests/gpu

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml requirements/runtime.txt | .venv/bin/python
	$(PIP) --no-compile -c requirements/runtime.txt -e '.[cpu,cli]'
	touch $@

# It holds all that the demo needs, whose own lock would put older libraries in their place.
.venv/dev.stamp: pyproject.toml requirements/dev.txt | .venv/bin/python
	$(PIP) --no-compile -c requirements/dev.txt -e '.[dev]'
	touch .venv/demo.stamp $@

# Trains the embedded model from nothing: over an hour on 2 cores. Each script resumes.
model: .venv/dev.stamp
	cd training && for step in train_vae train_tokenizer train_classifier train_unet train_pixels; do \
	  ../$(BIN)/python $$step.py || exit 1; done
	for model in fashion pixels; do $(BIN)/python training/assemble.py $$model && \
	  $(BIN)/python training/embed.py $$model || exit 1; done
	$(BIN)/python training/measure.py

clean:
	rm -rf .venv build dist demo
