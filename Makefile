# The commands of daily work. `make demo` and `make test` are all a newcomer needs; both are complete by themselves.

# Build profile of the demo. `dev` compiles fastest; `make demo DEMO_PROFILE=release` runs fastest.
DEMO_PROFILE ?= dev
# Where the demo project is written.
DEMO_FOLDER ?= target/flights
# More arguments for pytest, such as `make test PYTEST="-k flights"`.
PYTEST ?=

PYTHON ?= python3
VENV := target/venv
CHROMIUM ?= /usr/bin/chromium
profile_folder = $(if $(filter dev,$(1)),debug,$(1))

.PHONY: help demo test test-ballista ui venv chromium servers azurite fmt lint clean

help:
	@echo "make demo    build, then serve the flights project until Ctrl-C"
	@echo "make test    all tests: Rust, stock Feast's SDK, the web page"
	@echo "make test-ballista   tests of the distributed engine, which is built for them"
	@echo "make ui      build the web page"
	@echo "make fmt     format the source"
	@echo "make lint    what .ci/run checks beside the tests"
	@echo "make clean   delete what was built"

demo:
	@test -d target/$(call profile_folder,$(DEMO_PROFILE))/build || \
		echo "The first build takes about ten minutes on two cores; the next one seconds."
	@$(MAKE) --no-print-directory ui
	cargo build --locked --profile $(DEMO_PROFILE)
	@exec target/$(call profile_folder,$(DEMO_PROFILE))/thali demo $(DEMO_FOLDER)

test: ui venv chromium servers azurite
	$(VENV)/bin/python tests/with_servers.py cargo test --locked
	cargo build --locked
	THALI_CHROMIUM=$(CHROMIUM) $(VENV)/bin/python -m pytest tests --ignore tests/test_ballista.py $(PYTEST)

# In a target directory of its own: with the feature, DataFusion and what is on top of it are built anew.
test-ballista: export CARGO_TARGET_DIR = target/ballista
test-ballista: ui venv servers
	cargo test --locked --features ballista --lib ballista
	cargo build --locked --features ballista
	THALI_BIN=target/ballista/debug/thali $(VENV)/bin/python -m pytest tests/test_ballista.py $(PYTEST)

# --- what the tests and the page need -------------------------------------------------------------------------------

ui: ui/dist/index.html

ui/dist/index.html: ui/node_modules/.package-lock.json ui/index.html ui/vite.config.ts ui/tsconfig.json $(shell find ui/src ui/public -type f 2>/dev/null)
	npm --prefix ui run build
	@touch $@

ui/node_modules/.package-lock.json: ui/package.json ui/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer (Debian: apt-get install nodejs npm)" >&2; exit 1; }
	npm --prefix ui ci --no-audit --no-fund
	@touch $@

venv: $(VENV)/installed

$(VENV)/installed: tests/requirements.txt
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

chromium:
	@test -x $(CHROMIUM) || { missing=chromium; problem="$(CHROMIUM) is missing; name another with CHROMIUM= or install it"; $(install); }

# The emulator of Azure, which tests/clouds.py starts.
AZURITE := target/azurite
azurite: $(AZURITE)/node_modules/.package-lock.json

$(AZURITE)/node_modules/.package-lock.json: $(wildcard tests/azurite/package*.json)
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer (Debian: apt-get install nodejs npm)" >&2; exit 1; }
	@mkdir -p $(AZURITE)
	cp tests/azurite/package.json tests/azurite/package-lock.json $(AZURITE)
	npm --prefix $(AZURITE) ci --ignore-scripts --no-audit --no-fund
	@touch $@

# What tests/servers.py starts for itself, each in a folder and on a port of its own.
servers:
	@PATH="$$PATH:/usr/local/sbin:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')"; missing=; \
	command -v initdb >/dev/null || missing="$$missing postgresql"; \
	command -v mariadbd >/dev/null && command -v my_print_defaults >/dev/null || missing="$$missing mariadb-server-core mariadb-client-core"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	test -z "$$missing" || { problem="servers for the tests are missing"; $(install); }

# Installs the Debian packages $$missing when root, and starts none of their services; else says $$problem and what to do.
define install
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null || \
		{ echo "$$problem (Debian: apt-get install $${missing# })" >&2; exit 1; }; \
	if test ! -e /usr/sbin/policy-rc.d; then \
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; \
	fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
endef

# --- house-keeping --------------------------------------------------------------------------------------------------

fmt:
	cargo fmt

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

clean:
	cargo clean
	rm -rf ui/dist ui/node_modules
