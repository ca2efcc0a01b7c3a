# Two commands: `make demo` and `make test`. Each sets up .venv by itself, from the pinned versions in constraints.txt.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
OUT ?= demo-out

.PHONY: demo test mutations check lint docs bench-cohort bench-service bench-inference bench-inference-quick bench-training bench-gpu gpu-day bench-surface \
  reproduce-hippocampus reproduce-sarcoma reproduce-head-neck reproduce-brain serve-demo clean help

help:
	@echo "make demo    segment a brain from DICOM to report, into $(OUT)"
	@echo "make serve-demo   Orthanc, the service and OHIF on this machine, with a study that goes round; into serve-demo-out"
	@echo "make test    run the tests"
	@echo "make check   lint, types, import contracts and tests"
	@echo "make mutations   prove that changes of one line which would move a number make a test fail"
	@echo "make gpu-day   tests, benchmarks and a training on a GPU within nine minutes; GPU_OUT=FOLDER, DEVICE=cpu TINY=1 to try"
	@echo "make docs    the documentation site, into build/docs"
	@echo "make bench-cohort   many studies: throughput, memory, Dask workers, 100,000 simulated; DATA=FOLDER"
	@echo "make bench-service   the service: 200 jobs from 8 clients beside a cohort, then ten kills"
	@echo "make bench-surface   surface distances against surface-distance and MONAI"
	@echo "make bench-inference   speed and memory of inference beside MONAI: minutes to an hour"
	@echo "make bench-inference-quick   the same on a smaller image, in turns: ten minutes; AVX2=1 for processors without bf16"
	@echo "make bench-training   steps of training beside MONAI's recipe, and nnU-Net's trainer with NNUNET_PYTHON; minutes"
	@echo "make bench-gpu   the network and a whole study on a GPU: one minute"
	@echo "make reproduce-hippocampus   the cross-validation and the weights of hippocampus-mr; DATA=FOLDER"
	@echo "make reproduce-head-neck   the weights of head-neck-ct, hours on two cores; DATA=FOLDER"
	@echo "make reproduce-brain   the weights of brain-mr from made images, six hours on two cores; DATA=FOLDER"
	@echo "make reproduce-sarcoma   the cross-validation and the weights of sarcoma-petct; DATA=FOLDER"
	@echo "make clean   remove $(VENV) and $(OUT)"

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "== Setting up $(VENV) with the versions of constraints.txt (some minutes the first time)"
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

demo: $(VENV)/ready
	@echo "== Segmenting the ICBM 152 brain template: DICOM in, report out"
	$(BIN)/voxmetry demo --out $(OUT) --overwrite
	@echo "== Open $(OUT)/report.html in a browser"

# ONCE=--once ends it when the results are in Orthanc.
serve-demo: $(VENV)/ready
	$(BIN)/python deploy/demo.py $(ONCE)

test: $(VENV)/ready
	@echo "== Running the tests and the examples in the documentation of the code"
	$(BIN)/python -m pytest -q

# Five folds, their evaluation, then the weights that ship, on all cases, with the calibration of the folds. A run that was
# stopped goes on where it was. DATA holds the data sets of data/README.md.
FOLDS ?= 0 1 2 3 4
RUNS ?= runs
define reproduce
	for fold in $(FOLDS); do \
	  VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/$(1).yaml --fold $$fold -o $(RUNS)/$(1)/fold-$$fold --resume || exit 1; done
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/$(1).yaml -o $(RUNS)/$(1)/all --resume
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry evaluate configs/data/$(1).yaml -m $(RUNS)/$(1) $(2) -o $(RUNS)/$(1)/evaluation --overwrite
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry calibrate configs/data/$(1).yaml -m $(RUNS)/$(1) -o $(RUNS)/$(1)/calibration \
	  --into $(RUNS)/$(1)/all/model
endef

reproduce-hippocampus: $(VENV)/ready
	$(call reproduce,hippocampus-mr,)

reproduce-sarcoma: $(VENV)/ready
	$(call reproduce,sarcoma-petct,-m configs/models/suv41.yaml -m configs/models/kmeans.yaml --tolerance-mm 3)

# One run each: patients of the data set's own split are held out (head-neck-ct), or all real images are (brain-mr). Both
# may be stopped at any time and go on. MINUTES ends a run early, with weights written.
define reproduce_one
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/$(1).yaml -o $(RUNS)/$(1) --resume $(if $(MINUTES),--max-minutes $(MINUTES))
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry evaluate configs/data/$(1).yaml -m $(RUNS)/$(1)/model -o $(RUNS)/$(1)/evaluation --overwrite
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry calibrate configs/data/$(1).yaml -m $(RUNS)/$(1)/model -o $(RUNS)/$(1)/calibration \
	  --into $(RUNS)/$(1)/model
endef

reproduce-head-neck: $(VENV)/ready
	$(call reproduce_one,head-neck-ct)

