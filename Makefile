# make demo: BLIP-2's whole recipe on the embedded mini-world.
# make ablation: the grid of stage 1's objectives at a reduced size, with its report.
# make unit: tests that neither train, nor export, nor read a whole experiment, nor start another Python.
# make test: all tests but the slow ones.   make test-slow: the slow ones.
# All create .venv and install first. PYTHON chooses the interpreter (3.11 or newer).
# make system: what some tests use beside Python: a database, a browser, Java (Debian, as root); skipped without.
PYTHON ?= python3
APT = DEBIAN_FRONTEND=noninteractive apt-get -qq
PACKAGES = postgresql chromium chromium-driver default-jre-headless
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: demo ablation unit test test-slow lint system clean

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	touch $@

demo: .venv/installed
	.venv/bin/python -m lit_blip2.mini.demo

ablation: .venv/installed
	.venv/bin/python -m lit_blip2 sweep --config ablations/objectives_small.yaml --workers 2

unit: .venv/installed
	$(PYTEST) -m "not slow and not run"

test: .venv/installed lint
	$(PYTEST) -m "not slow"

test-slow: .venv/installed
	$(PYTEST) -m slow

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

system:
	dpkg -s $(PACKAGES) > /dev/null 2>&1 || \
		($(APT) update && $(APT) install --yes --no-install-recommends $(PACKAGES)) > /dev/null

clean:
	rm -rf .venv data runs sweeps
