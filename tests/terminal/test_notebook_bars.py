"""Progress bars in a notebook: one output that is replaced, and empty at the end."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from gr_cli.terminal.notebook_bars import NotebookBars, is_notebook


@pytest.fixture
def shown(monkeypatch):
    """What a stand-in for IPython shows, in order."""
    shown, module = [], ModuleType("IPython")
    output = SimpleNamespace(update=shown.append)

    def display(value, display_id):
        assert display_id
        shown.append(value)
        return output

    module.display = SimpleNamespace(display=display, HTML=lambda text: text)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return shown


def test_an_update_replaces_the_output(shown):
    bars = NotebookBars(several=True)
    bar = bars.add("<b>run", total=10)
    bars.start()
    bars.update(bar, completed=5, stage="1/2 tasks", name="", count="5/10", rate="", left="0:03", losses="")
    bars.stop()
    bars.update(bar, completed=6)
    first, second, last = shown
    assert "&lt;b&gt;run" in first and "5/10" not in first
    assert "5/10" in second and "1/2 tasks" in second and "\x1b" not in second
    assert last == ""


def test_a_terminal_or_a_file_is_no_notebook():
    assert not is_notebook()
