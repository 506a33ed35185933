# make workbook and make test do all the set-up that they need. `make help` lists the targets.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.set-up

# One thread per process: numbers repeat, and processes that run side by side do not slow each other
# down. No progress bars: they would be in the notebooks' stored outputs. No downloads of models.
ONE_THREAD := OMP_NUM_THREADS=1 KT_PROGRESS=off KT_MY_GPT=off HF_HUB_OFFLINE=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
API := kt_core kt_core.runs kt_core.corpora kt_course.lesson kt_course.statistics \
	kt_course.exercises kt_course.exercises.my_gpt kt_course.explorers.living_page \
	kt_course.figures kt_course.grading
QUICK_TESTS := tests/core tests/corpora tests/runs tests/test_budgets.py

.DEFAULT_GOAL := help
.PHONY: help venv setup workbook check test lab scripts references checkpoints lint
.PHONY: api lms lens rehearsal clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(BIN)/python ## an empty .venv, to put a torch of your choice in before make setup

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); \
	ok or print("Python 3.11 or newer is needed; $(PYTHON) is", sys.version.split()[0] + ".", \
	"Name another: make setup PYTHON=python3.12", file=sys.stderr); sys.exit(not ok)'
	$(PYTHON) -m venv .venv

setup: $(STAMP) ## build .venv with kt_core and the kt command; at once when it is up to date

$(STAMP): pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing into .venv: a few minutes the first time."
	@$(BIN)/python tools/pins.py > .venv/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement .venv/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

workbook: setup ## run the notebooks and write the report (ARGS="--profile smoke" passes options)
	$(BIN)/kt workbook $(ARGS)

check: lint ## lint, import contracts, tests of the core, corpora and runs: a minute
	$(PYTEST) -m "not slow and not bench" $(QUICK_TESTS)

test: lint $(if $(CI),lms) ## lint, all tests, and the notebooks against their stored outputs
	$(PYTEST) notebooks tests --nbval --nbval-current-env \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 900
	@$(BIN)/python tests/browsing.py

lab: setup ## open JupyterLab on your own copies of the notebooks, in my_notebooks
	$(BIN)/kt lab $(ARGS)

scripts: setup ## every notebook as a plain script in build/scripts
	$(BIN)/jupyter nbconvert --to python --output-dir build/scripts notebooks/*.ipynb

references: setup ## execute the committed notebooks anew, in place
	$(ONE_THREAD) $(BIN)/python tools/references.py

checkpoints: setup ## train the shipped checkpoints anew
	$(BIN)/python tools/checkpoints.py $(ARGS)

lint: setup ## ruff over packages, tests and notebooks, and who may import whom
	$(BIN)/ruff check . && $(BIN)/ruff format --check kt_core kt_course tests tools
	$(BIN)/lint-imports

api: setup ## the API reference from the docstrings, in build/api
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pdoc>=15"
	$(BIN)/pdoc $(API) --docformat google --output-directory build/api

lms: build/lms/.set-up ## nbgrader and otter-grader, for the tests of kt release --format
lens: build/lens/.set-up ## TransformerLens and datasets, for the tests of chapter 11's optional cells

# In environments of their own, because they pin other packages or are large; they borrow what .venv
# has.
build/lms/.set-up: PACKAGES := "nbgrader>=0.9.5" "otter-grader>=6.1"
build/lens/.set-up: PACKAGES := "transformer-lens>=4" "datasets>=3"
build/%/.set-up: $(STAMP)
	$(BIN)/python -m venv build/$*
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$(build/$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_venv.pth"
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

rehearsal: setup ## release, 30 synthetic students, grading, LMS files (ARGS="--students 6")
	$(ONE_THREAD) $(BIN)/python tools/rehearsal.py $(ARGS)

clean: ## remove builds and caches; .venv, runs and my_notebooks stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf .venv
