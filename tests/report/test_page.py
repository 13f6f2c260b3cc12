"""The page of gr-report: its numbers are those of the CSV files, it needs no network, and it works in a browser."""

import csv
import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.report.cli import main
from gr_cli.results import figures
from helpers.run_folders import TASKS, write_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
T = 4.302653  # Student's t for 95 % and three values


class Tables(HTMLParser):
    """The tables of a page by CSS class, as rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.by_class: dict[str, list[list[list[str]]]] = {}
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self._rows = []
            self.by_class.setdefault(dict(attrs)["class"], []).append(self._rows)
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of three configurations, one with a failed run: its path, its text, and the finished folders of each."""
    root = tmp_path_factory.mktemp("report") / "runs"
    groups = [[write_run(root, seed) for seed in range(3)]]
    for weight in (0.5, 2.0):
        words = (f"strategy.replay_weight={weight}",)
        groups.append(
            [
                write_run(root, seed, "generative_replay", overrides=words, strategy__replay_weight=weight)
                for seed in range(3 if weight == 2.0 else 2)
            ]
        )
    write_run(root, 2, "generative_replay", state="failed", status={"reason": "<b>&"}, strategy__replay_weight=0.5)
    image = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    import torch

    for task in range(TASKS):
        figures.draw_sample_sheet(
            SampleSpec(image.shape[1:]).preview(torch.from_numpy(image)),
            "generated samples",
            groups[2][0] / "figures" / f"samples_task_{task}.png",
        )
    path = root.parent / "page.html"
    assert main([str(root), "--html", str(path)]) == 0
    return path, path.read_text(), groups


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def metric(path: Path, name: str) -> float:
    return float({row["metric"]: row["value"] for row in read(path / "metrics.csv")}[name])


def interval(values: list[float], low: float | None, high: float | None) -> list[float]:
    """Ends of the 95 % interval of three values: on the logit scale between two bounds, on the log scale above one."""
    mean, half = fmean(values), T * stdev(values) / math.sqrt(3)
    if low is None:
        return [mean - half, mean + half]
    if high is None:
        return [low + (mean - low) * math.exp(sign * half / (mean - low)) for sign in (-1, 1)]
    odds, size = (mean - low) / (high - mean), high - low
    ends = [odds * math.exp(sign * half * size / ((mean - low) * (high - mean))) for sign in (-1, 1)]
    return [low + size * end / (1 + end) for end in ends]


def statistics(
    values: list[float], scale: float = 100.0, low: float | None = 0.0, high: float | None = 1.0
) -> list[float]:
    """Mean, standard error, ends of the interval and n, as tables of numbers list them; below 3 seeds mean and n."""
    if len(values) < 3:
        return [scale * fmean(values), len(values)]
    sem = stdev(values) / math.sqrt(3)
    return [scale * fmean(values), scale * sem, *(scale * end for end in interval(values, low, high)), 3]


def mean_and_error(values: list[float], scale: float = 100.0) -> list[float]:
    """Mean and standard error; below 3 seeds the values."""
    return statistics(values, scale, None, None)[:2] if len(values) > 2 else [scale * value for value in values]


def numbers(cells: list[str]) -> list[float]:
    return [
        float(number)
        for cell in cells
        for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", cell.replace("−", "-"))
    ]


def test_every_kind_of_table_is_checked_here(written):
    kinds = {"all", "comparison", "sweep", "heat", "curves", "losses", "runs", "measured"}
    assert set(Tables(written[1]).by_class) == kinds


