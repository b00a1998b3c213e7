"""The jinja2 environment of every page: strict, and with control characters made visible.

Owns how a template prints values; the pages themselves are in `render.py` and `xray.py`.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ladderlm.text import visible

__all__ = ["page_environment"]


def page_environment(html: bool = True) -> Environment:
    """Return an environment for the templates of this room; `html` escapes all text."""
    return Environment(
        loader=PackageLoader("ladderlm.report", "templates"),
        autoescape=html,
        undefined=StrictUndefined,
        finalize=_visible_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible_text(value: Any) -> Any:
    """Make control characters visible in everything that a template prints."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
