# make run    install into .venv and reproduce the published ablation (quick budget): table, CSV, pictures
# make test   install with the test extras and run the tests
# make test-lowest, make test-newest   the tests with the lowest and with the newest releases that pyproject.toml admits
# make bench  speed and growth beside a plain reference, JAX and limits: about 15 minutes of an idle machine
# make bench-truth   false alarms and power of the metrics, as in docs/metrics.md: about an hour
# make boards  every board, into docs/boards: an hour of two cores
# make fuzz   a fuzzer on everything that reads what strangers wrote, a minute for each target (FUZZ_SECONDS=60)
# make lint   format, lint and types, as .ci/run does

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-lowest test-newest lowest lint format bench bench-truth boards fuzz clean

run: $(VENV)/.installed
	$(BIN)/moonbed reproduce

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Releases of other years, each in an environment of its own: build/lowest and build/newest

test-lowest: build/lowest/.installed
	build/lowest/bin/python -m pytest --numprocesses auto --dist worksteal

build/lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test,onnx]'
	@touch $@

test-newest:
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test,onnx]'
	build/newest/bin/python -m pytest --numprocesses auto --dist worksteal

# Made anew after a change of pyproject.toml, with uv; what the requirements require in turn is the newest of the day
lowest:
	@echo '# The lowest releases that Moonbed works with, made by: make lowest' > constraints-lowest.txt
	uv pip compile --quiet --extra test --extra onnx --resolution lowest-direct --python-version 3.11 --no-header \
	  --no-annotate pyproject.toml >> constraints-lowest.txt

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Moonbed needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,test,onnx]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/speed.py --out build/speed.json
	$(BIN)/python benchmarks/growth.py --out build/growth.json

bench-truth: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/calibration.py --out build/calibration.json
	$(BIN)/python benchmarks/power.py --out build/power.json

BOARDS := order densities few-steps guidance autoguidance published samplers objectives

boards: $(VENV)/.installed-dev
	for board in $(BOARDS); do $(BIN)/moonbed board $$board --markdown docs/boards/$$board.md || exit; done

FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS) --out build/fuzz

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
