"""A canvas for the figures of a run: text, lines, markers and images, drawn by Pillow.

The report's charts are drawn by matplotlib. Its import and layout would take longer than a short run.

Positions are in pixels from the upper left corner, sizes of text and lines in points.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from itertools import cycle, pairwise
from math import hypot
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gr_cli.system.files import write_atomically
from gr_cli.system.reading import read_bytes

PIXELS_PER_INCH = 150
_MAX_PIXELS = 40_000_000  # of a picture that is read
_OVERSAMPLING = 4  # lines are drawn this much larger, and reduced: smooth edges
_FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # ships with matplotlib, and has letters of many scripts

Point = tuple[float, float]


def pixels(points: float) -> float:
    """Points in pixels."""
    return points * PIXELS_PER_INCH / 72


@cache
def _font(size: float) -> Any:
    """The font of `size` points; Pillow's own if matplotlib lacks it."""
    spec = find_spec("matplotlib")  # without importing it
    if spec is not None and spec.origin is not None and (path := Path(spec.origin).parent / _FONT).is_file():
        return ImageFont.truetype(str(path), pixels(size), layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(pixels(size))


def text_width(text: str, size: float) -> float:
    """Width in pixels of a line of text."""
    return float(_font(size).getlength(text))


class LineStyle(NamedTuple):
    """How a curve is drawn."""

    colour: str
    """Name or `#rrggbb`."""
    width: float
    """In points."""
    dashes: tuple[float, ...] = ()
    """Lengths of dashes and gaps in turn, in widths of the line; empty: a solid line."""
    marker: str = ""
    """One of matplotlib's `o`, `s`, `D`, `^`, `v`, `P`; empty: none."""


class Canvas:
    """A white picture of `width` times `height` inches."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.image = Image.new("RGB", (round(width * PIXELS_PER_INCH), round(height * PIXELS_PER_INCH)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, at: Point, text: str, size: float = 9, anchor: str = "mm", colour: str = "black", angle: float = 0
    ) -> None:
        """Draw a line of text.

        Args:
            at: Position of the anchor.
            text: What is drawn.
            size: In points.
            anchor: Which point of the text lies at `at`: `l`, `m` or `r`, then `a` (top), `m`, or `s` (base line).
            colour: Name or `#rrggbb`.
            angle: Degrees counter-clockwise about the anchor, which is in the middle of the height then.
        """
        if not angle:
            self._draw.text(at, text, fill=colour, font=_font(size), anchor=anchor)
            return
        half = int(text_width(text, size) + pixels(size)) + 1
        mask = Image.new("L", (2 * half, 2 * half))
        ImageDraw.Draw(mask).text((half, half), text, fill=255, font=_font(size), anchor=anchor)
        corner = (round(at[0]) - half, round(at[1]) - half)
        self.image.paste(colour, corner, mask.rotate(angle, Image.Resampling.BICUBIC))

    def lines(self, lines: Iterable[Sequence[Point]], colour: str, width: float) -> None:
        """Draw straight horizontal or vertical lines, which need no smooth edges."""
        for line in lines:
            self._draw.line(line, fill=colour, width=max(1, round(pixels(width))))

    def picture(self, values: np.ndarray[Any, Any], box: tuple[float, float, float, float]) -> None:
        """Draw an image (H, W) or (H, W, 3) of bytes into a box (left, top, right, bottom), with sharp pixels."""
        left, top, right, bottom = box
        size = round(right - left), round(bottom - top)
        enlarged = Image.fromarray(values).resize(size, Image.Resampling.NEAREST)
        self.image.paste(enlarged, (round(left), round(top)))

    @contextmanager
    def smooth(self, box: tuple[float, float, float, float]) -> Iterator[SmoothLines]:
        """Draw curves with smooth edges, which are cut off outside of the box (left, top, right, bottom)."""
        left, top, right, bottom = map(round, box)
        part = self.image.crop((left, top, right, bottom))
        enlarged = part.resize((part.width * _OVERSAMPLING, part.height * _OVERSAMPLING), Image.Resampling.NEAREST)
        yield SmoothLines(enlarged, (left, top))
        self.image.paste(enlarged.reduce(_OVERSAMPLING), (left, top))

    def save(self, path: Path) -> None:
        """Write the picture as PNG."""

        def write(file: IO[bytes]) -> None:
            self.image.save(file, "PNG", dpi=(PIXELS_PER_INCH, PIXELS_PER_INCH))

        write_atomically(path, write)


class SmoothLines:
    """Draws curves and markers on an enlarged part of a canvas."""

    def __init__(self, enlarged: Image.Image, corner: Point) -> None:
        self._draw, self._corner = ImageDraw.Draw(enlarged), corner

    def curve(self, points: Sequence[Point], style: LineStyle, marker_size: float = 4.5) -> None:
        """Draw a line through points, and a marker of a size in points at each of them."""
        scaled = [self._scaled(point) for point in points]
        width = pixels(style.width) * _OVERSAMPLING
        pieces = _dashed(scaled, [length * width for length in style.dashes]) if style.dashes else [scaled]
        for piece in pieces:
            if len(piece) > 1:
                self._draw.line(piece, fill=style.colour, width=round(width), joint="curve")
        if style.marker:
            draw = partial(self._marker, style.marker, pixels(marker_size) * _OVERSAMPLING / 2, style.colour)
            for point in scaled:
                draw(point)

    def _scaled(self, point: Point) -> Point:
        (x, y), (left, top) = point, self._corner
        return (x - left) * _OVERSAMPLING, (y - top) * _OVERSAMPLING

    def _marker(self, marker: str, radius: float, colour: str, centre: Point) -> None:
        x, y = centre
        if marker == "o":
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            self._draw.polygon([(x + radius * dx, y + radius * dy) for dx, dy in _MARKERS[marker]], fill=colour)


# Corners of the markers, in half sizes from the centre; y points downwards.
_MARKERS: dict[str, Sequence[Point]] = {
    "s": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "D": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    "^": [(0, -1), (1, 1), (-1, 1)],
    "v": [(0, 1), (1, -1), (-1, -1)],
    "P": [
        (-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4),
        (0.4, 1), (-0.4, 1), (-0.4, 0.4), (-1, 0.4), (-1, -0.4), (-0.4, -0.4),
    ],
}  # fmt: skip


def _dashed(points: Sequence[Point], lengths: Sequence[float]) -> Iterator[list[Point]]:
    """The dashes of a line through points; `lengths` of dashes and gaps in turn, in the unit of the points."""
    pattern = cycle(lengths)
    remaining, is_dash = next(pattern), True
    piece = list(points[:1])
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = hypot(x1 - x0, y1 - y0), 0.0
        while length - done > remaining:
            done += remaining
            corner = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if is_dash:
                yield [*piece, corner]
            piece, is_dash, remaining = [corner], not is_dash, next(pattern)
        remaining -= length - done
        piece.append((x1, y1))
    if is_dash:
        yield piece


def read_picture(path: Path) -> np.ndarray[Any, Any]:
    """The pixels (H, W, 3) of a PNG file, as bytes.

    Raises:
        OSError: The file can't be read.
        ValueError: It is damaged, or larger than the figures of a run.
    """
    content = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"it has too many pixels: {image.width} x {image.height}")
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises exceptions of many types for damaged files
        raise ValueError(f"{path.name} is no PNG picture of a run") from error
