"""Colours and labels of all charts, without a drawing library."""

from __future__ import annotations

from typing import Any

import numpy as np

# Distinguishable with colour-vision deficiency (Okabe & Ito 2008); yellow and black are missing, which are invisible on
# a white or black page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
PERCENT_LIMITS = (-3, 103)  # of an axis
MAX_SHOWN_SEPARATELY = 20  # with more tasks, a chart doesn't label each of them
TASKS_LEARNED = "tasks learned"  # label of an x axis

# Every fifth of the 256 colours of viridis, a colour map of uniform lightness steps (Smith & van der Walt 2015).
_VIRIDIS = np.frombuffer(bytes.fromhex(
    "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d31688e"
    "2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc74"
    "46c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
), dtype=np.uint8).reshape(-1, 3)  # fmt: skip


def heat_colours(shares: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Colours (..., 3) of shares in [0, 1], as bytes; white for NaN."""
    anchors = np.linspace(0, 1, len(_VIRIDIS))
    channels = [np.interp(shares, anchors, _VIRIDIS[:, channel]) for channel in range(3)]
    colours: np.ndarray[Any, Any] = np.nan_to_num(np.stack(channels, axis=-1), nan=255.0)
    return colours.round().astype(np.uint8)


def heat_colour(share: float) -> str:
    """Colour of a share as `#rrggbb`; shares outside of [0, 1] have the colour of the nearest end."""
    return f"#{heat_colours(np.array(share)).tobytes().hex()}"


def text_colour_on(share: float) -> str:
    """Colour of text on `heat_colour(share)`: the one of higher contrast."""
    return "black" if share > 0.45 else "white"
