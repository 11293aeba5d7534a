# From a fresh machine: `make demo` or `make test`. Everything is installed into .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
DEMO_ARGS ?=
RUNS ?= runs
OUT ?=
REPORT_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
FAULTS_ARGS ?=
COVERAGE_FLOOR ?= 95
# Two test processes, one thread each: more threads than cores only get in each other's way.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(TEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup docs detectron2 demo test test-slow test-slurm test-faults coverage slurm-packages bench report lint clean

help:
	@echo "make demo       install if needed, train and evaluate the guidelines grid on digits, show the table"
	@echo "                (DEMO_ARGS=\"--seeds 3\" adds options of ablations/run.py)"
	@echo "make report     tables, pictures, verdicts on the paper's claims and a page of stored runs"
	@echo "                (RUNS=\"DIR ...\" says which, default runs, or a file of them; OUT=DIR where to; REPORT_ARGS adds options)"
	@echo "make test       install if needed, check style and types, run the tests (TEST_ARGS=\"-k width\" adds options of pytest)"
	@echo "make test-slow  the tests that take longer"
	@echo "make test-slurm the tests on a real Slurm, which is installed where it may be (root on Debian or Ubuntu) and started for them"
	@echo "make test-faults kills, damaged files and wrong command lines, some hundreds of them: each must end equal or in one line"
	@echo "                (minutes; FAULTS_ARGS=\"--seed 7\" adds options of tests/faults/run.py)"
	@echo "make coverage   the tests with the lines that they run counted; fails below $(COVERAGE_FLOOR) % (TEST_ARGS as above)"
	@echo "make bench      how fast training, evaluation and data are, against plain references and the machine's limits"
	@echo "                (BENCH_ARGS=\"--only step limits\" adds options of benchmarks/run.py)"
	@echo "make docs       build the documentation site into site/ (mkdocs-material, installed if needed)"
	@echo "make lint       check style and types only"
	@echo "make detectron2 install detectron2 into $(VENV) if it is not there (make setup does it too)"
	@echo "make setup      install only, into $(VENV) (PYTHON=/path/to/python3 chooses another Python, 3.10 or newer)"
	@echo "make clean      remove $(VENV) and all caches; runs are kept"

setup: $(STAMP)

# The stamp is written last, so an installation that was interrupted is taken up again.
$(STAMP): requirements.txt pyproject.toml scripts/install_detectron2.py
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON); install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $$($(PYTHON) --version) is too old; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) comes without the venv module; install it (Debian, Ubuntu: apt-get install python3-venv) or name another Python: make PYTHON=/path/to/python3" >&2; exit 2; }
	@rm -f $(STAMP)
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "making the virtual environment $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing the pinned requirements into $(VENV): about 4 minutes, 6 GB (nearly all of it torch)"
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(PY) scripts/install_detectron2.py
	@touch $@
	@echo "installed"

# What detectron2 there is: the environment's own, or the Python part of 0.6 from PyPI.
detectron2: setup
	@$(PY) scripts/install_detectron2.py

# Two processes of one thread: layers this small gain little from a second thread.
demo: setup
	$(PY) ablations/run.py --grid guidelines --profile digits --seeds 1 --executor local --parallel 2 $(DEMO_ARGS)

report: setup
	$(PY) results/report.py --runs $(RUNS) $(if $(OUT),--out $(OUT)) $(REPORT_ARGS)

test: lint
	$(PYTEST) -m "not slow and not slurm"

# pytest's exit code 5 says that no test was selected.
test-slow: setup
	$(PYTEST) -m "slow and not slurm" || test $$? -eq 5

# One process: the tests share a cluster. Without Slurm they skip and say how to get it.
test-slurm: setup slurm-packages
	OMP_NUM_THREADS=1 $(PY) -m pytest $(TEST_ARGS) -m slurm tests/slurm

test-faults: setup
	$(PY) tests/faults/run.py $(FAULTS_ARGS)

# Slower than `make test` by about a third.
coverage: setup
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n 2 $(TEST_ARGS) -m "not slow and not slurm"
	$(PY) -m coverage combine -q
	$(PY) -m coverage report --fail-under=$(COVERAGE_FLOOR)

slurm-packages: setup
	@need=$$($(PY) tests/slurm/throwaway.py need); if [ -n "$$need" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Slurm: $$need"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$need >/dev/null; } || echo "Slurm could not be installed; its tests will skip"; \
	fi

bench: setup
	$(PY) benchmarks/run.py $(BENCH_ARGS)

# A link, an anchor or a page of the API that does not resolve fails the build.
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "built: site/index.html"

$(VENV)/.docs: $(STAMP)
	@$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation -e '.[docs]'
	@touch $@

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