def test_the_table_is_that_of_the_csv_files(written):
    _, text, groups = written
    (rows,) = Tables(text).by_class["all"]
    base = [metric(path, "average_accuracy") for path in groups[0]]
    for cells, paths in zip(rows[1:], groups, strict=True):
        row = dict(zip(rows[0], cells, strict=True))
        accuracy = [metric(path, "average_accuracy") for path in paths]
        n = len(accuracy)
        assert row["n"] == (f"{n}" if n == 3 else f"{n} of 3")
        assert numbers([row["average accuracy (%)"]]) == pytest.approx(mean_and_error(accuracy), abs=0.006)
        assert numbers([row["95 % interval"]]) == pytest.approx(statistics(accuracy)[2:4] if n == 3 else [], abs=0.006)
        expected = mean_and_error([metric(path, "forgetting") for path in paths])
        assert numbers([row["forgetting (%)"]]) == pytest.approx(expected, abs=0.006)
        if paths is not groups[0]:
            gains = [value - baseline for value, baseline in zip(accuracy, base, strict=False)]
            difference = numbers([row["paired difference in average accuracy (points)"]])
            mean, _, *ends, n = statistics(gains, low=None) if n == 3 else [100 * gains[0], 0, 100 * gains[1], n]
            ends = [min(100, max(-100, end)) for end in ends]
            assert difference == pytest.approx([mean, *ends, n], abs=0.006)
        timing = [read(path / "timing.csv") for path in paths]
        seconds = [sum(float(r["solver_seconds"]) + float(r["evaluation_seconds"]) for r in rows) for rows in timing]
        assert numbers([row["seconds"]]) == pytest.approx(mean_and_error(seconds, 1), abs=0.06)
        assert float(row["peak MiB"]) == 502


def test_heat_maps_are_the_accuracy_matrices(written):
    _, text, groups = written
    for rows, paths in zip(Tables(text).by_class["heat"], groups, strict=True):
        matrices = [
            [[float(row[f"task_{j}"]) for j in range(TASKS)] for row in read(p / "accuracy_matrix.csv")] for p in paths
        ]
        for i in range(TASKS):
            for j in range(TASKS):
                values = [matrix[i][j] for matrix in matrices]
                expected = mean_and_error(values) if len(values) == 3 else [100 * fmean(values)]
                assert numbers([rows[1 + i][1 + j]]) == pytest.approx(expected, abs=0.06)
        assert rows[0] == ["task", *(str(j) for j in range(TASKS))]
        assert [row[0] for row in rows[1:]] == [*(f"after {i}" for i in range(TASKS)), "forgetting"]
        for j in range(TASKS - 1):
            lost = [max(m[i][j] for i in range(TASKS - 1)) - m[-1][j] for m in matrices]
            expected = mean_and_error(lost) if len(lost) == 3 else [100 * fmean(lost)]
            assert numbers([rows[-1][1 + j]]) == pytest.approx(expected, abs=0.06)


def test_the_numbers_of_accuracy_and_loss_charts(written):
    _, text, groups = written
    tables = Tables(text).by_class
    for rows, paths in zip(tables["curves"], groups, strict=True):
        matrices = [
            [[float(row[f"task_{j}"]) for j in range(TASKS)] for row in read(p / "accuracy_matrix.csv")] for p in paths
        ]
        seen = set()
        for line, x, *shown in rows[1:]:
            learnt = int(x)
            now = [matrix[learnt - 1] for matrix in matrices]
            task = int(line.removeprefix("task ")) if line.startswith("task") else None
            values = [fmean(row[:learnt]) if task is None else row[task] for row in now]
            assert numbers(shown) == pytest.approx(statistics(values), abs=0.0006)
            seen.add((line, learnt))
        assert len(seen) == TASKS * (TASKS + 1) / 2 + TASKS
    for rows, paths in zip(tables["losses"], groups, strict=True):
        histories = [read(path / "history.csv") for path in paths]
        assert len(rows) == 1 + 2 * len(histories[0])
        for line, x, *shown in rows[1:]:
            row_index = int(x) // 10 - 1  # a row at every tenth of the 20 iterations of a task
            expected = statistics([float(history[row_index][line]) for history in histories], 1, None)
            assert numbers(shown) == pytest.approx(expected, abs=0.0006)


