# vz: OpenVZ's system containers on an unpatched Linux kernel.  "make help" lists the targets.
PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= /usr/bin/python3
SHELL := /bin/bash
COMMANDS := vzctl vzlist vzpid vztmpl vztmpl-dl vzcfgvalidate vzifup-post vznetcfg vznetaddbr arpsend ndsend vzmigrate
TEMPLATES := $(shell $(PYTHON) -c 'import os; m = os.uname().machine; print(f"busybox-{m} debian-12-{m} debian-13-{m} debian-12-{m}-sysvinit")')
umask := umask 022;

.PHONY: help setup templates demo check test soak bench install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## install what the tree needs: Debian packages, criu, test tools
	@$(umask) tools/setup

templates: setup ## build the OS templates that the demo and the tests use
	@$(umask) tools/templates $(TEMPLATES)

demo: templates ## the session of the 2012 talk, for real, on a test node
	@tools/demo

check: ## what needs no root: linters, types, unit tests
	@.venv/bin/python -B -m pytest -p no:cacheprovider -q tests/unit tests/compat

test: templates ## every test, with small counts
	@tests/run

soak: templates ## every test, with the counts that a release wants
	@tests/run --soak

bench: templates ## figures beside crun, runc and lxc
	@bench/lifecycle.py

install: ## install below $(DESTDIR)$(PREFIX), and /etc/vz where absent
	@$(umask) tools/install '$(DESTDIR)' '$(PREFIX)' $(COMMANDS)

uninstall: ## remove what install put there; configuration and containers stay
	@tools/uninstall '$(DESTDIR)' '$(PREFIX)' $(COMMANDS)

clean: ## remove caches, not the built templates
	@rm -rf .pytest_cache .mypy_cache .ruff_cache; find . -name __pycache__ -prune -exec rm -rf {} +
