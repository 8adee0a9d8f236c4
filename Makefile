# make demo: install and run the digits sweep.   make test: install and run the tests that need nothing else.
# make outside: tests against programs of others: servers of MLflow, S3 and PostgreSQL, browser, evaluators, compiler, LaTeX, Jupyter.
# make slurm: tests on a private Slurm (needs Debian's slurm-wlm and root).   make ray: on a private Ray.   make cluster: both.
# make robustness: thousands of damaged sweeps, stores and environments.   make lower-bounds: tests with the oldest libraries allowed.
# make faults: each fault of a Slurm cluster once.   make soak: ten rounds of random faults, on Slurm and Ray.   make lint: ruff and mypy.
# make gpu: numbers and speed on one GPU, in nine minutes; results in results/gpu (benchmarks/gpu).
# make docs: the documentation as a site, in site/.   make constraints: the versions in .venv, into constraints.txt.
# To choose the Python: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
ROUNDS ?= 10
VECTORS := $(addprefix --vectors ,$(wildcard ../shared/vectors))
IMAGES := $(addprefix --images ,$(wildcard ../shared/data/cifar10-small))
# Tests start thousands of processes: what Python compiles is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
# Real daemons on a busy machine are late now and then: such a test has a second chance, and what needed it is told at the end.
WITH_DAEMONS := $(VENV)/bin/python -m pytest --reruns 1 -rR

.PHONY: demo test outside robustness lower-bounds slurm ray cluster faults soak gpu lint docs constraints clean

demo: $(STAMP)
	$(VENV)/bin/nagbench run sweeps/digits.yaml

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/slurm --ignore tests/ray -m "not slow and not cluster and not outside"

outside: $(STAMP)
	$(WITH_DAEMONS) --ignore tests/slurm --ignore tests/ray -m outside

robustness: $(STAMP)
	$(VENV)/bin/python -m pytest -s -m slow tests/robustness

lower-bounds:
	PYTHON=$(PYTHON) .ci/lower_bounds

slurm: $(STAMP)
	$(WITH_DAEMONS) tests/slurm --ignore tests/slurm/test_faults.py

ray: $(STAMP)
	$(WITH_DAEMONS) tests/ray
	$(WITH_DAEMONS) -m cluster tests/orchestrator/backends

cluster: slurm ray

faults: $(STAMP)
	$(WITH_DAEMONS) tests/slurm/test_faults.py

soak: $(STAMP)
	$(VENV)/bin/python -m tests.slurm.soak $(ROUNDS)
	$(VENV)/bin/python -m tests.ray.soak $(ROUNDS)

gpu: $(STAMP)
	$(VENV)/bin/python -m benchmarks.gpu --minutes 9 --out results/gpu $(VECTORS) $(IMAGES)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

constraints: $(STAMP)
	(grep '^#' constraints.txt; $(VENV)/bin/pip list --format=freeze --exclude nagbench --exclude pip --exclude setuptools \
	  | sed 's/+.*//' | LC_ALL=C sort -f) > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info
