# make demo: from nothing to a trained, evaluated, exported model.  make test: lint, types, fast tests.  Both install what they need.
# make docs-test: the commands of README and the guide.
VENV ?= .venv
LOWEST_VENV ?= .venv-lowest
AUDIT_VENV ?= .venv-audit
PYTHON ?= python3
DEMO_DATA ?= demo
DEMO_RESULTS ?= results/demo
RENDER ?= --no-flow --size 72 --test-per-class 40
TRAIN ?=
PARTS ?=
DOCUMENTS ?=
RUN = $(VENV)/bin/python
CHECKPOINT = $(DEMO_RESULTS)/train/ar_model_latest.pth
EXPORTED = $(DEMO_RESULTS)/model.onnx

.PHONY: demo test test-all test-browser test-lowest docs-test audit coverage torture api notebook bench lint clean

demo: $(VENV)/.core
	$(RUN) tools/make_demo_data.py $(DEMO_DATA) $(RENDER)
	$(RUN) tools/train.py configs/demo.yaml dataset.train_dataset_dir=$(DEMO_DATA)/train \
	    dataset.val_dataset_dir=$(DEMO_DATA)/test results_dir=$(DEMO_RESULTS) $(TRAIN)
	$(RUN) tools/evaluate.py evaluate.checkpoint=$(CHECKPOINT) evaluate.test_dataset_dir=$(DEMO_DATA)/test \
	    evaluate.batch_size=8 results_dir=$(DEMO_RESULTS)
	$(RUN) tools/inference.py inference.checkpoint=$(CHECKPOINT) inference.inference_dataset_dir=$(DEMO_DATA)/test/fall \
	    inference.batch_size=8 results_dir=$(DEMO_RESULTS)
	$(RUN) tools/export.py export.checkpoint=$(CHECKPOINT) export.onnx_file=$(EXPORTED) export.overwrite=true \
	    dataset.val_dataset_dir=$(DEMO_DATA)/test
	$(RUN) tools/verify.py $(CHECKPOINT) $(EXPORTED) --data $(DEMO_DATA)/test
	$(RUN) tools/trt_inference.py --input_images_folder $(DEMO_DATA)/test/fall/fall_person100000 \
	    --trt_engine $(EXPORTED) --rate 3

test: $(VENV)/.all lint
	$(RUN) -m pytest -n 2

test-all: $(VENV)/.all lint
	$(RUN) -m pytest -n 2 -m "not gpu and not trt"

test-browser: $(VENV)/.all
	$(RUN) -m pytest -m slow -rs -k browser tests/test_report_browser.py tests/test_live.py

test-lowest: $(LOWEST_VENV)/.all
	$(LOWEST_VENV)/bin/python -m pytest -n 2

docs-test: $(VENV)/.all
	$(RUN) tools/docs_test.py $(DOCUMENTS)

audit:
	test -x $(AUDIT_VENV)/bin/pip-audit || ($(PYTHON) -m venv $(AUDIT_VENV) && \
	    $(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check pip-audit)
	PATH="$(AUDIT_VENV)/bin:$$PATH" $(PYTHON) tools/audit.py

coverage: $(VENV)/.all
	rm -rf results/coverage && mkdir -p results/coverage
	$(RUN) -m coverage run -m pytest -n 2
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage json --quiet -o results/coverage/lines.json
	$(RUN) tools/coverage_report.py results/coverage/lines.json

torture: $(VENV)/.all
	$(RUN) tools/torture.py $(PARTS)

api: $(VENV)/.all
	$(RUN) tools/api_reference.py

notebook: $(VENV)/.all
	$(RUN) tools/run_notebook.py

bench: $(VENV)/.all
	$(RUN) tools/benchmark.py all

lint: $(VENV)/.all
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) $(LOWEST_VENV) $(AUDIT_VENV) $(DEMO_DATA) $(DEMO_RESULTS)

$(VENV)/.core: setup.py
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[deploy]"
	touch $@

$(VENV)/.all: $(VENV)/.core
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[all]"
	touch $@

# The first install is for the package's metadata, which says the bounds. With Python 3.11 or 3.12: the lowest numpy has
# no wheel for a newer one.
$(LOWEST_VENV)/.all: setup.py
	test -d $(LOWEST_VENV) || $(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(LOWEST_VENV)/bin/python tools/lowest.py > $(LOWEST_VENV)/lowest.txt
	$(LOWEST_VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[all]" \
	    --constraint $(LOWEST_VENV)/lowest.txt
	touch $@
