# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv, which is made here; nothing else is touched.

PYTHON ?= python3
# The tests run in two processes of one thread each, a file at a time; `make test WORKERS=0` runs them in one, with its output as it comes.
WORKERS ?= 2
BIN := .venv/bin
NPM := .venv/.npm
EXAMPLE := examples/astronaut.png
DEMO := demo/astronaut.png

.PHONY: demo test floors check check-page clean faults peers

demo: .venv/.demo
	@echo "== cutting out $(EXAMPLE)"
	@FRETSAW_OFFLINE=1 $(BIN)/fretsaw auto $(EXAMPLE) -o $(DEMO) --format overlay --overwrite
	@echo "== the picture is at $(CURDIR)/$(DEMO)"

test: .venv/.test
	$(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Kill the commands at ten random moments each, and run them again; prints the seed of the moments, which FRETSAW_FAULT_SEED sets.
faults: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m faults -rP

# The quick tests again, with the lowest versions that pyproject.toml admits, in an environment of their own.
floors: .venv/.test
	$(BIN)/python tests/floors.py --workers $(WORKERS)

# What other tools make of our exports, and we of theirs: their own loaders, in an environment of their own.
peers: .venv/.test .venv/.peers/.installed
	$(BIN)/python tests/peers/run.py $(CURDIR)/.venv/.peers/bin/python

.venv/.peers/.installed: .venv/.python tests/peers/requirements.txt tests/peers/ultralytics.txt
	@echo "== installing other annotation tools into .venv/.peers"
	$(PYTHON) -m venv .venv/.peers
	.venv/.peers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	.venv/.peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/ultralytics.txt
	@touch $@

# Format, lint, types, and the rules of the house; the page's scripts too, where there are node and npm.
check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_seams.py
	$(BIN)/python tests/layers.py
	$(BIN)/python tests/sizes.py
	@if command -v node > /dev/null && command -v npm > /dev/null; then $(MAKE) --no-print-directory check-page; \
	else echo "skipped: the checks of the page's scripts need node and npm (absent): apt-get install nodejs npm"; fi

# Types (against the server's own OpenAPI document), lint, and unit tests of the page. The page itself is served as it lies in static/ and needs no package.
check-page: $(NPM)/openapi.d.ts
	$(NPM)/node_modules/.bin/tsc -p tests/page
	$(NPM)/node_modules/.bin/tsc -p tests/page/tsconfig.tests.json
	$(NPM)/node_modules/.bin/eslint -c tests/page/eslint.config.js src/fretsaw/server/static tests/page
	node --test --test-reporter=dot tests/page/*.test.mjs

$(NPM)/openapi.d.ts: $(NPM)/.installed .venv/.test tests/page/openapi.py $(wildcard src/fretsaw/server/*.py)
	$(BIN)/python tests/page/openapi.py $(NPM)/openapi.json
	$(NPM)/node_modules/.bin/openapi-typescript $(NPM)/openapi.json --default-non-nullable false --output $@

$(NPM)/.installed: .venv/.python tests/page/package.json tests/page/package-lock.json
	@echo "== installing what checks the page into $(NPM)"
	@mkdir -p $(NPM)
	@cp tests/page/package.json tests/page/package-lock.json $(NPM)
	npm ci --prefix $(NPM) --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv .floors demo

.venv/.python:
	$(PYTHON) -c "import sys; sys.exit('Fretsaw needs Python 3.11 or newer, got ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.python pyproject.toml
	@echo "== installing fretsaw into .venv"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[serve]"
	@touch $@

.venv/.test: .venv/.python pyproject.toml
	@echo "== installing fretsaw and what its tests need into .venv"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[convert,dicom,evaluate,heif,parquet,serve,train,dev]"
	@touch $@
