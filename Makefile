# `make demo` (simulate, preprocess, train, report), `make test` (everything that is checked), `make lab` (the book).
# All make their own virtual environment in .venv; all they need is Python 3.10 or newer (with venv) and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
export PYTHONWARNINGS = ignore
export JUPYTER_PLATFORM_DIRS = 1
# notebooks run in the Python of .venv, whatever kernels the machine has
export JUPYTER_PATH = $(CURDIR)/.venv/share/jupyter
# threads that wait should sleep, not spin: other processes share the cores
export OMP_WAIT_POLICY = PASSIVE

# `make ablations`: how many seeds, runs at a time, and where
SEEDS ?= 1
JOBS ?= 2
ABLATIONS := runs/ablations

# `make bench`: a folder for the numbers that are kept; none without
BENCH ?=

# `make rehearsal`: where, how much of the twin, and on which port its server listens
REHEARSAL := runs/rehearsal
SCALE ?= 0.02
PORT ?= 8977
# the tables of the rehearsal, all SIMULATED
RESULTS ?= $(REHEARSAL)/results

.PHONY: demo test lab install check readme export clean bench long ablations rehearsal

# papermill asks that the folder of its output is there: runs/ is, from here on
install: .venv/installed
	@mkdir -p runs stores

.venv/installed: setup.py settings.ini constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "pedarr needs Python 3.10 or newer: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python's venv module is missing: on Debian or Ubuntu, apt install python3-venv" >&2; exit 2; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@$(BIN)/pedarr demo $(DEMO)

# opens the book in JupyterLab
lab: install
	$(BIN)/jupyter lab nbs/index.ipynb

check: install
	@$(BIN)/python .ci/check.py
	@$(BIN)/python .ci/readme.py --check
	@$(BIN)/python .ci/parameters.py --check
	@$(BIN)/python .ci/style.py
	@$(BIN)/python .ci/contents.py --check

test: check
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests

# BENCH=nbs/results/speed keeps the numbers of trainings, steps and PTB-XL's store there, with the machine and its load
bench: install
	PEDARR_BENCH=$(BENCH) $(BIN)/python -m pytest -q -s -m bench tests

# what takes too long for every change: some thousand mutated inputs, many kills, experiments on small data,
# probes of kept encoders on all of PTB-XL; two hours and more
long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long tests

# a SIMULATED twin at a twentieth of its length, at 250 Hz: which network, and which modality?
ablations: install
	@mkdir -p $(ABLATIONS)
	@test -f $(ABLATIONS)/twin/RECORDS || $(BIN)/pedarr simulate $(ABLATIONS)/twin --scale 0.05 --jobs $(JOBS)
	@$(BIN)/pedarr preprocess $(ABLATIONS)/twin $(ABLATIONS)/store --rate 250 --iegm-band 30 110 --jobs $(JOBS)
	$(BIN)/papermill nbs/experiments/ablations.ipynb $(ABLATIONS)/ablations.ipynb -p store $(ABLATIONS)/store -p out $(ABLATIONS)/runs -p seeds $(SEEDS) -p jobs $(JOBS)

# the Leipzig notebook from download to tables, on a piece of the SIMULATED twin behind a server on this machine;
# stopped, it goes on where it was
rehearsal: install
	@mkdir -p $(REHEARSAL)
	@test -f $(REHEARSAL)/release/RECORDS || $(BIN)/pedarr simulate $(REHEARSAL)/release --scale $(SCALE) --jobs $(JOBS)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(REHEARSAL)/release $(PORT) >/dev/null 2>&1 & \
	trap "kill $$!" EXIT; $(BIN)/papermill nbs/experiments/leipzig.ipynb $(REHEARSAL)/leipzig.ipynb \
	  -p address http://127.0.0.1:$(PORT) -p folder $(REHEARSAL)/data -p out $(REHEARSAL) -p results $(RESULTS) -p jobs $(JOBS) \
	  -y '{preprocess: {rate: 250, iegm_band: [30, 110]}, seeds: 1, n_folds: 3, epochs: 2, cap: 10}' \
	  -y '{common: {dim: 16, depth: 1, heads: 2, resamples: 500}}' \
	  -y '{own: {xresnet1d: {model: xresnet1d, model_options: {width: 16}, channel_dropout: 0}, InceptionTime: {model: inceptiontime, model_options: {width: 8}, channel_dropout: 0}}}'

export: install
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python .ci/parameters.py
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/readme.py
	$(BIN)/python .ci/contents.py

readme: install
	$(BIN)/python .ci/readme.py
	$(BIN)/python .ci/contents.py

clean:
	rm -rf .venv build dist *.egg-info