# The second stage puts a level at full resolution above the first one's network.
reproduce-brain: $(VENV)/ready
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/brain-mr-coarse.yaml -o $(RUNS)/brain-mr-coarse --resume
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/brain-mr-fine.yaml -o $(RUNS)/brain-mr-fine --resume \
	  --from $(RUNS)/brain-mr-coarse/model $(if $(MINUTES),--max-minutes $(MINUTES))
	VOXMETRY_DATA=$(DATA) $(BIN)/voxmetry train configs/train/brain-mr.yaml -o $(RUNS)/brain-mr --resume \
	  --from $(RUNS)/brain-mr-fine/model $(if $(MINUTES),--max-minutes $(MINUTES))
	$(BIN)/python benchmarks/bench_brain.py $(DATA)/brain-mr -m $(RUNS)/brain-mr/model

# ONLY="nadir" for those whose name holds the word.
mutations: $(VENV)/ready
	@echo "== Each change of tests/mutations/mutations.yaml in a copy of the package: the tests it names must fail"
	$(BIN)/python tests/mutations/mutate.py $(ONLY)

lint: $(VENV)/ready
	@echo "== Lint, types, import contracts"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m sphinx -q -W -b html docs build/docs
	@echo "== Open build/docs/index.html in a browser"

# DATA is the folder of data/README.md; COHORT="--part dask" for one part. The machine should have nothing else to do.
bench-cohort: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[distributed]"
	$(BIN)/python benchmarks/bench_cohort.py $(DATA)/hippocampus-mr --plots docs/pictures $(COHORT)

bench-service: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[serve]"
	$(BIN)/python benchmarks/bench_service.py
	$(BIN)/python benchmarks/bench_service.py --part kill --jobs 40

# NNUNET_PYTHON is a Python with nnunetv2, for the rows of its own predictor. Results are kept until the code changes.
bench-inference: $(VENV)/ready
	@echo "== Inference beside MONAI, one process a row; minutes to an hour. Tables on standard output"
	$(BENCH) --repeats 3 --size 192 192 112 --size 256 256 150 --size 320 320 188 --size 384 384 225 --rows voxmetry
	$(BENCH) --size 512 512 300 --rows voxmetry segment monai-float32 --turns 2
	$(BENCH) --size 512 512 300 --rows voxmetry monai
	$(BENCH) --size 256 256 150 --rows voxmetry-float32 monai-float32
	$(BENCH) --size 512 512 600 --classes 105 --rows voxmetry
	$(BENCH) --repeats 3 --size 384 384 225 --classes 5 50 105 --rows voxmetry
	$(if $(NNUNET_PYTHON),$(BENCH) --size 512 512 300 --rows voxmetry-nnunet nnunet --nnunet-python $(NNUNET_PYTHON))
	$(BENCH) --only-known --plot docs/pictures/inference.png

# Ten minutes at most: this engine, MONAI and, with NNUNET_PYTHON, nnU-Net on a smaller image. AVX2=1 keeps all of them from
# the longer vectors and bf16 of the processor.
bench-inference-quick: $(VENV)/ready
	$(if $(AVX2),ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2) $(BENCH) --size 256 256 150 --turns 3 --minutes 10 \
	  --rows voxmetry monai-float32 $(if $(NNUNET_PYTHON),voxmetry-nnunet nnunet --nnunet-python $(NNUNET_PYTHON))
BENCH = $(BIN)/python benchmarks/bench_inference.py $(if $(DATA),--data $(DATA)) $(if $(CAP_GB),--cap-gb $(CAP_GB))

# In float32, which is what nnU-Net's trainer computes in on a processor; without it also in bf16, where it is multiplied.
bench-training: $(VENV)/ready
	@echo "== Training beside MONAI's recipe, and nnU-Net's trainer where NNUNET_PYTHON names a Python with nnunetv2"
	$(BIN)/python benchmarks/bench_training.py $(TRAIN_ON) --precision float32 --threads $(THREADS) $(TRAINING) \
	  $(if $(NNUNET_PYTHON),--nnunet-python $(NNUNET_PYTHON))
TRAIN_ON ?= phantoms
THREADS ?= 2

bench-gpu: $(VENV)/ready
	@echo "== The network against the roofline of its convolutions, and a study of 105 classes. Needs CUDA, and no data"
	$(BIN)/python benchmarks/bench_gpu.py

# By the Python that is there (PYTHON), whose torch fits the machine's driver. WHEELS is a folder of wheels where there is no
# network connection; SETTINGS and DATA name what to train, MINUTES when all has ended, DEVICE=cpu TINY=1 tries it.
gpu-day:
	@echo "== Tests, benchmarks and a training on a GPU, stopped by the clock"
	$(PYTHON) benchmarks/gpu_day.py --out $(GPU_OUT) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(DEVICE),--device $(DEVICE)) \
	  $(if $(WHEELS),--wheels $(WHEELS)) $(if $(SETTINGS),--settings $(SETTINGS) --data $(DATA)) $(if $(TINY),--tiny)
GPU_OUT ?= out/gpu-day

check: lint test

# Against surface-distance and MONAI; SIZES="tiny" for a quick look. DATA is the folder of data/README.md.
SIZES ?= small large
REPEATS ?= 3
bench-surface: $(VENV)/ready
	$(BIN)/python benchmarks/bench_surface.py --sizes $(SIZES) --repeats $(REPEATS) $(if $(DATA),--data $(DATA))

clean:
	rm -rf $(VENV) $(OUT)