def test_the_numbers_of_sample_quality(written):
    _, text, groups = written
    tables = Tables(text).by_class["measured"]
    replaying = groups[1:]
    assert len(tables) == len(replaying) == 2
    for rows, paths in zip(tables, replaying, strict=True):
        csv_tables = [read(path / "sample_quality.csv") for path in paths]
        expected = {}
        for table in csv_tables:
            for row in table:
                task = "all so far" if row["task"] == "all" else f"task {row['task']}"
                for column in list(row)[4:]:
                    percent = "" if column in ("class_share", "density", "frechet") else " (%)"
                    if row[column]:
                        key = (f"{column.replace('_', ' ')}{percent}", task, str(int(row["after_task"]) + 1))
                        expected.setdefault(key, []).append(float(row[column]))
        assert [tuple(cells[:3]) for cells in rows[1:]] != [] and len(rows) == 1 + len(expected)
        for *key, mean, sem, low, high, n in rows[1:]:
            values = expected[tuple(key)]
            scale, top = (100, 1.0) if "%" in key[0] else (1, None)
            expected_statistics = statistics(values, scale, 0.0, top)
            assert numbers([mean, sem, low, high, n]) == pytest.approx(expected_statistics, abs=0.0006)
        assert {len(values) for values in expected.values()} == {len(paths), len(paths) - 1}
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    wanted = "sample quality over training; mean over seeds 0–2 (n = 3); bands: standard error"
    assert sum(wanted in caption for caption in captions) == 1


def test_the_numbers_of_the_comparisons(written):
    _, text, groups = written
    tables = Tables(text).by_class
    for rows, name in zip(tables["comparison"], ("average_accuracy", "forgetting"), strict=True):
        for (_, *shown), paths in zip(rows[1:], groups, strict=True):
            low = -1.0 if name == "forgetting" else 0.0
            expected = statistics([metric(p, name) for p in paths], low=low)
            assert numbers(shown) == pytest.approx(expected, abs=0.0006)
    (rows,) = tables["sweep"]
    assert [row[1] for row in rows[1:]] == ["0.5", "2"]
    for (_, _, *shown), paths in zip(rows[1:], groups[1:], strict=True):
        assert numbers(shown) == pytest.approx(statistics([metric(p, "average_accuracy") for p in paths]), abs=0.0006)
    for rows, paths in zip(tables["runs"], groups, strict=True):
        for row, path in zip(rows[1:], paths, strict=False):
            assert row[1] == "finished" and float(row[2]) == pytest.approx(
                100 * metric(path, "average_accuracy"), abs=0.006
            )
            assert row[3].startswith("gr-run ") and row[4] == str(path)
    assert tables["runs"][1][-1][1:3] == ["failed", "–"]


def test_it_needs_no_network_and_its_pictures_have_alternative_texts(written):
    _, text, _ = written
    links = re.findall(r'(?:src|href|action)="([^"]*)"|url\(([^)]*)\)|@import', text)
    assert all(re.match(r"#|data:", one or two) for one, two in links), links
    assert not re.findall(r"https?://(?!www\.w3\.org/)", text)
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) == TASKS and all('alt="Grid of generated samples' in image for image in images)
    assert text.count("<svg") == text.count('role="img" aria-label="') == 3 * 2 + 3 + 2
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= set(ids)


def test_texts_of_folders_are_escaped(written):
    _, text, _ = written
    assert "<b>&" not in text and html.escape("<b>&") in text


# --- in a browser


def browsed(path: Path, *flags: str) -> tuple[str, str]:
    """The page after its scripts have run, and the log of the browser."""
    if not CHROMIUM:
        pytest.skip("there is no chromium to look at the page with")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom", *flags]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run([CHROMIUM, *words, profile, path.as_uri()], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


TRY = """<script>
const results = [];
addEventListener("error", (event) => results.push("error " + event.message));
const first = () => [...document.querySelectorAll("table.all tbody tr")].filter((row) => !row.hidden)
  .map((row) => row.cells[4].textContent).join();
const headings = [...document.querySelectorAll("table.all th button")];
const heading = headings.find((button) => button.textContent.startsWith("replay_weight"));
heading.click(); results.push("up " + first());
heading.click(); results.push("down " + first() + " " + heading.closest("th").getAttribute("aria-sort"));
const field = document.getElementById("filter");
field.value = "replay 0.5"; field.dispatchEvent(new Event("input"));
results.push("shown " + document.querySelectorAll("table.all tbody tr:not([hidden])").length);
results.push("groups " + document.querySelectorAll("details.group:not([hidden])").length);
results.push(document.getElementById("matches").textContent);
const group = document.getElementById("group-2");
group.open = false; location.hash = "#group-2";
addEventListener("hashchange", () => document.title = results.join("; ") + "; open " + group.open);
</script></body>"""


