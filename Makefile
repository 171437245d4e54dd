# make demo   train through physics with half-inverse gradients, beside Adam and Gauss-Newton
# make test   everything that must hold before a commit; make test-newest tries the newest releases
# make docs   the documentation, in site/, checked; python -m http.server --directory site serves it, with its search
#             make screenshots takes pictures of it
# make wheel  source distribution and wheel, in dist/, tried in an empty environment
# They set up .venv on first use, from the tested versions in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 20
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo picture results test test-newest lint types pytest notebooks docs screenshots wheel format clean
.DELETE_ON_ERROR:

demo: $(VENV)/experiments.stamp
	$(BIN)/python -m hig_optax.experiments compare linear-oscillators --seconds $(SECONDS)

test: lint types pytest notebooks

# The picture of the README, and those of the gallery: ten minutes on one core.
picture: $(VENV)/experiments.stamp
	$(BIN)/python -m hig_optax.experiments picture

# Every experiment of the paper and the book, three seeds each; see notebooks/RESULTS.md for what it writes.
results: $(VENV)/experiments.stamp
	$(BIN)/python -m hig_optax.experiments results

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev.stamp
	$(BIN)/mypy

pytest: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto -m "not devices"
	HIG_OPTAX_TEST_DEVICES=8 $(BIN)/python -m pytest -n auto tests -m devices

notebooks: $(VENV)/dev.stamp
	HIG_OPTAX_QUICK=1 JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/python -m pytest --nbmake notebooks -n auto

# Any warning is an error (with --quiet, none would be counted). The check looks at widths in Chromium, if there is one (apt-get install chromium).
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python docs/tools/check.py

# Every page at the widths of a desktop and of a phone, into build/screenshots.
screenshots: docs
	$(BIN)/python docs/tools/check.py screenshots

wheel: $(VENV)/dev.stamp
	$(BIN)/python tests/wheel.py

# A tenth of every table of cases, and all other tests of what depends on them, with the newest releases on the newest interpreter
# besides the default one, if there is any.
test-newest:
	PYTHON="$(PYTHON)" sh .ci/test-newest

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "hig_optax needs Python 3.11 or newer: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf site build dist .cache $(VENV) $(VENV)-newest .mypy_cache .pytest_cache .ruff_cache .hypothesis
