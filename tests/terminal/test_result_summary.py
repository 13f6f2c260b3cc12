"""What is printed at the end of a run fits on 80 columns, and has each number once."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.record import Record, Result
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, FRACTION, TASK, Column, TableFormat
from gr_cli.terminal.result_summary import _key_text
from gr_cli.terminal.run_display import TerminalObserver

QUALITY = TableFormat(
    "sample_quality",
    "Quality of generated samples.",
    (
        AFTER_TASK,
        TASK,
        Column(
            "recall", "real samples that could have been generated " * 4, FRACTION, "higher", metric="sample_recall"
        ),
        Column("frechet", "distance of the features", "", "lower", metric="sample_frechet"),
    ),
)
FOLDER = Path("outputs") / ("a_benchmark_with_a_long_name" * 3) / "generative_replay-vae" / "seed0-01234567"


def result(num_tasks, joint=False, accuracy=0.123456):
    record = Record()
    for after in [num_tasks - 1] if joint else range(num_tasks):
        rows = [accuracy_row(after, 10, task, "test", accuracy, 1.0, 100, True) for task in range(num_tasks)]
        record.add_rows(ACCURACY, rows)
        rows = [{"after_task": after, "task": task, "recall": 0.5, "frechet": None} for task in (0, ALL_TASKS)]
        record.add_rows(QUALITY, rows)
    return Result(FOLDER, record, record.metrics(False, {"solver": 3}))


def printed(result, names, width=80):
    console = Console(file=io.StringIO(), width=width)
    TerminalObserver(console)._print_result(result, names)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("num_tasks", [1, 2, 5, 9, 10, 12, 21])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_in_the_console_except_paths(num_tasks, width):
    names = [f"[T-shirt/top] Trouser number {i}" for i in range(num_tasks)]
    lines = printed(result(num_tasks), names, width)
    *lines, folder, compare = lines
    assert (folder, compare) == (str(FOLDER), f"compare runs: gr-report {FOLDER.parents[1]}")
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_the_matrix_is_printed_once_with_tasks_numbered_from_0():
    lines = printed(result(3), ["[a] b", "c", "d"])
    start = lines.index("test accuracy (%)")
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["after", "task", "task", "0", "task", "1", "task", "2"],
        ["0", "([a]", "b)", "12.3", "12.3", "12.3"],
        ["1", "(c)", "12.3", "12.3", "12.3"],
        ["2", "(d)", "12.3", "12.3", "12.3"],
    ]
    assert sum("12.3 " in line for line in lines) == 3
    assert "average accuracy               12.35 %" in lines


def test_rows_of_all_tasks_and_classes_are_named():
    assert [_key_text(*key) for key in (("task", "all"), ("class", "all"), ("task", 1))] == [
        "all tasks",
        "all classes",
        "task 1",
    ]


def test_joint_training_has_one_row_of_all_tasks():
    lines = printed(result(3, joint=True), ["a", "b", "c"])
    start = lines.index("test accuracy (%)")
    assert lines[start + 2].split() == ["all", "12.3", "12.3", "12.3"] and lines[start + 3] == ""


def test_an_evaluation_has_a_labelled_table_of_its_last_values():
    lines = printed(result(3), None)
    start = lines.index("sample quality after task 2, all tasks")
    assert lines[start + 1].split() == ["measure", "value", "better", "meaning"]
    assert lines[start + 2].startswith("recall (%)  50.00  higher  real samples that could have been generated")
    assert any(line.startswith("frechet         –  lower   distance of the features") for line in lines)
    assert not any(line.startswith("sample recall") for line in lines)


@pytest.mark.parametrize("argv", [["seed=0"], ["-m", "seed=0,1"], ["-m", "seed=0,1", "hydra/launcher=batched"]])
def test_the_first_line_comes_before_torch_is_imported(argv):
    script = (
        "import builtins, sys; from gr_cli.cli.main import main\n"
        "class FirstLine:\n"
        "    def write(self, text):\n"
        "        if text.strip():\n"
        "            print(text, 'torch' in sys.modules); sys.stdout.flush(); import os; os._exit(0)\n"
        "    def flush(self): ...\n"
        "sys.stderr = FirstLine()\n"
        f"main({[*argv, 'train.iterations=1']})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "gr-run: loading torch … False\n"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["--cfg", "job"], ["--foo"]])
def test_commands_without_torch_do_not_announce_it(argv):
    done = subprocess.run([sys.executable, "-m", "gr_cli", *argv], capture_output=True, text=True, check=False)
    assert "torch" not in done.stderr
