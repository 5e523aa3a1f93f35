# Wirt: `make run` boots the built-in guest, `make test` runs every check. Both set up all they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON
export PATH := $(PATH):$(HOME)/.cargo/bin
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON_SOURCES := $(shell find python -name '*.py')
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find crates -type f)
# Minutes of work show at a terminal how far they have come, and stay quiet in a pipe.
QUIET := $(shell test -t 2 || echo --quiet)
RUFF_PATHS := python tests tools $(wildcard bench)

.PHONY: run build test guests bench fmt lint test-rust test-python sanitize lock clean
.DEFAULT_GOAL := build

run: build
	@$(BIN)/wirt run tiny

build: $(VENV)/core $(VENV)/bytecode

test: lint test-rust test-python

lint: $(VENV)/test
	$(BIN)/ruff check $(RUFF_PATHS)
	$(BIN)/ruff format --check $(RUFF_PATHS)
	$(BIN)/mypy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

test-rust: $(VENV)/test
	cargo test --workspace --quiet

test-python: $(VENV)/test build
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

# Real operating systems that take minutes to boot; `make test` boots the others.
guests: $(VENV)/test build
	@tools/prepare guests
	WIRT_GUESTS=1 $(BIN)/pytest --numprocesses=2 --dist=load tests/system/test_debian_disk.py \
		tests/system/test_boot_discs.py

# The Rust core under AddressSanitizer, which the stable compiler has and hides. The models' generators leak
# their roots, and some tests have signal stacks of their own.
sanitize:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0:use_sigaltstack=0 \
		cargo test --locked --target x86_64-unknown-linux-gnu --target-dir target/sanitize \
		--package hv --package block --package board --package scsi --package virtio --package ata --package recompiler --lib --tests

bench: $(VENV)/test build
	@tools/prepare bench
	$(BIN)/python -m bench

fmt: $(VENV)/test
	$(BIN)/ruff check --fix $(RUFF_PATHS)
	$(BIN)/ruff format $(RUFF_PATHS)
	cargo fmt --all

# Pins the newest versions that pyproject.toml allows; pip-compile lives in a place of its own.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools
	build/lock/bin/python tools/lock.py --upgrade

clean:
	rm -rf $(VENV) build dist target python/wirt/_core*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each stands for a finished step, so that a second start does nothing.
$(VENV)/packages: requirements.lock
	@tools/prepare build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@

$(VENV)/test: requirements-test.lock $(VENV)/packages
	@tools/prepare test
	$(BIN)/pip install --quiet --require-hashes --requirement requirements-test.lock
	@touch $@

$(VENV)/core: $(SOURCES) $(VENV)/packages
	$(BIN)/maturin develop --release $(QUIET)
	@touch $@

# A start compiles nothing then, even where Python may not write (a user's checkout, PYTHONDONTWRITEBYTECODE).
$(VENV)/bytecode: $(PYTHON_SOURCES) $(VENV)/packages
	@$(BIN)/python -m compileall -q python/wirt
	@touch $@
