"""The charts of gr-report's page: their specifications are valid, and a browser draws them."""

import re
from pathlib import Path

import pytest

from gr_cli.report.cli import main
from gr_cli.report.page_charts import filled, specs
from helpers.harms import configures
from helpers.interruption import sealed
from helpers.pages import browsed, with_script, without_library
from helpers.run_folders import write_run

LOOK = {
    "index": 0,
    "name": "<a>",
    "colour": "#0072b2",
    "opacity": 1,
    "shape": "circle",
    "detail": "seed 0",
    "text": "3",
}
ROWS = {
    "dots": [{**LOOK, "mean": 3, "low": 2, "high": 4}, {**LOOK, "value": 3.5}],
    "lines": [{**LOOK, "line": "0", "x": x, "mean": 3 * x, "dot": 3 * x, "low": 2, "high": 4} for x in (0, 1)],
    "scatter": [{**LOOK, "x": 1, "mean": 3, "low": None, "high": None}, {**LOOK, "x": 1, "value": 3.5}],
    "heat": [{**LOOK, "row": "a", "column": "b", "share": 0.5, "label": "1", "ink": "black"}],
    "parallel": [
        {**LOOK, "axis": axis, "position": 0.5, "line": 0, "share": 0.5, "width": 2} for axis in ("lr", "accuracy")
    ]
    + [{"axis": "lr", "tick_position": 0, "tick": "0.1"}],
}
MARKS = {
    "dots": {"rule": 1, "rect": 1, "symbol": 1},
    "lines": {"area": 1, "line": 1, "symbol": 2},
    "scatter": {"symbol": 2},
    "heat": {"rect": 1, "text": 1},
    "parallel": {"line": 1, "text": 2},
}
VALUES = {
    "x0": 1,
    "x1": 10,
    "y0": 0,
    "y1": 10,
    "names": ["<a>"],
    "label_limit": 100,
    "label_length": 15,
    "ticks": 5,
    "x_scale": "log",
    "x_values": [1, 3],
    "x_format": "~s",
    "height": 200,
}
VALUES |= {"x_title": "x", "y_title": None, "font_size": 11}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_specifications_are_valid_and_draw_their_rows(name):
    import vl_convert

    assert set(specs()) == set(ROWS)
    spec = filled(specs()[name], {**VALUES, "rows": ROWS[name]})
    assert "$" not in re.sub(r'"\$schema"', "", str(spec)).replace("$schema", "")
    svg = vl_convert.vegalite_to_svg(spec)
    assert "NaN" not in svg
    for mark, number in MARKS[name].items():
        marks = re.findall(rf'<g class="mark-{mark} role-mark[^>]*>(.*?)</g>', svg, re.DOTALL)
        drawn = sum(len(re.findall(r"<(?:path|text|line)", group)) for group in marks)
        assert drawn >= number, (mark, svg)


