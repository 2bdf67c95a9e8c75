# Everything runs in .venv; set-up happens by itself and is instant the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: setup demo test test-quick lint type bench plan soak lock clean

setup: $(READY)

# Python 3.11 installs the locked versions; newer Pythons resolve afresh.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("jfreq needs Python 3.11 or newer: make setup PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
	then UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock \
	  && $(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .; \
	else UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install -q --python $(BIN)/python -e '.[dev,export]'; fi
	touch $(READY)

demo: $(READY)
	$(BIN)/python -P experiments/studies/demo.py

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

# On one device, then what needs eight.
test: $(READY)
	$(PYTEST) --ignore tests/distributed; one=$$?; $(PYTEST) tests/distributed && exit $$one

# The tests of what differs from main, without the slow ones.
test-quick: $(READY)
	$(PYTEST) -m 'not slow' $$($(BIN)/python -P tests/changed.py)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(READY)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/jfreq bench all

plan: $(READY)
	$(BIN)/python -P experiments/studies/plans.py

soak: $(READY)
	$(BIN)/python -P experiments/studies/soak.py

lock:
	uv pip compile pyproject.toml --extra dev --extra export --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header -q -o requirements.lock

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist runs/demo
