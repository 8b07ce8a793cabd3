# The workbench of steadfast.asgi. Everything happens in tools/; this is its table of contents.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup lock molecule lint unit sanity example integration load bench smoke test docs build demo demo-down example-lock clean

COMMAND ?= test
SCENARIO ?= default

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Docker engine, test images, .venv, development link; quick when they are there
	@tools/setup

demo: ## The example application on a host of its own, in this machine's Docker; says where to look
	@tools/demo up

demo-down: ## Remove the demo's host
	@tools/demo down

test: ## Everything below; goes on after a failed stage and ends with the count
	@tools/test

lint: ## yamllint, ruff, mypy, shellcheck, ansible-lint, antsibull-docs; is docs/reference up to date
	@tools/test lint

sanity: ## ansible-test sanity on a copy of the checkout
	@tools/test sanity

unit: ## Unit tests of plugins and templates
	@tools/test unit

example: ## The example application's own tests
	@tools/test example

molecule: setup ## All scenarios, or ROLE=asgi_nginx, or SCENARIO=stack [COMMAND=test|converge|verify|destroy|login]
ifneq ($(ROLE)$(filter-out default,$(SCENARIO)),)
	@tools/molecule $(COMMAND) '$(ROLE)' '$(SCENARIO)'
else
	@tools/test molecule
endif

integration: ## Bad input, refused before anything is changed
	@tools/test integration

load: ## The short form of the benchmark: under load no deployment costs a request
	@tools/test load

bench: setup ## The benchmark behind the figures in the documentation
	@. tools/env.sh && python tests/load/bench.py && python tests/load/bench_nginx.py

smoke: ## The built tarball, installed and used as a user would, with the oldest supported ansible-core
	@tools/test smoke

docs: setup ## docs/reference anew from the argument specifications and the plugins' documentation
	@tools/docs

build: setup ## The collection's tarball, in .build/dist
	@tools/build

lock: setup ## requirements-dev.txt anew from requirements-dev.in
	@tools/lock

example-lock: setup ## The example application's uv.lock, from its exact pins
	@tools/example-lock

clean: ## Remove this checkout's containers, .venv and caches; never the Docker engine
	@tools/clean
