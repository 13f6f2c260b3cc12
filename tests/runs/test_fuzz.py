"""No list of words ends the command line in a traceback or in several lines, or leaves a folder half-written.

Command lines are made at random, most of them valid or nearly so (see `helpers/fuzzing`), and run in this process with
a tiny budget. They are few, the same every time, and draw no pictures. `GR_FUZZ=2000 pytest tests/runs/test_fuzz.py`
tries that many, others each time (`--hypothesis-seed=7`: those of that seed), and draws. A failure shows the shortest
command line that was found for it: mend the cause, and add the line to `MISTAKES` in `helpers/mistakes`.
"""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.main import main
from gr_cli.config.settings import Settings
from gr_cli.results.folder import RunFolder
from gr_cli.results.membership_scores import membership_files
from helpers import fuzzing

MANY = os.environ.get("GR_FUZZ")
LEFT = {
    "accuracy_matrix.csv", "tables.json", "metrics.csv", "history.csv", "timing.csv", "config.yaml", "status.json",
    "checkpoint.pt", "figures", ".lock",
}  # fmt: skip


@pytest.mark.timeout(0 if MANY else 1800)  # thousands of lines take longer than any one test may
@settings(
    max_examples=int(MANY or 30),
    derandomize=MANY is None,
    database=None,
    deadline=None,
    phases=[Phase.generate, *([Phase.shrink] if MANY else [])],  # to explain a failure takes longer than to find it
    suppress_health_check=list(HealthCheck),
)
@given(line=fuzzing.lines())
def test_no_command_line_ends_in_a_traceback(line, capsys, monkeypatch, request):
    if MANY:
        request.getfixturevalue("pictures")
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
        patch.chdir(folder)
        check(line, capsys)


def check(line: fuzzing.Line, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command line in the empty folder that this process is in, and look at all that it leaves; its exit code."""
    words = _affordable(line)
    # What an earlier line asked Hydra to tell (`hydra.verbose=true`) is asked for in the whole process.
    for handler in [*logging.root.handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.setLevel(logging.WARNING)
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as exit:  # Hydra's own, after --info and its like
        code = exit.code or 0
    out, err = capsys.readouterr()
    message = f"exit code {code} of gr-run {words}\n{err}"
    assert code in (0, 1, 2), message
    assert "Traceback" not in out + err, message
    assert not list(Path().rglob("*.tmp")), message
    statuses = {file.parent: json.loads(file.read_text()) for file in Path("outputs").rglob("status.json")}
    states = [status["state"] for status in statuses.values()]
    if code == 2:
        assert list(Path().rglob("*")) == [], message
        assert out == "", message
        assert err.startswith("gr-run: ") and err.count("\n") == 1, message
    if code == 1:
        assert "-m" in line.flags or states == ["failed"], message
        assert all(status["reason"] for status in statuses.values() if status["state"] == "failed"), message
    if code == 0:
        assert set(states) <= {"finished", "pruned"}, message
    for folder, status in statuses.items():
        if status["state"] == "finished":
            measured = {f"{name}.csv" for name in RunFolder(folder).tables()}
            scores = {file.name for file in membership_files(folder).values()}
            assert {path.name for path in folder.iterdir()} == LEFT | measured | scores, message
    return code


def _affordable(line: fuzzing.Line) -> Sequence[str]:
    """The words of a line and those that make it cheap; for what is not, those that only show the configuration."""
    try:
        job: Settings | None = compose_settings(line.first)
    except Exception:  # whatever is wrong, the command line itself shall say it
        job = None
    if line.huge or (job is not None and "ResNet" in job.config["model"]["_target_"]):
        return ["--cfg", "job", *line.words]
    # The last word counts: nothing is fetched, whatever was asked for.
    small = [] if job is None else [*fuzzing.budget(job.config, line.words), "download=false", "data_root=nowhere"]
    return [*line.flags, *line.words, *small]
