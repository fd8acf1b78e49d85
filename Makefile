# make install: .venv with everything;  make demo: the whole way on virtual subjects;  make test: all tests
# make test-portable: all that rounds, as other processors compute it, without our kernels, and with two threads
# make test-slow: a whole benchmark of real trainings, the demo, every command of the tutorials, and submissions under a platform's limits; half an hour
# make benchmark-truths: real trainings whose outcome the benchmark must find; an hour
# make test-attack: 100 kills, full disks, 10,000 damaged files; hours
# make test-kernels: the CUDA sources on the CPU, every type, under sanitizers, and compiled for every architecture
# make docs: all pages, with the commands and the Python API, as a site in site/
# make dist: wheel and sdist of a release in dist/, checked and listed, and the wheel's commands run where nothing else of it is
# make dist-cuda: besides, a wheel for this platform that includes the CUDA library; needs nvcc, not a GPU
# make gpu-check: what only a GPU can confirm, some minutes, as gpu_check.json and gpu_check.md
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-portable test-slow benchmark-truths test-attack test-kernels docs dist dist-cuda gpu-check lint clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/nnunet-synth demo

test: install
	$(BIN)/python -m pytest -n 2

NUMERICAL := $(addprefix tests/test_,augment.py conditioning.py encoding.py mask_blending.py \
	mask_deformation.py losses_ema.py many_processes.py metric_condition_accuracy.py metric_memorization.py \
	metric_distances.py features_torch_fidelity.py metric_inputs.py metric_masks.py metric_swd_diversity.py \
	networks.py ops.py ops_backends.py snapshot.py speed.py stability.py step.py)

test-portable: install
	failed=0; \
	for setting in "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE" ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 \
			STYLEGAN2_COND_OPS=native OMP_NUM_THREADS=2; do \
		echo "$$setting"; \
		env $$setting $(BIN)/python -m pytest -q -n 2 -k "not shim" $(NUMERICAL) || failed=1; \
	done; \
	exit $$failed

test-slow: install
	$(BIN)/python -m pytest -m slow

benchmark-truths: install
	$(BIN)/python -m pytest -s -m truths tests/test_benchmark_truths.py

test-attack: install
	$(BIN)/python -m pytest tests/attack -m "attack or not attack"

test-kernels: install
	$(BIN)/python -m pytest -m kernels

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: install
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m zipfile --list dist/*.whl
	$(BIN)/python -m venv --without-pip build/venv
	$(BIN)/python -m pip --python build/venv/bin/python install --quiet --no-deps dist/*.whl
	echo $(abspath $(BIN)/..)/lib/python*/site-packages > $$(echo build/venv/lib/python*/site-packages)/dependencies.pth
	build/venv/bin/stylegan2-cond --version
	build/venv/bin/nnunet-synth benchmark --show-arms > /dev/null
	rm -rf build

dist-cuda: dist
	rm -rf stylegan2_cond/ops/built
	STYLEGAN2_COND_CACHE=$(CURDIR)/stylegan2_cond/ops/built $(BIN)/stylegan2-cond doctor --build
	$(BIN)/python -m build --wheel --config-setting=--build-option=--plat-name=linux_$$(uname -m)
	rm -rf stylegan2_cond/ops/built build
	$(BIN)/python -m zipfile --list dist/*-linux_*.whl | grep stylegan2_cond_ops.so

gpu-check: install
	$(BIN)/python -m stylegan2_cond.speed.gpu_check

lint: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/lint-imports

clean:
	rm -rf .venv demo site dist
