"""What the tests of rules share."""

import importlib
import sys

import pytest


@pytest.fixture(params=["PyYAML", "ruamel.yaml"])
def reader(request, monkeypatch):
    """Each of the two libraries that may be there to read YAML."""
    if request.param == "ruamel.yaml":
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(ImportError):
            importlib.import_module("yaml")
    return request.param
