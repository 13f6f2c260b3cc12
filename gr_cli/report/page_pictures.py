"""Thumbnails of generated samples as data for the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from typing import Any

from gr_cli.report.page_curves import evenly
from gr_cli.results.discovery import DiscoveredRun
from gr_cli.system.reading import read_bytes

MAX_CHARACTERS = 2_500_000  # of all pictures of a page
_MAX_TASKS = 20  # tasks after which pictures of a configuration are shown
_MAX_PIXELS = 40_000_000  # of a figure that is read
_WIDTH = 320  # pixels


def sample_pictures(runs: Sequence[DiscoveredRun]) -> dict[str, Any] | None:
    """Figures of generated samples by task as base64 WebP, of the first run that has some; None without figures."""
    for run in runs:
        pictures = {}
        figures = run.folder.sample_figures()
        for task in evenly(sorted(figures), _MAX_TASKS):
            path = figures[task]
            with run.noting_unreadable(path.name):
                pictures[task] = base64.b64encode(_thumbnail(read_bytes(path), path.name)).decode()
        if pictures:
            return {"seed": run.seed, "after": pictures}
    return None


def _thumbnail(picture: bytes, name: str) -> bytes:
    """Shrink a PNG picture and return it as WebP.

    Raises:
        ValueError: It is damaged, or larger than the figures of a run.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"it is {image.width} x {image.height} pixels large")
                small = image.convert("RGB")
    except Exception as error:  # PIL raises exceptions of many types for damaged files
        raise ValueError(f"{name} can't be shown as a picture ({type(error).__name__})") from error
    small.thumbnail((_WIDTH, 10 * _WIDTH), reducing_gap=2.0)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=70, method=1)  # fast; others are smaller by a tenth
    return data.getvalue()
