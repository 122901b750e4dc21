# Two commands matter: `make chat` and `make test`. Each sets up everything it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

.PHONY: chat test check format bench model browser dist clean

chat: $(READY)
	$(BIN)/dialog-rl chat $(ARGS)

test: $(READY) browser
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@echo "Each script in benchmarks/ prints one figure and its baseline; see docs/benchmarks.md."
	$(BIN)/python -m benchmarks.results $(ARGS)

model: $(READY)
	$(BIN)/python -m data.concierge.build --output data/concierge/model $(ARGS)

dist: $(READY)
	$(BIN)/python -m pip wheel --no-deps -w dist .

browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	  || command -v google-chrome >/dev/null \
	  || ($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium) \
	  || echo "no chromium: the browser tests will be skipped (and fail under CI=true)"

# torch first and alone: the constraints file pins it, so nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
