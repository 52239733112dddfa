# Two commands do all the set-up: `make demo` and `make test`. Both build .venv first (Python 3.11+).
PYTHON ?= python3
BIN := .venv/bin
SOURCES := PYTHONPATH=platform

.PHONY: help env bench-env demo learn test check lint soak clean

help:
	@echo "make demo   train on real videos and show the result (VIDEOS=DIR for your own); about 7 minutes"
	@echo "make learn  prepare, pre-train, fine-tune, evaluate small models (DATA=DIR, SEED=n); under an hour"
	@echo "make bench-env  install the decoders, loaders and augmentations that benches compare with"
	@echo "make check  lint, types and the fast tests; under 5 minutes"
	@echo "make test   everything that gates; about half an hour on two cores"
	@echo "make soak   the long figures"
	@echo "make clean  remove what these made"

env: .venv/installed

# Only what Marey needs is installed, not Marey itself: jobs bring their sources along.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing what Marey needs into .venv: a minute or two"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > .venv/requirements.txt
	@$(BIN)/python -m pip install --quiet -r .venv/requirements.txt --group dev --group demo
	@touch $@

demo: env
	@$(SOURCES) $(BIN)/python -m marey.launch.demo $(if $(VIDEOS),videos="$(VIDEOS)")

learn: env
	@$(SOURCES) $(BIN)/python -m marey.launch.learn $(if $(DATA),data="$(DATA)") $(if $(SEED),seed=$(SEED))

# Their own environment: some of them would replace the PyTorch that Marey runs with. torchcodec from 0.14 on is built for
# CUDA alone, and needs FFmpeg's libraries on the machine. The loaders go in without what they declare: torchvision, which
# may bring another PyTorch, and the clients of every cloud. What they import to read local files is listed instead.
# torchvision goes in likewise, in the version that belongs to the PyTorch that is there: 0.28 to 2.13.
bench-env:
	@$(PYTHON) -m venv .bench
	@.bench/bin/python -m pip install --quiet "torch>=2.11,<2.14" "torchcodec<0.14" decord "numpy<2.2" "av>=16,<20" "pyarrow>=20,<27" \
		boto3 braceexpand brotli catalogue filelock lightning-utilities obstore packaging pillow python-snappy pyyaml requests tifffile \
		tqdm "transformers>=4.21,<5" "xxhash<4" "zstd<2"
	@.bench/bin/python -m pip install --quiet --no-deps "webdataset<2" "litdata<0.3" "mosaicml-streaming<0.14" \
		"torchvision==0.$$(.bench/bin/python -c 'import torch; print(int(torch.__version__.split(".")[1]) + 15)').*"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SOURCES) $(BIN)/lint-imports

# Side by side; `make test` takes one test after the other, as those with clusters and measurements need it.
check: lint
	$(BIN)/python -m pytest -m "not slow and not soak" -n logical --maxprocesses 8 --dist loadfile

test: lint
	$(BIN)/python -m pytest

soak: env
	$(BIN)/python -m pytest -s -m soak

clean:
	@for made in .venv .bench .demo .learn .mypy_cache .ruff_cache .pytest_cache .import_linter_cache; do \
		if [ -e $$made ]; then echo "removing $$made ($$(du -sh $$made | cut -f1))"; rm -rf $$made; fi; \
	done
	@find platform jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
