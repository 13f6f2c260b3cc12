"""The charts of the page as Vega-Lite specifications.

Their data, domains and heights are filled in by page.js: a text `$name` stands for a value of that name. Nothing from a
run's folder is part of a specification except as data: fields have fixed names, and expressions are constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_OWN = {"type": "nominal", "scale": None}  # the value is the colour or shape itself
_COLOUR = {"field": "colour", **_OWN}
_OPACITY = {"field": "opacity", "type": "quantitative", "scale": None}
_ZOOMED = {"expr": "zoomed"}  # marks at the end of an axis are cut only where others lie beyond
_TOOLTIP = [
    {"field": "name", "title": "configuration"},
    {"field": "detail", "title": " "},
    {"field": "text", "title": "value"},
]
_LINE_COLOURS = {"name": "viridis", "extent": [0.15, 0.85]}  # without the ends, invisible on a black or white page
_CONFIG = {
    "background": None,
    "aria": False,  # its texts would name colours; a chart has a label and its numbers as a table
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": "currentColor", "titleColor": "currentColor", "tickColor": "var(--line)",
        "gridColor": "var(--line)", "domainColor": "var(--line)",
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "labelLimit": 400,
    },
    "view": {"stroke": None},
    "mark": {"color": "currentColor"},
    "text": {"color": "currentColor"},
}  # fmt: skip


def _axis(field: str, channel: str, scale: str = "linear", **axis: Any) -> dict[str, Any]:
    """A number on an axis from the parameters `x0` to `x1` (or y)."""
    domain = [{"expr": f"{channel}0"}, {"expr": f"{channel}1"}]
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"type": scale, "domain": domain, "nice": False, **({"zero": False} if scale == "linear" else {})},
        "axis": {"title": None, **axis},
    }


def _valid(field: str) -> dict[str, str]:
    """Leave out rows without a field; a path would be broken by them."""
    return {"filter": f"isValid(datum.{field})"}


def _spec(width: Any = "container", own: Sequence[str] = (), **parts: Any) -> Spec:
    """A specification with the ends of its axes, and its `own` values, as parameters."""
    params: list[Spec] = [{"name": name, "value": f"${name}"} for name in ("x0", "x1", "y0", "y1", *own)]
    params.append({"name": "zoomed", "value": False})
    sizes = {"width": width, "autosize": {"contains": "padding"}}
    return {"$schema": _SCHEMA, "data": {"name": "rows", "values": "$rows"}, "params": params, **sizes, **parts} | {
        "config": _CONFIG
    }


def _dots() -> Spec:
    """A row per configuration: its seeds as dots, the mean as a bar, the interval as a line."""
    y = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": "$names"},
        # Names differ at their ends; what does not fit is left out in the middle.
        "axis": {
            "title": None,
            "labelLimit": 0,
            "labelExpr": "truncate(datum.label, label_length, 'center')",
            "ticks": False,
            "domain": False,
            "grid": True,
        },
    }
    return _spec(
        own=["label_length"],
        height="$height",
        encoding={"y": y, "opacity": _OPACITY, "tooltip": _TOOLTIP},
        layer=[
            {"mark": {"type": "tick", "clip": _ZOOMED, "thickness": 1, "size": 26, "color": "currentColor"},
             "transform": [_valid("chance")], "encoding": {"x": _axis("chance", "x")}},
            {"mark": {"type": "rule", "clip": _ZOOMED, "strokeWidth": 2},
             "encoding": {"x": _axis("low", "x", tickCount="$ticks"), "x2": {"field": "high"}, "color": _COLOUR}},
            {"mark": {"type": "tick", "clip": _ZOOMED, "thickness": 3, "size": 14},
             "encoding": {"x": _axis("mean", "x"), "color": _COLOUR}},
            {"mark": {"type": "point", "clip": _ZOOMED, "filled": True, "size": 45},
             "encoding": {"x": _axis("value", "x"), "color": _COLOUR, "shape": {"field": "shape", **_OWN}}},
        ],
    )  # fmt: skip


def _lines() -> Spec:
    """Curves: means with their intervals as bands, values of seeds as small points."""
    x = _axis("x", "x", title="$x_title", tickMinStep=1, grid=False)
    return _spec(
        height="$height",
        encoding={"x": x, "opacity": _OPACITY, "tooltip": _TOOLTIP},
        layer=[
            {"mark": {"type": "area", "clip": _ZOOMED, "fillOpacity": 0.18}, "transform": [_valid("low")],
             "encoding": {"y": _axis("low", "y"), "y2": {"field": "high"}, "color": _COLOUR,
                          "detail": {"field": "line"}}},
            {"mark": {"type": "line", "clip": _ZOOMED, "strokeWidth": 2}, "transform": [_valid("mean")],
             "encoding": {"y": _axis("mean", "y"), "color": _COLOUR, "strokeDash": {"field": "dash", **_OWN},
                          "detail": {"field": "line"}}},
            {"mark": {"type": "point", "clip": _ZOOMED, "filled": True, "size": 45},
             "encoding": {"y": _axis("dot", "y"), "color": _COLOUR, "shape": {"field": "shape", **_OWN}}},
            {"mark": {"type": "point", "clip": _ZOOMED, "size": 22},
             "encoding": {"y": _axis("value", "y"), "color": _COLOUR, "shape": {"field": "shape", **_OWN}}},
        ],
    )  # fmt: skip


def _scatter() -> Spec:
    """A point per configuration in two numbers, with its interval, and the values of its seeds as small points."""
    x = _axis("x", "x", "$x_scale", title="$x_title", tickCount="$ticks", values="$x_values", format="$x_format")
    return _spec(
        height="$height",
        encoding={"x": x, "opacity": _OPACITY, "tooltip": _TOOLTIP},
        layer=[
            {"mark": {"type": "rule", "clip": _ZOOMED},
             "encoding": {"y": _axis("low", "y"), "y2": {"field": "high"}, "color": _COLOUR}},
            {"mark": {"type": "point", "clip": _ZOOMED, "size": 22},
             "encoding": {"y": _axis("value", "y"), "color": _COLOUR, "shape": {"field": "shape", **_OWN}}},
            {"mark": {"type": "point", "clip": _ZOOMED, "filled": True, "size": 110},
             "encoding": {"y": _axis("mean", "y"), "color": _COLOUR, "shape": {"field": "shape", **_OWN}}},
        ],
    )  # fmt: skip


def _heat() -> Spec:
    """A matrix as coloured cells with their numbers."""
    axis = {"labelAngle": 0, "ticks": False, "domain": False, "labelOverlap": True}
    return _spec(
        height="$height",
        resolve={"scale": {"color": "independent"}},
        encoding={
            "x": {"field": "column", "type": "ordinal", "sort": None, "axis": {**axis, "title": "$x_title"}},
            "y": {"field": "row", "type": "ordinal", "sort": None, "axis": {**axis, "title": "$y_title"}},
            "tooltip": [{"field": "detail", "title": " "}, {"field": "text", "title": "value"}],
        },
        layer=[
            {"mark": {"type": "rect"},
             "encoding": {"color": {"field": "share", "type": "quantitative", "legend": None,
                                    "scale": {"domain": [0, 1], "scheme": "viridis"}}}},
            {"mark": {"type": "text", "fontSize": "$font_size"},
             "encoding": {"text": {"field": "label"}, "color": {"field": "ink", **_OWN}}},
        ],
    )  # fmt: skip


def _parallel() -> Spec:
    """A line per configuration through its position on each axis, coloured by the last one."""
    x = {"field": "axis", "type": "nominal", "sort": None, "scale": {"padding": 0.25},
         "axis": {"title": None, "labelAngle": 0, "grid": True, "gridColor": "currentColor", "ticks": False,
                  "domain": False, "labelLimit": "$label_limit", "orient": "top"}}  # fmt: skip
    return _spec(
        height="$height",
        encoding={"x": x, "tooltip": _TOOLTIP},
        layer=[
            {"mark": {"type": "line"}, "transform": [_valid("position")],
             "encoding": {"y": {**_axis("position", "y"), "axis": None}, "detail": {"field": "line"},
                          "opacity": _OPACITY,
                          "strokeWidth": {"field": "width", "type": "quantitative", "scale": None},
                          "color": {"field": "share", "type": "quantitative", "legend": None,
                                    "scale": {"domain": [0, 1], "scheme": _LINE_COLOURS}}}},
            # A wide outline in the colour of the page keeps texts readable on lines.
            _ticks(stroke="var(--paper)", strokeWidth=4),
            _ticks(),
        ],
    )  # fmt: skip


def _ticks(**outline: Any) -> Spec:
    """Values of a parallel axis."""
    return {
        "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 12, **outline},
        "transform": [_valid("tick_position")],
        "encoding": {"y": {**_axis("tick_position", "y"), "axis": None}, "text": {"field": "tick"}},
    }


def specs() -> dict[str, Spec]:
    """All specifications by name."""
    return {"dots": _dots(), "lines": _lines(), "scatter": _scatter(), "heat": _heat(), "parallel": _parallel()}


def filled(spec: Any, values: Mapping[str, Any]) -> Any:
    """A specification with `values` in place of the texts `$name`, as page.js does it."""
    if isinstance(spec, dict):
        return {key: filled(item, values) if key != "$schema" else item for key, item in spec.items()}
    if isinstance(spec, list):
        return [filled(item, values) for item in spec]
    return values[spec[1:]] if isinstance(spec, str) and spec.startswith("$") else spec
