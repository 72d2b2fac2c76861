# Everything a fresh machine needs beyond python3 (3.11 to 3.13), pip and make is set up here.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
FAST = not slow and not tpu_compile and not gpu

.PHONY: speedrun test test-all lint clean

speedrun: $(VENV)/.installed
	$(VENV)/bin/python -m llm_jax.main --config=experiments/speedrun.py --workdir=runs/speedrun

test: $(VENV)/.test-installed
	$(VENV)/bin/python -m pytest -n 2 --dist=loadfile -m "$(FAST)"

test-all: $(VENV)/.test-installed
	$(VENV)/bin/python -m pytest -m "not tpu_compile and not gpu"

lint: $(VENV)/.test-installed
	$(VENV)/bin/ruff check .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13))' || \
	  { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; say which is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.test-installed: setup.py | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf .venv .venv-* build dist *.egg-info
