# make run    install into .venv and reproduce the published ablation (quick budget): table, CSV, pictures
# make test   install with the test extras and run the tests
# make bench  speed and growth beside a plain reference, JAX and limits: about 15 minutes of an idle machine
# make bench-truth   false alarms and power of the metrics, as in docs/metrics.md: about an hour
# make boards  every board, into docs/boards: an hour of two cores
# make fuzz   a fuzzer on everything that reads what strangers wrote, a minute for each target (FUZZ_SECONDS=60)
# make lint   format, lint and types, as .ci/run does

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint format bench bench-truth boards fuzz clean

run: $(VENV)/.installed
	$(BIN)/moonbed reproduce

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

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
