# Deploys the demo into a lab on this machine, and tests the kit in labs of its own. `make help` lists the targets.
# Needs Debian 12 or 13, python3, and root or sudo without a password; installs the rest.

LAB ?= demo
INVENTORY ?= inventories/demo
# The scenarios of every change. `make test-all` has the others too: a project from PyPI, and the rest of the contract.
SCENARIOS ?= default debian12
ALL_SCENARIOS := $(sort $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml)))
# `make demo STRATEGY=mitogen_linear` runs the same plays under Mitogen.
STRATEGY ?=
# More arguments for ansible-playbook: `make demo ARGS="--check --diff"`.
ARGS ?=

APT_PACKAGES := ca-certificates curl debian-archive-keyring git iproute2 iptables mmdebstrap netavark nftables \
	openssh-client openssl podman procps python3-venv runc shellcheck
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
UV := .cache/uv/bin/uv
# Debian's own fail2ban reads the corpus of log lines. Unpacked, not installed: a package that is installed starts, and bans.
FAIL2BAN := .cache/fail2ban/usr/bin/fail2ban-regex

# What installs must trust what the machine trusts, a TLS-inspecting proxy's CA included; and never another Python than Debian's.
export PIP_CERT := /etc/ssl/certs/ca-certificates.crt
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MOLECULE_GLOB := molecule/*/molecule.yml
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
ifneq ($(STRATEGY),)
export ANSIBLE_STRATEGY := $(STRATEGY)
export ANSIBLE_STRATEGY_PLUGINS = $(shell .venv/bin/python -c 'import ansible_mitogen, os; print(os.path.dirname(ansible_mitogen.__file__))')/plugins/strategy
endif

# One way to run a playbook in a lab: the inventory says what the hosts are, .lab/ how to reach them.
PLAYBOOK = ansible-playbook -i $(INVENTORY) -i .lab/$(LAB)/hosts.yml --vault-id $(LAB)@molecule/lab/vault-client -e lab=$(LAB)

.DEFAULT_GOAL := help
.PHONY: help deps demo demo-down lab lab-down test test-all verify drill audit-edge docs lint unit guard bench clean
.NOTPARALLEL:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: lab ## Boot a lab and deploy INVENTORY (inventories/demo) in it; ends with a URL that works
	@echo '==> Deploying $(INVENTORY)'
	$(PLAYBOOK) $(ARGS) playbooks/site.yml
	@$(PLAYBOOK) molecule/lab/welcome.yml

demo-down: lab-down ## Remove the lab, its network, images and files

lab: deps .lab/$(LAB)/hosts.yml ## Boot the lab LAB (demo) for INVENTORY and deploy nothing
	@echo '==> Booting the lab $(LAB)'
	$(PLAYBOOK) molecule/lab/create.yml
	$(PLAYBOOK) molecule/lab/prepare.yml

lab-down: deps ## Remove the lab LAB (demo)
	$(PLAYBOOK) molecule/lab/destroy.yml

# A scenario waits for its hosts half of the time. Unit tests and the guard's want both cores, and give way to it.
test: lint ## Lint, unit tests, the guard's, and the Molecule scenarios default (Debian 13) and debian12
	@echo '==> Unit tests and the guard run beside the first scenario; what they say follows it, and is in .cache/unit.log until then'
	@nice -n 5 $(MAKE) unit guard >.cache/unit.log 2>&1 & beside=$$!; failed=; \
	trap "kill $$beside; exit 1" INT TERM; \
	$(MAKE) deps $(firstword $(SCENARIOS:%=test-%)) || failed=yes; \
	wait $$beside || failed=yes; cat .cache/unit.log; [ -z "$$failed" ]
	@$(MAKE) deps $(wordlist 2,99,$(SCENARIOS:%=test-%))
	@echo '==> All tests passed: lint, unit, guard, $(SCENARIOS)'

test-all: ## The same with every scenario
	$(MAKE) test SCENARIOS='$(ALL_SCENARIOS)'

test-%: deps
	@echo '==> Molecule scenario $*'
	molecule test --no-command-borders --scenario-name $*

verify: deps ## Run the host tests against the lab LAB (demo), which must be up
	REDOUBT_LAB=$(LAB) REDOUBT_INVENTORY=$(INVENTORY) pytest tests/host $(ARGS)

drill: deps ## Run the drills against the lab LAB (demo), which they change and put back; K=name for one
	REDOUBT_LAB=$(LAB) REDOUBT_INVENTORY=$(INVENTORY) pytest tests/drill $(if $(K),-k $(K)) $(ARGS)

audit-edge: deps ## Let Mozilla's Observatory, testssl.sh and ssh-audit judge the lab LAB (demo), which must be up
	REDOUBT_LAB=$(LAB) REDOUBT_INVENTORY=$(INVENTORY) .venv/bin/python tests/audit/edge

docs: deps ## Write the roles' READMEs from their argument_specs
	.venv/bin/python tests/specs.py --write

lint: deps ## ansible-lint, yamllint, argument_specs against defaults, ruff, shellcheck, secrets in the tree and its history
	@echo '==> Lint'
	ansible-lint --offline --strict
	yamllint --strict .
	.venv/bin/python tests/specs.py
	ruff check
	.venv/bin/python tests/leaks.py
	shellcheck $$(git ls-files ':!roles/*/templates/*' ':!collections' | xargs grep -slE '^#!/bin/(ba)?sh')

unit: deps $(FAIL2BAN) ## Unit tests of plugins, templates and argument_specs
	@echo '==> Unit tests'
	pytest --numprocesses auto --dist worksteal tests/unit

guard: deps ## Unit tests of the guard against Django 4.2, 5.2 and 6 (6 wants Python 3.12)
	@echo '==> Guard'
	guard/test $(UV)

bench: deps .lab/bench/hosts.yml ## Measure converges, a deploy, a rollback and requests against their floors, and 1 to 8 hosts; PART=hosts or run for one (bench/results.json)
	@for part in $(or $(PART),run hosts); do .venv/bin/python bench/$$part || exit; done

# What every target needs. Each step is skipped when there is nothing to do.
deps: .cache/packages .venv/.synced

.cache/packages: Makefile
	@[ -z '$(SUDO)' ] || sudo -n true || { echo 'This needs root: run it as root, or as a user whose sudo asks for no password.' >&2; exit 1; }
	@missing=$$(for package in $(APT_PACKAGES); do \
		dpkg-query -Wf '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done | xargs); \
	if [ -n "$$missing" ]; then \
		echo "==> Installing Debian packages: $$missing"; \
		$(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi
	@mkdir -p .cache && touch $@

$(UV): .config/uv.txt | .cache/packages
	@echo '==> Installing uv into .cache/uv'
	@python3 -m venv .cache/uv && .cache/uv/bin/pip install -q --disable-pip-version-check --require-hashes -r .config/uv.txt
	@touch $@

.venv/.synced: uv.lock pyproject.toml $(UV)
	@echo '==> Installing the locked Python tools into .venv'
	@$(UV) sync --frozen --all-groups && touch $@

$(FAIL2BAN): | .cache/packages
	@echo '==> Unpacking fail2ban into .cache/fail2ban'
	@rm -rf .cache/fail2ban && mkdir -p .cache/fail2ban
	@cd .cache/fail2ban && { apt-get download -qq fail2ban || { $(SUDO) apt-get update -q && apt-get download -qq fail2ban; }; }
	@dpkg-deb --extract .cache/fail2ban/fail2ban_*.deb .cache/fail2ban
	@touch $@

# The lab's inventory source exists before the lab does, so that every command line is the same.
.lab/%/hosts.yml:
	@mkdir -p $(@D) && echo 'all: {}' >$@

clean: ## Remove the installed tools and the cached images
	rm -rf .venv .cache
