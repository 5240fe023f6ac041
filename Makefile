# Two commands for a newcomer: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# With --no-compile, Python compiles the modules that are used, and no others.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Node and npm may be in the virtual environment: tests/npm installs them there if they are missing.
NPM = PATH="$(abspath $(BIN)):$$PATH" npm

.DEFAULT_GOAL := help
.PHONY: help run test lint unit page web site siteimage coverage e2e fuzz bench soak compatibility clients images server npm system bundle packages lock wheel clean

help: ## List what can be made
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 22

run: $(VENV)/.runs ## Install and start everything in one program
	@$(BIN)/twistd -n --pidfile= ctllm $(ARGS)

test: system $(VENV)/.tests $(VENV)/.npm $(VENV)/.web ## Install what the tests need and run them all
	@BIN=$(BIN) tests/all

lint: $(VENV)/.tests ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

unit: $(VENV)/.tests ## The unit tests alone
	$(BIN)/trial tests.unit

coverage: $(VENV)/.tests ## The unit tests, and the branches that they do not cover
	$(BIN)/coverage run -m twisted.trial --reporter=summary tests.unit
	$(BIN)/coverage report

page: $(VENV)/.web ## Build the chat page from web/ into ctllm/page/
	cd web && $(NPM) run -s build

web: $(VENV)/.web ## The types and unit tests of the chat page
	cd web && $(NPM) run -s check && $(NPM) run -s test

e2e: system $(VENV)/.tests $(VENV)/.npm $(VENV)/.web ## The end-to-end tests alone
	$(BIN)/pytest tests/e2e

bench: $(VENV)/.tests ## Measure beside nginx, ssh -R and Docker alone (about twenty minutes)
	$(BIN)/python -m benchmarks.streams $(ARGS)
	$(BIN)/python -m benchmarks.cancel
	$(BIN)/python -m benchmarks.containers
	$(BIN)/python -m benchmarks.thousand --users 50 --minutes 1
	$(BIN)/python -m benchmarks.idle

fuzz: $(VENV)/.tests ## A million hostile frames of each kind, and HTTP (about twenty minutes)
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: system $(VENV)/.tests ## A thousand kills of tray, bridge and Ollama (about ten minutes)
	$(BIN)/python -m tests.soak $(ARGS)

compatibility: $(VENV)/.tests $(VENV)/.npm $(VENV)/.compatibility ## Every client and endpoint, directly and through ctllm (a minute)
	$(BIN)/python -m tests.compatibility $(ARGS)
	CTLLM_HEAVY_CLIENTS=1 $(BIN)/pytest -q tests/e2e/test_client_snippets.py

images: $(VENV)/.runs ## Build the image of the streaming proxy (BASE_IMAGE=..., for a server with Docker)
	@PYTHON=$(BIN)/python containers/build $(BASE_IMAGE)

server: $(VENV)/.docs ## Build the site and the images of the whole server (BASE_IMAGES="...", docs/operations.md)
	@PYTHON=$(BIN)/python containers/build-server $(BASE_IMAGES)

clients: $(VENV)/.tests ## Write docs/clients.md, and what the page shows, from the table of clients
	$(BIN)/python -m ctllm.client_snippets > docs/clients.md
	$(BIN)/python -m ctllm.client_snippets --json > web/src/settings/snippets.json

npm: $(VENV)/.npm ## The clients from npm that the tests drive

system: ## Programs of the system that the tests drive (a browser)
	@tests/system

site: $(VENV)/.docs ## Build the homepage, the documentation and the downloads (dist/) into build/site/
	@$(BIN)/python -m site_builder

siteimage: site ## Build the image of the static site (BASE_IMAGE=..., any with nginx)
	@containers/static-site/make-image $(BASE_IMAGE)

bundle: $(VENV)/.tests ## Build a folder with programs that need no Python (dist/ctllm, two minutes)
	$(BIN)/pyinstaller --noconfirm --log-level WARN --distpath dist --workpath build/bundle bundle/ctllm.spec

packages: system bundle ## Build everything that people download into dist/ (five minutes; docs/install.md)
	$(BIN)/python -m package_builder --bundle dist/ctllm

wheel: $(VENV)/.tests ## Build the wheel and the source distribution
	$(BIN)/python -m package_builder --only wheel

lock: $(VENV)/.tests ## Update the versions of dependencies in packages
	$(BIN)/python -m package_builder.lock

clean: ## Remove what was made
	rm -rf $(VENV) build dist *.egg-info _trial_temp* .hypothesis .mypy_cache .ruff_cache .coverage

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ctllm needs Python 3.11 or later; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python cannot make virtual environments here; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.runs: $(BIN)/python setup.cfg pyproject.toml
	@echo "Installing ctllm into $(VENV) ..."
	@$(PIP) --no-compile --editable .
	@touch $@

$(VENV)/.tests: $(BIN)/python setup.cfg pyproject.toml
	@echo "Installing ctllm and what its tests need into $(VENV) ..."
	@$(PIP) --editable '.[test,docs]'
	@touch $@ $(VENV)/.runs $(VENV)/.docs

$(VENV)/.docs: $(BIN)/python setup.cfg pyproject.toml
	@echo "Installing ctllm and what its documentation is built with into $(VENV) ..."
	@$(PIP) --no-compile --editable '.[docs]'
	@touch $@ $(VENV)/.runs

$(VENV)/.npm: $(BIN)/python tests/compatibility/package.json
	@BIN=$(BIN) tests/npm
	@touch $@

$(VENV)/.web: web/package-lock.json $(VENV)/.npm
	@echo "Installing what the page is built with into web/node_modules ..."
	@cd web && $(NPM) ci --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.compatibility: $(VENV)/.tests
	@echo "Installing the heavy clients into $(VENV) ..."
	@$(PIP) --editable '.[compatibility]'
	@touch $@
