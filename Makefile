# Everything a developer runs. Needs Python >= 3.12 and nothing else; each target installs what it needs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
# The oldest mitmproxy that is supported, and so tested.
OLDEST := mitmproxy==12.0.1

.DEFAULT_GOAL := help
.PHONY: help demo run test test-oldest faults oracle fuzz soak bench bench-proxy bench-scale lint clean

help:  ## what there is to run
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/run  ## see the main job done: a request that fails, and the same through the proxy
	@$(BIN)/python tools/demo.py

run: $(VENV)/run  ## mitmdump with the addon on 127.0.0.1:8080 (PORT=…, ARGS='--mode reverse:https://…')
	@$(BIN)/mitmdump -s addon.py --listen-host 127.0.0.1 --listen-port $(PORT) $(ARGS)

test: $(VENV)/test  ## all tests (ARGS='-k name' for some)
	@$(BIN)/python -m pytest -n 4 $(ARGS)

test-oldest:  ## the same on the oldest mitmproxy supported, in an environment of its own
	@$(MAKE) --no-print-directory test VENV=$(VENV)/oldest MITMPROXY=$(OLDEST) ARGS='$(ARGS)'

faults: $(VENV)/test  ## play every fault of an upstream and write docs/faults.md
	@mkdir -p docs
	@$(BIN)/python tools/faults.py > docs/faults.md.new && mv docs/faults.md.new docs/faults.md

oracle: $(VENV)/test  ## a real model server asked twice, directly and through the proxy (downloads 250 MB once)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tools/oracle-requirements.txt
	@$(BIN)/python tools/oracle.py $(ARGS)

fuzz: $(VENV)/fuzz  ## look for bytes that break a law of the library, for ten minutes (ARGS='--seconds 60 stream')
	@$(BIN)/python tools/fuzz.py $(ARGS)

soak: $(VENV)/test  ## 200 streams at once for three minutes, most with a fault, and what is left of them (ARGS='--seconds 60')
	@$(BIN)/python tools/soak.py $(ARGS)

bench: $(VENV)/bench  ## how fast streams are aggregated, side by side with other libraries
	@$(BIN)/python tools/bench.py

bench-proxy: $(VENV)/run $(VENV)/litellm  ## what forcing costs at the proxy, side by side, in half an hour (ARGS=--quick, ARGS=--write)
	@$(BIN)/python tools/bench_proxy.py --litellm "$$(ls $(VENV)/litellm/bin/litellm 2>/dev/null)" $(ARGS)

bench-scale: $(VENV)/run  ## how many streams a proxy carries, and what a second one behind HAProxy adds (ARGS=--quick, ARGS=--write)
	@$(BIN)/python tools/bench_scale.py $(ARGS)

lint: $(VENV)/lint  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:  ## remove what the targets made
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "force-stream needs Python 3.12 or newer; there is no $(PYTHON) here. Try: make PYTHON=python3.13 …"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "force-stream needs Python 3.12 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.13 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) && touch $@

# One stamp a set of packages, so that an update of pyproject.toml is installed before the next run.
$(VENV)/run: $(VENV)/made pyproject.toml
	@echo "Installing mitmproxy into $(VENV) (once) …"
	@$(BIN)/python tools/install.py $(MITMPROXY) && touch $@

$(VENV)/test $(VENV)/lint $(VENV)/bench $(VENV)/fuzz: $(VENV)/%: $(VENV)/run pyproject.toml
	@echo "Installing what $* needs into $(VENV) (once) …"
	@$(BIN)/python tools/install.py $* $(MITMPROXY) && touch $@

# An environment of its own: what the LiteLLM proxy needs and what mitmproxy needs exclude each other. Where it cannot be
# installed, the measurement goes on without it.
$(VENV)/litellm: $(VENV)/made
	@echo "Installing the LiteLLM proxy into $@ (once) …"
	@$(PYTHON) -m venv $@ && { $@/bin/python -m pip install --quiet --disable-pip-version-check 'litellm[proxy]>=1.80' || true; }
