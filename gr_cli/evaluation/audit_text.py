"""Text of a file, and bytes that are written in it as text."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _base64(text: str) -> bytes:
    digits = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(digits[: len(digits) // 4 * 4 + 3 if len(digits) % 4 > 1 else len(digits) // 4 * 4] + "==")


ENCODED: tuple[tuple[re.Pattern[str], Callable[[str], bytes]], ...] = (
    (re.compile(r"(?:[0-9a-fA-F]{32,}\s*)+"), lambda digits: bytes.fromhex(digits[: len(digits) // 2 * 2])),
    (re.compile(r"(?:[A-Za-z0-9+/_-]{40,}\s*)+={0,2}"), _base64),
)


def as_text(content: bytes) -> str | None:
    """`content` as text, if it is such."""
    for encoding in ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8",):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if sum(letter < " " for letter in text[:4096]) <= text[:4096].count("\n") + text[:4096].count("\t") + text[
            :4096
        ].count("\r"):
            return text
    return None
