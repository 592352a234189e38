# Six targets: install, format, check, test, bench, demo. Each makes what it needs first.
# make bench MANIFESTS="A/manifest.jsonl B/manifest.jsonl" measures recognition on recordings of your own.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# A strict editable install links single files: it is made again when the set of files changes.
SOURCES := $(shell find agent retrieval speech memory -type f -not -path '*/__pycache__/*' | sort)
STAMP := $(VENV)/installed-$(shell (echo $(SOURCES); cat pyproject.toml constraints.txt) | cksum | cut -d' ' -f1)
HANDBOOK := examples/coffeehouse/handbook

.PHONY: install format check test bench demo

install: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=strict -e '.[dev]'
	# Its requirement on Linux is 1 GB of triton, which a CPU has no use for.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'openai-whisper>=20250625'
	rm -f $(VENV)/installed-*
	touch $@

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

test: install
	$(BIN)/vivavoce models fetch
	$(BIN)/python -m pytest

bench: install
	$(BIN)/vivavoce models fetch
	$(BIN)/python tests/benchmarks/run.py --out BENCHMARKS.md $(if $(MANIFESTS),--manifest $(MANIFESTS))

demo: install
	$(BIN)/vivavoce models fetch
	$(BIN)/vivavoce index $(HANDBOOK) --out out/coffeehouse-index
	$(BIN)/vivavoce ask examples/coffeehouse/questions/*.flac --knowledge out/coffeehouse-index \
		--persona examples/coffeehouse/persona.json --out out/answers