def test_the_page_and_its_controls_work_in_a_browser(written):
    path, text, _ = written
    tried = path.with_name("tried.html")
    tried.write_text(text.replace("</body>", TRY))
    dom, log = browsed(tried, "--virtual-time-budget=3000")
    assert "CONSOLE" not in log
    title = re.search(r"<title>(.*?)</title>", dom)[1]
    assert title == "up 0.5,2,–; down –,2,0.5 descending; shown 1; groups 1; 1 of 3; open true"


def test_on_a_phone_only_tables_scroll_sideways(written):
    path, _, _ = written
    phone = path.with_name("phone.html")
    phone.write_text(
        '<iframe id="page" src="page.html" width="360" height="700"></iframe><script>addEventListener("load", () => {'
        'const page = document.getElementById("page").contentDocument.documentElement;'
        'document.title = page.scrollWidth + " " + page.clientWidth; });</script>'
    )
    dom, log = browsed(phone, "--allow-file-access-from-files", "--virtual-time-budget=3000")
    assert "CONSOLE" not in log
    whole, seen = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
    assert whole <= seen <= 360


# --- many tasks


def test_a_matrix_of_many_tasks_is_drawn_and_its_numbers_are_below(monkeypatch):
    monkeypatch.setattr("helpers.run_folders.TASKS", 24)
    folder = write_run(Path("runs"))
    assert main(["runs", "--html", "page.html"]) == 0
    text = Path("page.html").read_text()
    _, drawn = text.split('<figure class="matrix">')
    drawing, below = drawn.split("</svg>", 1)
    assert drawing.count("<image") == 2 and below.index("The numbers") < below.index('<table class="heat">')
    (rows,) = Tables(text).by_class["heat"]
    for shown, row in zip(rows[1:], read(folder / "accuracy_matrix.csv"), strict=False):
        assert numbers(shown[1:]) == pytest.approx([100 * float(row[f"task_{j}"]) for j in range(24)], abs=0.06)
    curves = text.split('<figure class="curves">')[1].split("</svg>", 1)[0]
    assert set(re.findall(r"(task \d+|mean so far)</text>", curves)) == {"task 0", "task 23", "mean so far"}


@pytest.mark.parametrize(("down", "across"), [(20, 20), (21, 21), (100, 100), (1, 400)])
def test_pictures_of_many_tasks_stay_small(tmp_path, down, across):
    from PIL import Image

    rows = {after: [0.5] * across for after in range(down)}
    figures.draw_accuracy_matrix(rows, [f"permutation {i}" for i in range(across)], "many", tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as image:
        assert max(image.size) < 2700


# --- figures for papers


def test_figures_for_papers_are_as_wide_as_a_column_and_hold_their_fonts():
    write_run(Path("runs"))
    assert main(["runs", "--metrics", "average_accuracy", "--figures", "figures"]) == 0
    files = sorted(Path("figures").iterdir())
    kinds = {f"1_finetune_{kind}" for kind in ("curves", "losses", "matrix")}
    assert {file.stem for file in files} == kinds | {"average_accuracy"} and len(files) == 8
    write_run(Path("others"), strategy="generative_replay")
    assert main(["others", "--metrics", "sample_coverage", "--figures", "others"]) == 0
    assert {f"1_generative_replay_{kind}.svg" for kind in ("curves", "losses", "sample_quality", "matrix")} < {
        file.name for file in Path("others").iterdir()
    }
    for file in [*files, *Path("others").glob("*sample_quality.*")]:
        data = file.read_bytes()
        if file.suffix == ".svg":
            assert float(re.search(rb'width="([\d.]+)pt"', data)[1]) == pytest.approx(3.35 * 72, abs=0.1)
            assert b"<text" not in data
        else:
            assert float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", data)[1]) == pytest.approx(3.35 * 72, abs=0.1)
            assert b"/FontFile2" in data and b"/Type3" not in data