def write_kinds(root: Path) -> None:
    """Three configurations of which one failed, and one of another scenario."""
    for weight in (0.5, 1.0, 2.0):
        words = (f"strategy.replay_weight={weight}",)
        for seed in range(2 if weight == 1.0 else 3):
            write_run(root, seed, "generative_replay", overrides=words, strategy__replay_weight=weight)
    write_run(root, 2, "generative_replay", state="failed", strategy__replay_weight=1.0)
    for seed in range(3):
        write_run(root, seed)
    write_run(root, 0, "joint", scenario="task")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_kinds(folder / "runs")
    assert main([str(folder / "runs"), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


TRY = """
const results = [], wait = (ms) => new Promise((done) => setTimeout(done, ms));
const $ = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const until = async (condition) => { while (!condition()) await wait(20); };
const change = (id, value, event) => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event(event));
};
const rows = () => all("table.all tbody tr");
const position = (id) => 1 + columns().filter((one) => !hidden.has(one.id)).findIndex((one) => one.id === id);
const cell = (row, id) => row.cells[position(id)];
addEventListener("load", async () => {
  await until(() => document.documentElement.dataset.ready);
  hidden.delete("setting replay_weight"); drawTable();
  results.push("rows " + rows().length, "dots " + all("#dots .mark-symbol path").length);
  const button = () => all("table.all th button").find((one) => one.dataset.column === "setting replay_weight");
  const shownWeights = () => rows().map((row) => cell(row, "setting replay_weight").textContent).join();
  button().click(); results.push("up " + shownWeights());
  button().click(); results.push("down " + shownWeights() + " " + button().closest("th").getAttribute("aria-sort"));
  const lines = all("#accuracy-chart .mark-line path").map((path) => path.getAttribute("d"));
  results.push("lines " + lines.filter((d) => d.split("L").length === 3).length + " of " + lines.length);
  change("filter", "replay 0.5", "input"); await wait(200);
  results.push("filtered " + rows().length, $("#matches").textContent);
  results.push("dots " + all("#dots .mark-symbol path").length);
  change("filter", "", "input"); await wait(200);
  $("table.all input").click(); await wait(200);
  const marks = () => all("#accuracy-chart .mark-line path");
  const opacities = () => new Set(marks().map((path) => path.getAttribute("opacity")));
  results.push("chosen " + all("tr.chosen").length, "opacities " + opacities().size);
  $("#clear").click(); await wait(200);
  results.push("cleared " + all("tr.chosen").length, "opacities " + opacities().size);
  change("metric", "forgetting", "change"); await wait(200);
  results.push("sentence " + $("#verdict").textContent.includes("forgetting"));
  const chart = charts.get("accuracy-chart");
  const press = (key) => chart.host.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const before = chart.view.signal("y1") - chart.view.signal("y0"); press("+");
  results.push("zoomed " + (chart.view.signal("y1") - chart.view.signal("y0") < before));
  press("-"); press("-"); results.push("inside " + (chart.view.signal("y1") <= 100 && chart.view.signal("y0") >= 0));
  $("#accuracy-chart details").open = true; await wait(100);
  results.push("numbers " + (all("#accuracy-chart td").length > 0));
  results.push($('[data-column="difference"]').textContent.replaceAll("\u200b", ""));
  const swept = charts.get("sweep").rows.filter((row) => row.mean !== undefined);
  results.push("swept " + swept.map((row) => row.x).sort((a, b) => a - b).join());
  const ticks = all("#sweep .role-axis-label text").slice(0, 3).map((text) => text.textContent);
  results.push("ticks " + ticks.join("|"), charts.get("sweep").build(charts.get("sweep")).x_format);
  const weights = charts.get("parallel").rows.filter((row) => row.axis === "replay_weight" && row.tick);
  results.push("axis " + weights.map((row) => row.tick + " " + row.tick_position.toFixed(2)).join());
  results.push($("#sweep p").textContent, $("#accuracy-chart p").textContent);
  change("comparable", "1", "change"); await wait(300);
  results.push("other scenario " + rows().length);
  document.title = results.join("; ");
});
"""


def test_the_page_and_its_controls_work_in_a_browser(page):
    tried = page.with_name("tried.html")
    tried.write_text(with_script(page.read_text(encoding="utf-8"), TRY), encoding="utf-8")
    dom, log = browsed(tried)
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]
    assert "data-errors" not in dom
    assert int(re.search(r'data-ready="(\d+)"', dom)[1]) >= 9
    assert re.search(r"<title>(.*?)</title>", dom)[1].split("; ") == [
        "rows 4", "dots 11", "up 0.5,1,2,–", "down 2,1,0.5,– descending", "lines 4 of 4",
        "filtered 1", "1 of 4", "dots 3",
        "chosen 1", "opacities 2", "cleared 0", "opacities 1", "sentence true", "zoomed true", "inside true",
        "numbers true", "paired difference in average accuracy (points)", "swept 0.5,1,2", "ticks 0.5|1|2", ".6~g",
        "axis – 0.00,0.5 0.20,1 0.47,2 1.00", "forgetting (%)", "accuracy (%)",
        "other scenario 1",
    ]  # fmt: skip


HOSTILE = "</script><img src=x onerror=document.title='run'> ' + alert(1) + ' ${alert(1)} $rows {{1}} datum['a'] </td>"


def test_texts_of_folders_are_neither_markup_nor_code_in_a_browser(tmp_path):
    for seed in range(2):
        status = {"reason": HOSTILE, "command": HOSTILE}
        run = write_run(tmp_path / "runs", seed, status=status)
        configures("model.note", f"{seed} {HOSTILE}")(run / "config.yaml")
        sealed(run)
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "runs"), "--html", str(page)]) == 0
    dom, log = browsed(page)
    assert "CONSOLE" not in log and "data-errors" not in dom
    assert int(re.search(r'data-ready="(\d+)"', dom)[1]) >= 5
    assert re.search(r"<title>(.*?)</title>", dom)[1].startswith(
        "gr-report: 2 finished"
    ) and "<img src=" not in without_library(dom)


@pytest.mark.parametrize("runs", ["failed", "nan", "single", "many tasks"])
def test_unusual_runs_are_drawn(tmp_path, monkeypatch, runs):
    if runs == "many tasks":
        monkeypatch.setattr("helpers.run_folders.TASKS", 24)
    if runs == "nan":
        write_run(tmp_path / "runs", 1, accuracy=float("nan"))
    write_run(tmp_path / "runs", state="failed" if runs == "failed" else "finished")
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "runs"), "--html", str(page)]) == (runs == "nan")  # its curves are left out
    dom, log = browsed(page)
    assert "CONSOLE" not in log and "data-errors" not in dom
    assert int(re.search(r'data-ready="(\d+)"', dom)[1]) >= (0 if runs == "failed" else 5)


def test_long_names_keep_their_ends(page):
    """On a narrow screen, names that differ at their ends stay distinct."""
    import vl_convert

    names = ["generative_replay · replay_weight=0.25", "generative_replay · replay_weight=0.5"]
    rows = [{**row, "name": name} for name in names for row in ROWS["dots"]]
    svg = vl_convert.vegalite_to_svg(filled(specs()["dots"], {**VALUES, "rows": rows, "names": names}))
    labels = re.findall(r">([^<>]*…[^<>]*)<", svg)
    assert len(set(labels)) == 2 and all(len(label) <= VALUES["label_length"] for label in labels)


def test_on_a_phone_only_tables_scroll_sideways(page):
    phone = page.with_name("phone.html")
    phone.write_text(
        '<iframe id="page" src="page.html" width="390" height="800"></iframe><script>addEventListener("load", () => {'
        'const page = document.getElementById("page").contentDocument.documentElement;'
        "const timer = setInterval(() => {"
        "if (!page.dataset.ready) return; clearInterval(timer);"
        'document.title = page.scrollWidth + " " + page.clientWidth; }, 50); });</script>',
        encoding="utf-8",
    )
    dom, _ = browsed(phone, "--allow-file-access-from-files")
    whole, seen = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
    assert whole <= seen <= 390
