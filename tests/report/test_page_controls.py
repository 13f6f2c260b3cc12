"""Controls of the page in a browser: columns, selection, sliders, parallel coordinates, keyboard, comparison."""

import json
import re
from html import unescape
from statistics import fmean

import pytest
from PIL import Image

from gr_cli.report.cli import main
from gr_cli.report.page_charts import filled, specs
from gr_cli.results.statistics import paired_summary
from helpers.pages import browsed, embedded, with_script
from helpers.run_folders import write_run

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # one more than there are colours

TRY = r"""
const result = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
const all = (selector) => [...document.querySelectorAll(selector)];
const heads = () => all("table.all thead th").map((cell) => cell.textContent.replaceAll("\u200b", ""));
const lines = (id) => all(`#${id} .mark-line path`);
const key = (id, key) => byId(id).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const domain = (id) => ["x0", "x1", "y0", "y1"].map((name) => charts.get(id).view.signal(name));
addEventListener("load", async () => {
  while (!document.documentElement.dataset.ready) await wait(20);
  result.dashes = lines("accuracy-chart").map((path) =>
    [path.getAttribute("stroke"), path.getAttribute("stroke-dasharray")].join(" "));
  const column = (text) => all("#columns label").find((label) => label.textContent.trim() === text)
    .querySelector("input");
  result.before = heads();
  column("seconds").click(); column("learning accuracy (%)").click();
  result.after = heads();
  const boxes = () => all("table.all tbody input");
  boxes()[1].click(); await wait(200);
  result.pressed = all("#legend [aria-pressed=true]").length;
  result.strong = ["accuracy-chart", "forgetting-chart", "quality-chart"].map((id) =>
    lines(id).filter((path) => path.getAttribute("opacity") === "1").length);
  result.wide = lines("parallel").map((path) => path.getAttribute("stroke-width")).sort();
  boxes()[1].click(); await wait(200);
  result.lines = lines("parallel").length;
  result.axes = [...new Set(charts.get("parallel").rows.map((row) => row.axis))];
  const slide = byId("samples").querySelector("input");
  result.pictures = [2, 0].map((at) => { slide.value = at; slide.dispatchEvent(new Event("input"));
    return [slide.getAttribute("aria-valuetext"), all("#samples img").length, all("#samples img")[0].alt]; });
  const home = domain("accuracy-chart");
  key("accuracy-chart", "+"); key("accuracy-chart", "ArrowRight"); await wait(100);
  const zoomed = domain("accuracy-chart");
  key("accuracy-chart", "0"); await wait(100);
  result.keys = [zoomed[0] > home[0], zoomed[1] - zoomed[0] < home[1] - home[0],
    String(domain("accuracy-chart")) === String(home)];
  result.focusable = all("main .chart").every((chart) => chart.tabIndex === 0 && chart.getAttribute("aria-label"));
  const rows = () => all("#differences tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent));
  const choosePair = (...values) => ["first", "second"].forEach((id, i) => {
    byId(id).value = values[i];
    byId(id).dispatchEvent(new Event("change"));
  });
  choosePair("0", "1"); result.compared = rows();
  choosePair("0:0", "1:0"); result.single = rows();
  dispatchEvent(new Event("beforeprint")); await wait(100);
  result.printed = all("main .chart svg.marks").map((svg) => Math.round(svg.getBoundingClientRect().width));
  dispatchEvent(new Event("afterprint"));
  result.errors = document.documentElement.dataset.errors ?? "";
  document.title = JSON.stringify(result);
});
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> tuple[dict, dict]:
    """What the script found, and the data of the page."""
    folder = tmp_path_factory.mktemp("controls")
    for rate in RATES:
        for seed in range(3):
            settings = {"optimizer__lr": rate, "train__batch_size": int(1000 * rate)}
            run = write_run(folder / "runs", seed, "generative_replay", **settings)
            for task in range(3) if seed == 0 else ():
                Image.new("RGB", (40, 20)).save(run / "figures" / f"samples_task_{task}.png")
    assert main([str(folder / "runs"), "--html", str(folder / "page.html")]) == 0
    text = (folder / "page.html").read_text(encoding="utf-8")
    (folder / "tried.html").write_text(with_script(text, TRY), encoding="utf-8")
    dom, _ = browsed(folder / "tried.html", "--window-size=1600,1200")
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])), embedded(text)


def test_no_error_occurred(tried):
    assert tried[0]["errors"] == ""


def test_every_configuration_has_its_own_colour_and_dash(tried):
    dashes = tried[0]["dashes"]
    assert len(dashes) == len(set(dashes)) == len(RATES)


def test_columns_can_be_hidden_and_shown(tried):
    before, after = ([head.rstrip("\u00a0↕↑↓") for head in tried[0][name]] for name in ("before", "after"))
    assert "seconds" in before and "learning accuracy (%)" not in before
    assert set(before) - set(after) == {"seconds"} and set(after) - set(before) == {"learning accuracy (%)"}


def test_a_selected_row_is_highlighted_in_every_chart(tried):
    result, _ = tried
    assert result["pressed"] == 1 and result["strong"] == [1, 1, 1]
    assert result["wide"] == ["1.5"] * (len(RATES) - 1) + ["4"]


def test_parallel_coordinates_have_a_line_per_configuration(tried):
    result, _ = tried
    assert result["lines"] == len(RATES) and result["axes"] == ["lr", "train.batch_size", "average accuracy (%)"]


def test_the_slider_chooses_the_task_of_the_pictures(tried):
    (last, number, alt), (first, _, _) = tried[0]["pictures"]
    assert (last, first) == ("after task 2", "after task 0") and number == len(RATES)
    assert "after task 2, seed 0" in alt


def test_keys_zoom_move_and_reset_a_chart(tried):
    assert tried[0]["keys"] == [True, True, True] and tried[0]["focusable"]


def test_two_configurations_have_a_paired_difference_with_its_interval(tried):
    result, data = tried
    a, b = (one["metrics"]["average_accuracy"]["seeds"] for one in data["configurations"][:2])
    gaps = [b[seed] - a[seed] for seed in a]
    summary = paired_summary(gaps)
    name, _, _, text = next(row for row in result["compared"] if row[0] == "average accuracy (%)")
    mean, low, high, n = re.fullmatch(r"(\S+) \[(\S+), (\S+)\] \((\d)\)", text.replace("−", "-")).groups()
    assert float(mean) == pytest.approx(fmean(gaps), abs=0.006) and n == "3"
    expected = [min(100.0, max(-100.0, end)) for end in summary.interval]
    assert [float(low), float(high)] == pytest.approx(expected, abs=0.006)
    (single,) = (row[3] for row in result["single"] if row[0] == name)
    assert float(single.replace("−", "-")) == pytest.approx(b["0"] - a["0"], abs=0.006)


def test_charts_fit_the_paper_when_printed(tried):
    assert max(tried[0]["printed"]) <= 720 and min(tried[0]["printed"]) > 200


def test_lines_have_their_dash():
    import vl_convert

    row = {"index": 0, "name": "a", "line": "0", "colour": "#000", "opacity": 1, "shape": "circle", "dash": [7, 3]}
    rows = [{**row, "x": x, "mean": x, "dot": x, "detail": "", "text": ""} for x in (0, 1)]
    values = {"x0": 0, "x1": 1, "y0": 0, "y1": 1, "height": 100, "x_title": "x", "rows": rows}
    assert 'stroke-dasharray="7,3"' in vl_convert.vegalite_to_svg(filled(specs()["lines"], values))
