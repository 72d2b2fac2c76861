"""The templates that lie beside this file, filled."""

from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from llm_jax.report import metrics


def rendered(template: str, **values: Any) -> str:
    """A page, whole and self-contained. Values are escaped, but for Markup."""
    # A group that a run lacks reads as undefined all the way down, and the template then leaves it out.
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=ChainableUndefined)
    pages.filters |= {"number": metrics.number, "interval": metrics.interval, "quoted": metrics.quoted}
    return pages.get_template(template).render(**values)
