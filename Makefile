# Every target does its own set-up into .venv: Python >= 3.11 and make are all that has to be there.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready
CONSTRAINTS := .ci/constraints.txt

.PHONY: help venv demo test same versions smoke docs outputs diff readme assets lab clean
.DEFAULT_GOAL := help

help:            ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)   ## the set-up alone: .venv with the pinned development set
	@:

$(STAMP): pyproject.toml settings.ini $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "dd_repro needs Python 3.11 or later; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up .venv (about half a minute on a fast connection)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) uv
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import dd_repro.all, torchvision, kornia'
	@touch $@

demo: $(STAMP)   ## digits, one image a class: random real, MTT, the whole set
	@echo "demo: PyTorch is being loaded; all of it takes two minutes on a slow machine"
	@$(BIN)/dd_demo

test: $(STAMP)   ## notebooks, tests and the site, closed by one line of counts
	@$(BIN)/python tests/run.py

same: $(STAMP)   ## small runs of every method here and in the commit before the rebuild, compared bit by bit
	@$(BIN)/python tests/same.py

versions: $(STAMP) ## the tests on PyTorch 2.6, 2.11 and the newest, each in an environment of its own (6 GB); a table
	@$(BIN)/python tests/versions.py

smoke: $(STAMP)  ## one step of the main job, then of every distinct method, network and resolution in the tables
	@$(BIN)/dd_demo --smoke
	@$(BIN)/dd_smoke
	@$(BIN)/dd_score --smoke

docs: $(STAMP)   ## the site with outputs and pictures: _docs/index.html
	@$(BIN)/python docs/build.py --execute

outputs: $(STAMP) ## run the notebooks that changed and keep their outputs in nbs/ (ALL=1: every one; NB="07_distilled ...": these)
	@$(BIN)/python docs/build.py --outputs $(NB) $(if $(ALL),--all)

diff:            ## git diff with notebooks as text, pictures as a line each (WHAT="main -- nbs": of what)
	@git -c diff.jupyternotebook.textconv='python3 docs/outputs.py' diff $(WHAT)

readme: $(STAMP) ## README.md from nbs/index.ipynb, Colab lines from settings.ini
	@$(BIN)/python docs/build.py --readme

assets: $(STAMP) ## text that ships and is made by the library: words of commands, counts of arithmetic
	@$(BIN)/python -c 'from dd_repro.entry import write_assets; write_assets()'

lab: $(STAMP)    ## the notebooks in JupyterLab
	@$(BIN)/jupyter lab nbs

clean:           ## take away what the targets made (.venv and .data stay)
	@rm -rf _docs _proc build dist *.egg-info
	@find dd_repro tests docs nbs \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +
