"""Overrides as text in Hydra's grammar."""

from __future__ import annotations

import re


def override_of(name: str, value: object) -> str:
    """The override that sets a value, which is quoted if it has characters of the grammar."""
    text = str(value)
    if re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return f"{name}={text}"
    # The grammar takes backslashes as they are, except before a quote.
    escaped = re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text).replace(
        "${", "\\${"
    )
    return f'{name}="{escaped}"'
