# Everything runs in .venv; set-up happens by itself and is instant the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
INTEROP := .venv-interop
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: setup demo test test-quick interop lint type bench plan soak lock clean

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
# By another name, so that make -n shows what make test would run and runs nothing.
AGAIN = $(MAKE) --no-print-directory

# On one device, then what needs eight, then the shorter tests beside other frameworks, where these
# can be installed.
test: $(READY)
	@failed=0; set -x; \
	$(PYTEST) --ignore tests/distributed --ignore tests/interop || failed=1; \
	$(PYTEST) tests/distributed || failed=1; \
	if $(AGAIN) $(INTEROP)/.ready > /dev/null 2>&1; then \
	  $(AGAIN) interop WHERE=tests/interop WHICH='not long' || failed=1; \
	else { set +x; } 2> /dev/null; \
	  echo 'make interop is left out: its packages cannot be installed (make interop says why)'; fi; \
	exit $$failed

# The tests that need PyTorch and other frameworks, in an environment of their own. At the end pytest
# would look through all that these have loaded, for longer than xdist waits.
interop: WHICH ?= interop
interop: WHERE ?= tests/interop tests/buckets \
	$$(grep -rl '^@pytest\.mark\.interop' tests --include='test_*.py')
interop: $(INTEROP)/.ready
	$(INTEROP)/bin/python -m pytest -n 2 --dist loadfile -p no:unraisableexception \
	  -m "$(WHICH)" $(WHERE)

# PyTorch for the CPU: from the wheels on this machine that pip is told of, else from its own index.
TORCH := $(if $(PIP_FIND_LINKS),$(addprefix --find-links ,$(PIP_FIND_LINKS)),--torch-backend cpu)
INSTALL := $(BIN)/uv pip install -q --python $(INTEROP)

# hearvalidator, xares and s3prl ask for torchaudio, which breaks other packages beside PyTorch for
# the CPU, and hearvalidator for an old Python: they are installed without what they ask for.
$(INTEROP)/.ready: $(READY) requirements-interop.txt
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(INTEROP)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps $(TORCH) -r requirements-interop.txt xares==0.1.3 s3prl==0.4.18 -e .
	$(BIN)/python -m pip --python $(INTEROP) install -q --disable-pip-version-check --no-deps \
	  --ignore-requires-python hearvalidator==2021.0.6
	touch $@

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

# Apache Beam is behind on these: the tests of interop have older ones than requirements.lock.
BEHIND := protobuf pillow pyarrow python-dateutil beartype
UNLOCKED := $(foreach name,$(BEHIND),-e '^$(name)==')

lock:
	uv pip compile pyproject.toml --extra dev --extra export --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header -q -o requirements.lock
	grep -v '^ ' requirements.lock | sed 's/ \\$$//' | grep -v $(UNLOCKED) > .constraints.txt
	uv pip compile --group interop -c .constraints.txt --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header -q | sed 's/+cpu//' \
	  > requirements-interop.txt
	rm .constraints.txt

clean:
	rm -rf .venv $(INTEROP) .cache .pytest_cache .ruff_cache .hypothesis build dist runs/demo
