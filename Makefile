# Two commands: `make demo` and `make test`. Each sets up .venv by itself, from the pinned versions in constraints.txt.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
OUT ?= demo-out

.PHONY: demo test check lint bench-inference bench-surface clean help

help:
	@echo "make demo    segment a brain region from DICOM to report, into $(OUT)"
	@echo "make test    run the tests"
	@echo "make check   lint, types, import contracts and tests"
	@echo "make bench-surface   surface distances against surface-distance and MONAI"
	@echo "make bench-inference   speed and memory of inference beside MONAI: minutes to an hour"
	@echo "make clean   remove $(VENV) and $(OUT)"

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "== Setting up $(VENV) with the versions of constraints.txt (some minutes the first time)"
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

demo: $(VENV)/ready
	@echo "== Segmenting a region of the ICBM 152 brain template: DICOM in, report out"
	$(BIN)/voxmetry demo --out $(OUT) --overwrite
	@echo "== Open $(OUT)/report.html in a browser"

test: $(VENV)/ready
	@echo "== Running the tests and the examples in the documentation of the code"
	$(BIN)/python -m pytest -q

lint: $(VENV)/ready
	@echo "== Lint, types, import contracts"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-inference: $(VENV)/ready
	@echo "== Inference beside MONAI, one process a row; minutes to an hour. Tables on standard output"
	$(BIN)/python benchmarks/bench_inference.py --size 512 512 300 --classes 25 --rows voxmetry voxmetry-float32 monai
	$(BIN)/python benchmarks/bench_inference.py --size 512 512 600 --classes 105 --rows voxmetry
	$(BIN)/python benchmarks/bench_inference.py --size 256 256 150 --size 384 384 225 --size 512 512 300 \
	  --size 512 512 450 --size 512 512 600 --classes 25 --rows voxmetry --plot docs/pictures/inference.png

check: lint test

# Against surface-distance and MONAI; SIZES="tiny" for a quick look. DATA is the folder of data/README.md.
SIZES ?= small large
REPEATS ?= 3
bench-surface: $(VENV)/ready
	$(BIN)/python benchmarks/bench_surface.py --sizes $(SIZES) --repeats $(REPEATS) $(if $(DATA),--data $(DATA))

clean:
	rm -rf $(VENV) $(OUT)
