# Every target is one verb of bootstrap.py, which needs only Python 3.11 or newer.
#   make quickstart ARGS="--minutes 2"      make test ARGS="-k packing"      make setup EXTRAS=ray

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
ifeq ($(PYTHON),)
PYTHON := python3
endif

.PHONY: help setup quickstart test lint bench docs simulate clean
help:
	@$(PYTHON) bootstrap.py --help
setup:
	@$(PYTHON) bootstrap.py setup $(if $(EXTRAS),--extras $(EXTRAS))
quickstart test lint bench docs simulate:
	@$(PYTHON) bootstrap.py $@ $(ARGS)
clean:
	@$(PYTHON) bootstrap.py clean
