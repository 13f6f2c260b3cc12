"""A damaged run does not prevent the page, and texts from a folder are escaped everywhere."""

import csv
import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gr_cli.errors import one_line
from helpers.harms import configures, emptied, endless, pipe, text
from helpers.interruption import sealed
from helpers.pages import embedded, without_library
from helpers.run_folders import write_run

# --- damaged files and hostile texts


def broken_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)


def larger_than_memory(path: Path) -> None:
    """A picture of 60,000 x 60,000 pixels, by its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + checked)


PICTURE = "figures/samples_task_0.png"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (PICTURE, broken_picture),
        (PICTURE, larger_than_memory),
        (PICTURE, emptied),
        (PICTURE, os.mkfifo),
        ("history.csv", text("task,iteration,current\n0,10,much\n")),
        ("history.csv", text("task,iteration,current\n0,10,inf\n")),
        ("history.csv", text("task,iteration,current\n0,1e1,0.5\n")),
        ("history.csv", text("task,current\n0,0.5\n")),
        ("history.csv", endless),
        ("evaluations.csv", text("after_task,iteration,task,split,accuracy\n0,1,0,test,87.5\n")),
        ("accuracy_matrix.csv", text("after_task,task_0\n0,0.1\n0,0.9\n")),
        ("accuracy_matrix.csv", text("after_task,task_x\n0,0.1\n")),
        ("sample_quality.csv", text("after_task,task\n0,0\n")),
        ("sample_quality.csv", pipe),
    ],
)
def test_a_damaged_file_of_one_run_is_left_out_of_the_page(gr_report, name, harm):
    from PIL import Image

    for seed in range(2):
        run = write_run(Path("runs"), seed, "generative_replay")
        Image.new("RGB", (20, 20)).save(run / PICTURE)
    harmed = next(path for path in Path("runs").iterdir() if path.name.startswith("seed0"))
    if harm is os.mkfifo:
        (harmed / PICTURE).unlink()
    harm(harmed / name)
    code, _, err = gr_report("runs", "--html", "page.html")
    assert code == 1, err
    lines = [line for line in err.splitlines() if "left out" in line]
    assert len(lines) == 1 and str(harmed) in lines[0] and Path(name).name in lines[0]
    page = Path("page.html").read_text(encoding="utf-8")
    assert "left out of the charts" in page
    assert gr_report("runs")[0] == 0  # the table itself reads nothing of it


HOSTILE = [
    "x\n\\input{/etc/passwd}\\write18{id}",
    "=HYPERLINK(1)",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "</td><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\x1b[2J\x1b]0;title\x07\r\x08",
    "\u202egnp.exe\u2066",
    "a & b % $ # _ { } ~ ^ \\ | `",
    "[1pt]",
    "*",
    "$\\frac{$",
    "\x7f\x85\u2028\x0b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_texts_are_escaped_in_every_table(gr_report, value):
    write_run(Path("runs"), 0)
    write_run(Path("runs"), 1, state="failed", status={"reason": value})
    quoting(Path("runs"), 2, value)
    code, out, err = gr_report("runs", "--format", "csv")
    assert code == 0, err
    shown_anywhere(out + err)
    cells = [cell for row in csv.reader(out.splitlines(keepends=True)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t") and not is_number(cell)]
    code, out, err = gr_report("runs", "--format", "latex")
    assert code == 0, err
    shown_anywhere(out + err)
    rows = [line for line in out.splitlines() if not line.startswith("%")]
    assert all(line.startswith("\\") or line.endswith(r" \\") for line in rows)
    assert not any(re.match(r"\s*[\[*]", line) for line in rows)
    ours = r"\\(begin|end)\{tabular\}|\\(top|mid|bottom)rule|\\text\w+\{\}|\$\\(pm|cdot|geq)\$|\$[-<>]\$|\\[&%$#_{}\\]"
    rest = re.sub(ours, "", "\n".join(rows[2:-1]))
    assert not set(rest) & set("\\$#%^~_"), rest
    code, out, err = gr_report("runs")
    shown_anywhere(out + err)
    shown_anywhere("".join(gr_report("runs", "--watch")[1:]))


def quoting(root: Path, seed: int, value: str) -> None:
    """Write a run with that text in every field that can contain text."""
    status = {"reason": value, "command": value, "overrides": [f"model.note={value}"], "versions": {"torch": value}}
    run = write_run(root, seed, status=status, name=f"run {seed}")
    configures("model.note", value)(run / "config.yaml")
    configures("choices.benchmark", value)(run / "config.yaml")
    sealed(run)


def test_hostile_texts_are_escaped_in_the_page_and_in_figures(gr_report):
    for seed in range(2):
        quoting(Path("runs"), seed, f"{seed} {' '.join(HOSTILE[seed::2])}")
    code, _, err = gr_report("runs", "--html", "page.html", "--figures", "figures")
    assert code == 0, err
    page = without_library(Path("page.html").read_text(encoding="utf-8"))
    shown_anywhere(page)
    embedded(page)
    assert "<script>alert" not in page and "<img src=x" not in page
    for path in Path("figures").glob("*.svg"):
        ElementTree.parse(path)


def shown_anywhere(text: str) -> None:
    """Assert that a text has no control or formatting characters."""
    hidden = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not hidden


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_control_characters_of_a_name_never_reach_the_terminal(gr_run, gr_report):
    name = Path("runs\x1b[31m\n\u202e")
    name.mkdir()
    write_run(name)
    (write_run(name, 1) / "metrics.csv").unlink()
    for words in ([name], [name, "--watch"], [name / "nowhere"]):
        shown_anywhere("".join(gr_report(*words)[1:]))
    code, _, err = gr_run(f"resume={name}")
    assert code == 2 and err.count("\n") == 1
    shown_anywhere(err)
    assert one_line("a\tb\r\nc\x1b[0m\udc80é✓") == "a b c\\x1b[0m\\udc80é✓"
