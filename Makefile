# On a machine with only Python 3.10+ and make, each target first sets .venv up by itself, from requirements/lock.txt: the
# versions that were tested together, whatever has been released since.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint nightly matrix docs lock clean

demo: $(READY)
	$(BIN)/ltm demo

test: lint
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --durations=15

# Types are checked against the lock alone: libraries annotate the same code otherwise from one release to the next.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: lint
	$(BIN)/pytest
	$(BIN)/python tools/matrix.py newest

# The fast tests with the lowest and the newest versions that can be had; ROWS=lowest runs one of them.
matrix: $(READY)
	$(BIN)/python tools/matrix.py $(ROWS)

# The site, below site/: pages and pictures out of the result files, then README, docs and API, links checked.
docs: $(READY)
	$(INSTALL) -q -c requirements/lock.txt --no-build-isolation -e '.[docs]'
	$(BIN)/python docs/build/results_page.py
	$(BIN)/python docs/build/answers_page.py
	$(BIN)/python docs/build/methods_table.py
	$(BIN)/python docs/build/pictures.py
	$(BIN)/ltm bench report benchmarks/results/bench --out docs/bench.md --title "Every value of the main runs"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Take today's versions into the lock; run `make test` and `make matrix` before it is committed.
lock: $(READY)
	$(BIN)/python tools/lock.py

clean:
	rm -rf .venv .venv-matrix build dist site docs/api docs/bench* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

$(READY): pyproject.toml requirements/lock.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "ltm needs Python 3.10 or newer; $(PYTHON) is older or missing. Try: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(INSTALL) -c requirements/lock.txt -r requirements/torch.txt
	$(INSTALL) --no-deps -r requirements/lock.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
