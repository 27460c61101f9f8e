# Every verb and what it does: `make help`. Works with GNU Make 3.81 (macOS) and later.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := book,test
QUICK := runs/quickstart
CHROMIUM ?= $(shell command -v chromium || command -v google-chrome)
CORE := $(addprefix aequa_lite/,$(addsuffix .py,allocation/exact checkpoint config contribution evaluation federate local method \
  metrics report slimmable training_time types vectorized))
AXE := $(abspath $(VENV)/package/axe.min.js)

.PHONY: help quickstart test test-all lint unit nbval strict book pdf notebooks colab gpu lock bench clean distclean
.DEFAULT_GOAL := help

help: ## print what every verb does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "PYTHON is $$($(PYTHON) --version 2>&1); aequa-lite needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	@# an interpreter that already has torch and torchvision (a GPU build, a cluster's) lends them to the environment
	@test -x $(BIN)/python || if $(PYTHON) -W ignore -c 'import torch, torchvision' 2>/dev/null; \
	  then echo "using the torch that $(PYTHON) has"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	  else $(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -m pip install -e '.[$(EXTRAS)]'
	@touch $(STAMP)

quickstart: $(STAMP) ## run the whole system on real data (about a minute) and print who earned what
	@mkdir -p $(QUICK)
	$(BIN)/papermill --log-output --no-progress-bar notebooks/01_quickstart.ipynb $(QUICK)/01_quickstart.ipynb -p out $(QUICK)
	@$(BIN)/aequa show $(QUICK)

test: lint unit nbval strict ## run everything that CI runs: lint, unit tests, notebooks, strict book build
	@echo "lint, unit tests, notebooks and book: all passed"

lint: $(STAMP) ## check style and spelling of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 76 $(CORE)
	$(BIN)/codespell

# two processes at a time, one thread in each: two pools of threads on the same cores would wait for each other;
# the pretend GPU changes torch as long as it is there, so its tests have a process of their own
unit: $(STAMP) ## run the unit tests and the examples of the docstrings
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --doctest-modules aequa_lite tests \
	  --ignore=tests/gpu --ignore=tests/test_book.py --ignore=tests/test_browser.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n0 -m 'not whole' tests/gpu

test-all: test ## the same, and every docstring and notebook as on a machine with a GPU (half an hour more)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n0 -m whole tests/gpu

nbval: $(STAMP) ## run the notebooks and compare their exact outputs with the committed ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -W default --nbval notebooks --nbval-sanitize-with tests/nbval_sanitize.cfg \
	  --nbval-cell-timeout=900 --nbval-kernel-startup-timeout=120

strict: $(STAMP) ## build the book from nothing, warnings as errors, and test its pages
	rm -rf _build
	$(BIN)/jupyter-book build . --all -W -n --keep-going
	AEQUA_CHROMIUM=$(CHROMIUM) $(BIN)/python scripts/pdf.py
	@# axe-core checks accessibility; without npm its part of the test is left out
	@test -f $(AXE) || (cd $(VENV) && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz package/axe.min.js) || true
	AEQUA_BOOK=_build/html AEQUA_CHROMIUM=$(CHROMIUM) AEQUA_AXE=$(AXE) $(BIN)/pytest -q -rs -n 2 tests/test_book.py tests/test_browser.py

book: $(STAMP) ## build the HTML from the committed outputs; it opens without a network
	$(BIN)/jupyter-book build . -q
	@echo "open _build/html/index.html"

pdf: book ## print the whole book as one PDF (needs Chromium; CHROMIUM=path)
	AEQUA_CHROMIUM=$(CHROMIUM) $(BIN)/python scripts/pdf.py

notebooks: $(STAMP) ## run the notebooks again and refresh their committed outputs
	$(BIN)/python scripts/refresh.py

colab: $(STAMP) ## run every notebook with Colab's packages and no others (COLAB_PYTHON=path of a Python 3.13; half an hour)
	$(BIN)/python scripts/colab_check.py $(if $(COLAB_PYTHON),--python $(COLAB_PYTHON))

gpu: $(STAMP) ## on a machine with a GPU: check it and measure it (under nine minutes), into results/gpu
	began=$$(date +%s); $(BIN)/pytest -q -n0 -m 'gpu and not whole' tests/gpu; tested=$$?; \
	  $(BIN)/python benchmarks/gpu.py --began $$began && exit $$tested

lock: $(STAMP) ## write requirements.lock anew: what a fresh environment installs, with hashes
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 pyproject.toml --extra book --extra test -o requirements.lock

bench: $(STAMP) ## measure the speeds on this machine and write the book's page of them (keep it quiet for five minutes)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/page.py

clean: ## remove what was built and run; keep the environment
	rm -rf _build notebooks/runs .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
