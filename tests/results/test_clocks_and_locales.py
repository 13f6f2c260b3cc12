"""Wrong clocks and other locales do not change what is read from a run's folder."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gr_cli
from gr_cli.results.folder import RunFolder
from gr_cli.results.progress import RunWatcher
from helpers.harms import PROGRESS, says
from helpers.run_folders import write_run

# --- wrong clocks and other locales


@pytest.mark.parametrize("updated", ["2999-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"])
def test_a_wrong_clock_does_not_keep_a_folder_locked(gr_run, gr_report, folder, updated):
    """The run is of another host, whose lock can't be checked."""
    says(state="running", host="elsewhere", updated=updated, seconds=5)(folder / "status.json")
    long_ago = time.time() - 3600
    os.utime(folder / "status.json", (long_ago, long_ago))
    assert "killed" in gr_report(folder)[1]
    code, out, _ = gr_report(folder, "--watch")
    assert code == 1 and "killed" in out
    assert gr_run(f"resume={folder}")[0] == 0


def test_a_run_on_a_host_whose_clock_is_ahead_is_alive_by_the_time_of_its_file(gr_run, folder):
    says(state="running", host="elsewhere", updated="2999-01-01T00:00:00+00:00")(folder / "status.json")
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and "another process on elsewhere is training this run" in err


@pytest.mark.parametrize("updated", ["2999-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"])
def test_a_wrong_clock_does_not_change_the_shown_time(folder, updated):
    says(state="running", updated=updated, seconds=50, progress=PROGRESS)(folder / "status.json")
    with RunFolder(folder).locked():
        (run,) = RunWatcher().poll([(folder, None)], sweep_is_running=False)
    assert (run.state, run.seconds, run.seconds_left) == ("running", 50.0, 250.0)


def test_a_run_with_a_wrong_clock_is_not_the_newest(gr_report):
    for name, accuracy, updated in (("a", 0.25, "2999-01-01"), ("b", 0.75, "2026-01-02"), ("c", 0.5, "2026-01-01")):
        write_run(Path("runs"), accuracy=accuracy, name=name, status={"updated": f"{updated}T00:00:00+00:00"})
    code, out, _ = gr_report("runs")
    assert code == 0 and "75.00" in out and "seed 0 has 3 runs; b counts" in out


def test_files_are_read_as_utf_8_whatever_the_locale(folder):
    """A valid file is not taken for damaged under another locale."""
    says(reason="Größe ✓")(folder / "status.json")
    (folder / "status.json").write_text(
        json.dumps(json.loads((folder / "status.json").read_text()), ensure_ascii=False), encoding="utf-8"
    )
    script = (
        "import sys; from pathlib import Path; from gr_cli.results.folder import RunFolder\n"
        "assert RunFolder(Path(sys.argv[1])).status()['reason'] == 'Gr\\xf6\\xdfe \\u2713'"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment, timeout=300)


def test_text_files_have_an_explicit_encoding():
    here = Path(gr_cli.__file__).parents[1]
    parts = [*(here / "gr_cli").rglob("*.py"), *(here / "scripts").glob("*.py")]
    nodes = [node for path in parts for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    methods = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    texts = [call for call in methods if call.func.attr in ("read_text", "write_text")]
    calls = [ast.unparse(call) for call in texts if "encoding" not in {word.arg for word in call.keywords}]
    kernel = ("/proc/", "/sys/")  # ASCII
    assert not [call for call in calls if not any(name in call for name in kernel)]
