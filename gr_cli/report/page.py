"""A report as one HTML file without links to the network: what page.js draws from the numbers of page_data.

Charts are drawn in the browser by Vega-Lite, whose scripts come from the package vl-convert-python and are part of the
file. A content security policy allows these scripts only, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from threading import Lock, Thread

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gr_cli._version import __version__
from gr_cli.errors import FolderError, one_line
from gr_cli.report.groups import Grouping
from gr_cli.report.page_charts import specs
from gr_cli.report.page_data import as_json, newest_update, page_data
from gr_cli.report.scaling import with_prefixes
from gr_cli.report.tables import ReportTable, footnotes, text_table

_SCRIPTS = ("page.js", "page_sections.js", "page_compare.js")
_LIBRARY_PACKAGE = "vl-convert-python"
_lock = Lock()
_EXPORTED = "window.vegaEmbed = vegaEmbed;"  # by the library's script


def render_page(grouping: Grouping, table: ReportTable) -> str:
    """The HTML text of the page.

    Raises:
        FolderError: The package with the scripts of Vega-Lite is not installed.
    """
    runs = [run for group in grouping.groups for run in group.runs]
    finished = sum(run.finished for run in runs)
    environment = Environment(
        loader=PackageLoader("gr_cli.report", ""),
        autoescape=True,
        finalize=_without_control_characters,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    vega, script = library(), "\n".join(_resource(name) for name in _SCRIPTS)
    data = as_json(page_data(table))
    # After the data, because making them finds unreadable files.
    unreadable = [
        f"{run.path}: {reason}; left out of the charts" for run in runs for reason in run.unreadable_files.values()
    ]
    number = len(table.rows)
    context = {
        "heading": f"Continual learning: {_count(number, 'configuration')}",
        "summary": f"{finished} finished of {_count(len(runs), 'run')} in {_count(number, 'configuration')}",
        "newest_update": newest_update(table),
        "version": __version__,
        "policy": _policy(vega, script),
        "plain": text_table(with_prefixes(table)[0]),
        "footnotes": [*footnotes(table), *unreadable],
        "data": Markup(data),
        "specs": Markup(as_json(specs())),
        "library": Markup(vega),
        "script": Markup(script),
    }
    return environment.get_template("page.html").render(context)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _without_control_characters(value: object) -> object:
    """A value as text on one line, without control characters, which HTML does not allow."""
    return value if isinstance(value, Markup) else one_line(value)


def _resource(name: str) -> str:
    return files("gr_cli.report").joinpath(name).read_text(encoding="utf-8")


def start_library() -> None:
    """Begin to make the scripts of Vega-Lite in another thread, while runs are read.

    Raises:
        FolderError: Their package is not installed.
    """
    _check_library()
    Thread(target=library).start()


def library() -> str:
    """The scripts of Vega, Vega-Lite and vega-embed."""
    _check_library()
    with _lock:  # a thread may be making them
        return _bundle()


def _check_library() -> None:
    try:
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise FolderError(f"--html needs the package {_LIBRARY_PACKAGE}: pip install {_LIBRARY_PACKAGE}") from error


@cache
def _bundle() -> str:
    import vl_convert

    # In a function, because its many short names would be those of the page, too.
    script = f"(() => {{{vl_convert.javascript_bundle(_EXPORTED)}\n}})();"
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError(f"the scripts of {_LIBRARY_PACKAGE} can't stand in a page")
    return script


def _policy(*scripts: str) -> str:
    """A content security policy that allows these scripts, styles and pictures of the page itself, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
