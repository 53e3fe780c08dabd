# vz: OpenVZ's system containers on an unpatched Linux kernel.  "make help" lists the targets.
PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= /usr/bin/python3
SHELL := /bin/bash
TEMPLATES := $(shell $(PYTHON) -c 'import os; m = os.uname().machine; print(f"busybox-{m} debian-12-{m} debian-13-{m} debian-12-{m}-sysvinit")')
# with servers in them, for tests/e2e/test_services.py: one for "make test", all for "make soak"
SERVICES := $(shell $(PYTHON) -c 'import os; m = os.uname().machine; print(f"debian-12-services-{m} debian-13-services-{m} debian-12-services-{m}-sysvinit")')
umask := umask 022;
export DESTDIR PREFIX

.PHONY: help setup templates demo check test test-vm soak bench install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## install what the tree needs: Debian packages, criu, test tools
	@$(umask) tools/setup

templates: setup ## build the OS templates that the demo and the tests use
	@$(umask) tools/templates $(TEMPLATES)

demo: templates ## the session of the 2012 talk, for real, on a test node
	@tools/demo

check: ## what needs no root: linters, types, unit tests
	@$(umask) tools/setup --test-tools
	@.venv/bin/python -B -m pytest -p no:cacheprovider -q tests/unit tests/compat

test: templates ## every test, with small counts; here, then on cgroup v2 in user-mode Linux
	@$(umask) tools/templates $(firstword $(SERVICES))
	@tests/run

test-vm: templates ## what depends on the kernel, on Debian 12's under QEMU without KVM (takes long)
	@$(umask) tools/vm-system
	@tests/vm/run --debian

soak: templates ## every test, with the counts that a release wants
	@$(umask) tools/templates $(SERVICES)
	@tests/run --soak

bench: templates ## figures beside crun, runc and lxc
	@bench/lifecycle.py

install: ## the commands to PREFIX (/usr/local), below DESTDIR; /etc/vz where there is none
	@tools/install "$$DESTDIR" "$$PREFIX"

uninstall: ## remove what install put there; configuration and containers stay
	@tools/install --remove "$$DESTDIR" "$$PREFIX"

clean: ## remove caches, not the built templates
	@rm -rf .pytest_cache .mypy_cache .ruff_cache; find src tests bench tools -name __pycache__ -prune -exec rm -rf {} +
