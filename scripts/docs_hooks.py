"""A hook of mkdocs: roles of reStructuredText in docstrings, such as :func:`~package.name`, become plain code on the API page."""

from __future__ import annotations

import re

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: object) -> str:
    """Replace the roles in a page's HTML; with a tilde only the last part of a name is shown."""
    return _ROLE.sub(lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>", html)
