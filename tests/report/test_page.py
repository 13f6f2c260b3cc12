"""The numbers of gr-report's page are those of the CSV files, and it needs no network."""

import base64
import csv
import html
import io
import math
import re
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.report.cli import main
from gr_cli.results import figures
from helpers.pages import embedded, without_library
from helpers.run_folders import TASKS, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a page of three configurations, one with a failed run, and the finished folders of each by seed."""
    root = tmp_path_factory.mktemp("report") / "runs"
    groups = [{seed: write_run(root, seed) for seed in range(3)}]
    for weight in (0.5, 2.0):
        words = (f"strategy.replay_weight={weight}",)
        seeds = range(3 if weight == 2.0 else 2)
        replay = {"strategy": "generative_replay", "overrides": words, "strategy__replay_weight": weight}
        groups.append({seed: write_run(root, seed, **replay) for seed in seeds})
    write_run(root, 2, "generative_replay", state="failed", status={"reason": "<b>&"}, strategy__replay_weight=0.5)
    import torch

    picture = SampleSpec((1, 8, 8)).preview(torch.from_numpy(np.random.default_rng(0).random((4, 1, 8, 8), "float32")))
    for task in range(TASKS):
        path = groups[2][0] / "figures" / f"samples_task_{task}.png"
        figures.draw_sample_sheet(picture, "generated samples", path)
    path = root.parent / "page.html"
    assert main([str(root), "--html", str(path)]) == 0
    return path.read_text(encoding="utf-8"), groups


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def factor(percent: bool) -> float:
    return 100.0 if percent else 1.0


def near(value: float, percent: bool = True):
    """Equal to a value, up to the rounding of the page: two decimals of percent, four digits of others."""
    return pytest.approx(value, abs=0.005001) if percent else pytest.approx(value, rel=5.1e-4, abs=1e-9)


T = 4.302653  # Student's t for 95 % and three values
UNIT, SIGNED, POSITIVE, ANY = (0.0, 1.0), (-1.0, 1.0), (0.0, None), (None, None)  # ranges of possible values


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


def assert_statistics(shown: list[float | None], values: list[float], percent: bool, bounds=UNIT) -> None:
    """Compare mean and interval with those of `values`."""
    scale = factor(percent)
    assert shown[0] == near(scale * fmean(values), percent)
    if len(values) < 3:
        assert shown[1:] == [None, None]
    else:
        assert shown[1:] == [near(scale * end, percent) for end in interval(values, *bounds)]


def test_nothing_else_is_embedded(written):
    """The other tests compare everything below with the CSV files."""
    data = embedded(written[0])
    keys = {"name", "comparable", "cells", "settings", "n", "of", "metrics", "difference", "costs", "warnings", "runs"}
    for configuration in data["configurations"]:
        assert set(configuration) - {"samples"} == keys | {"curves", "matrix", "counts"}
        replay = {"sample_quality"} if configuration["cells"][0] == "generative_replay" else set()
        assert set(configuration["curves"]) == {"evaluations", "forgetting", "history"} | replay
        assert configuration["counts"] == {}
    assert [set(one["cells"][:1]) for one in data["configurations"]] == [{"finetune"}, *[{"generative_replay"}] * 2]


def test_metrics_are_those_of_the_csv_files(written):
    text, groups = written
    data = embedded(text)
    assert [one["name"] for one in data["metrics"]][:2] == ["average_accuracy", "forgetting"]
    for configuration, runs in zip(data["configurations"], groups, strict=True):
        assert (configuration["n"], configuration["of"]) == (len(runs), 3)
        for metric in data["metrics"]:
            percent = metric["unit"] == "fraction"
            texts = {
                seed: {row["metric"]: row["value"] for row in read(path / "metrics.csv")}.get(metric["name"], "")
                for seed, path in runs.items()
            }
            values = {seed: float(text) for seed, text in texts.items() if text}
            shown = configuration["metrics"][metric["name"]]
            if not values:
                assert shown is None
                continue
            assert shown["seeds"] == {str(s): near(factor(percent) * v, percent) for s, v in values.items()}
            name = metric["name"]
            signed = name == "forgetting" or name.endswith("_transfer")
            bounds = SIGNED if signed else UNIT if percent else POSITIVE
            assert (metric["low"], metric["high"]) == tuple(end and end * factor(percent) for end in bounds)
            assert_statistics(shown["statistics"], list(values.values()), percent, bounds)


def accuracy(path: Path) -> float:
    return float({row["metric"]: row["value"] for row in read(path / "metrics.csv")}["average_accuracy"])


def test_differences_are_paired(written):
    text, groups = written
    shown = [one["difference"] for one in embedded(text)["configurations"]]
    assert shown[0] == {"text": "baseline", "value": 0.0, "p": None}
    for difference, runs in zip(shown[1:], groups[1:], strict=True):
        gains = [100 * (accuracy(path) - accuracy(groups[0][seed])) for seed, path in runs.items()]
        assert difference["value"] == near(fmean(gains))
        first = fmean(gains) if len(gains) == 3 else gains[0]
        assert difference["text"].startswith(f"{first:+.2f}".replace("-", "−"))
        assert difference["text"].endswith(f"({len(runs)})") and (difference["p"] is None) == (len(runs) < 3)


def test_costs_are_those_of_the_csv_files(written):
    text, groups = written
    for configuration, runs in zip(embedded(text)["configurations"], groups, strict=True):
        timing = [read(path / "timing.csv") for path in runs.values()]
        seconds = [sum(float(r["solver_seconds"]) + float(r["evaluation_seconds"]) for r in rows) for rows in timing]
        assert set(configuration["costs"]) == {"seconds", "peak memory (MiB)", "parameters of the solver"}
        assert_statistics(configuration["costs"]["seconds"]["statistics"], seconds, False, POSITIVE)
        assert list(configuration["costs"]["seconds"]["seeds"].values()) == [near(s, False) for s in seconds]
        assert set(configuration["costs"]["peak memory (MiB)"]["seeds"].values()) == {502}
        assert set(configuration["costs"]["parameters of the solver"]["seeds"].values()) == {50}


def test_matrices_are_those_of_the_csv_files(written):
    text, groups = written
    for configuration, runs in zip(embedded(text)["configurations"], groups, strict=True):
        matrix = configuration["matrix"]
        assert matrix["rows"] == matrix["columns"] == list(range(TASKS))
        by_seed = {
            seed: [[100 * float(row[f"task_{j}"]) for j in range(TASKS)] for row in read(path / "accuracy_matrix.csv")]
            for seed, path in runs.items()
        }
        for i in range(TASKS):
            for j in range(TASKS):
                assert matrix["mean"][i][j] == near(fmean(cells[i][j] for cells in by_seed.values()))
                for seed, cells in by_seed.items():
                    assert matrix["seeds"][str(seed)][i][j] == near(cells[i][j])


def assert_curve(curve: dict, expected: dict[float, dict[int, float]], percent: bool, bounds=UNIT) -> None:
    """Compare a curve with values by x and seed."""
    assert curve["x"] == sorted(expected)
    scale = factor(percent)
    for i, x in enumerate(curve["x"]):
        low, high = (curve[end][i] if end in curve else None for end in ("low", "high"))
        assert_statistics([curve["mean"][i], low, high], list(expected[x].values()), percent, bounds)
        for seed, values in curve["seeds"].items():
            value = expected[x].get(int(seed))
            assert values[i] == (None if value is None else near(scale * value, percent))


def test_accuracy_and_forgetting_over_tasks(written):
    text, groups = written
    for configuration, runs in zip(embedded(text)["configurations"], groups, strict=True):
        matrices = {
            seed: [[float(row[f"task_{j}"]) for j in range(TASKS)] for row in read(path / "accuracy_matrix.csv")]
            for seed, path in runs.items()
        }
        (curves,) = configuration["curves"]["evaluations"].values()
        assert set(curves) == {"mean so far", *(f"task {j}" for j in range(TASKS))}
        for name, curve in curves.items():
            task = 0 if name == "mean so far" else int(name.removeprefix("task "))
            expected = {
                i + 1: {
                    seed: fmean(m[i][: i + 1]) if name == "mean so far" else m[i][task] for seed, m in matrices.items()
                }
                for i in range(task, TASKS)
            }
            assert_curve(curve, expected, True)
        lost = {
            j: {seed: max(m[i][j] for i in range(TASKS - 1)) - m[-1][j] for seed, m in matrices.items()}
            for j in range(TASKS - 1)
        }
        assert_curve(configuration["curves"]["forgetting"]["forgetting"]["by task"], lost, True, SIGNED)


def test_losses(written):
    text, groups = written
    for configuration, runs in zip(embedded(text)["configurations"], groups, strict=True):
        histories = {seed: read(path / "history.csv") for seed, path in runs.items()}
        assert set(configuration["curves"]["history"]) == {"current", "total"}
        for term, curves in configuration["curves"]["history"].items():
            # A row at every tenth of the 20 iterations of a task.
            expected = {
                10 * (i + 1): {seed: float(rows[i][term]) for seed, rows in histories.items()} for i in range(2 * TASKS)
            }
            assert_curve(curves["loss"], expected, False, ANY)


def test_sample_quality(written):
    text, groups = written
    data = embedded(text)
    (shown,) = [family for family in data["families"] if family["name"] == "sample_quality"]
    percent = {column["name"]: column["percent"] for column in shown["columns"]}
    for configuration, runs in zip(data["configurations"][1:], groups[1:], strict=True):
        expected: dict = {}
        for seed, path in runs.items():
            for row in read(path / "sample_quality.csv"):
                curve = "all so far" if row["task"] == "all" else f"task {row['task']}"
                for column in percent:
                    if row[column]:
                        points = expected.setdefault((column, curve), {})
                        points.setdefault(int(row["after_task"]) + 1, {})[seed] = float(row[column])
        curves = configuration["curves"]["sample_quality"]
        assert {(column, name) for column, named in curves.items() for name in named} == set(expected)
        for (column, name), points in expected.items():
            assert_curve(curves[column][name], points, percent[column], UNIT if percent[column] else POSITIVE)


def test_runs_and_settings(written):
    text, groups = written
    data = embedded(text)
    for configuration, runs in zip(data["configurations"], groups, strict=True):
        finished = [run for run in configuration["runs"] if run[1] == "finished"]
        assert [(seed, folder) for seed, _, _, folder in finished] == [(seed, str(p)) for seed, p in runs.items()]
        assert all(command.startswith("gr-run ") for _, _, command, _ in finished)
    assert [run[:2] for run in data["configurations"][1]["runs"]][-1] == [2, "failed"]
    assert data["configurations"][1]["settings"]["strategy.replay_weight"] == "0.5"
    assert data["common"]["optimizer.lr"] == "0.001"
    assert "seed 2 failed: <b>&" in data["configurations"][1]["warnings"][0]


def test_the_first_sentence_names_the_best(written):
    text, groups = written
    data = embedded(text)
    means = [fmean(100 * accuracy(path) for path in runs.values()) for runs in groups]
    first, second = sorted(range(3), key=lambda i: -means[i])[:2]
    names = [one["name"] for one in data["configurations"]]
    sentence = data["verdicts"][0][0]
    n = len(groups[first])
    shown = f"{means[first]:.2f}" if n > 2 else f"{100 * accuracy(groups[first][0]):.2f}"
    assert sentence.startswith(f"{names[first]} has average accuracy {shown}")
    assert f"next is {names[second]} with {means[second]:.2f}\u00a0%" in sentence
    seeds = sorted(groups[first].keys() & groups[second].keys())
    gains = [100 * (accuracy(groups[first][seed]) - accuracy(groups[second][seed])) for seed in seeds]
    gain, over = fmean(gains), f"over {len(seeds)} common seeds"
    expected = (
        f"{gain:.2f} points apart {over}" if gain >= 0 else f"But {over} the next is better, by {-gain:.2f} points"
    )
    assert expected in sentence
    if len(seeds) == 3:
        ends = [min(100.0, max(-100.0, end)) for end in interval([abs(gain) / gain * one for one in gains], *ANY)]
        assert " to ".join(f"{end:.2f}" for end in ends).replace("-", "−") in sentence


def test_curves_of_one_of_several_seeds_name_it(tmp_path):
    """They are not taken for those of a seed without the table."""
    for seed in range(2):
        write_run(tmp_path / "runs", seed)
    history = next(path for path in (tmp_path / "runs").iterdir() if "seed1" in path.name) / "history.csv"
    history.unlink()
    main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")])
    (shown,) = embedded((tmp_path / "page.html").read_text(encoding="utf-8"))["configurations"]
    assert set(shown["curves"]["history"]["current"]["loss"]["seeds"]) == {"0"}
    assert set(shown["matrix"]["seeds"]) == {"0", "1"}


def test_pictures_are_small_and_those_of_the_folder(written):
    text, _ = written
    shown = [one.get("samples") for one in embedded(text)["configurations"]]
    assert shown[:2] == [None, None] and shown[2]["seed"] == 0
    assert list(shown[2]["after"]) == [str(task) for task in range(TASKS)]
    for data in shown[2]["after"].values():
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "WEBP" and image.width <= 320


def test_it_needs_no_network(written):
    text, _ = written
    own = without_library(text)
    links = re.findall(r'(?:src|href|action)="([^"]*)"|url\(([^)]*)\)|@import', own)
    assert all(re.match(r"#|data:", one or two) for one, two in links), links
    urls = set(re.findall(r"https?://[^\"]*", own))
    assert urls == {"https://vega.github.io/schema/vega-lite/v6.json", "http://www.w3.org/2000/svg"}  # names only
    policy = html.unescape(re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy


def test_texts_of_folders_are_escaped(written):
    own = without_library(written[0])
    assert "<b>&" not in own and html.escape("<b>&") in own


def test_large_pages_leave_out_details_of_the_lowest_first(monkeypatch):
    accuracies = {0: 0.2, 1: 0.9, 2: 0.5}
    for lr, accuracy in accuracies.items():
        run = write_run(Path("runs"), strategy="generative_replay", accuracy=accuracy, optimizer__lr=1.0 + lr)
        Image.new("RGB", (20, 20)).save(run / "figures" / "samples_task_0.png")
    monkeypatch.setattr("gr_cli.report.page_data.MAX_DETAILS", 1)
    monkeypatch.setattr("gr_cli.report.page_data.MAX_CHARACTERS", 1)
    assert main(["runs", "--html", "page.html"]) == 0
    data = embedded(Path("page.html").read_text(encoding="utf-8"))
    assert (data["detailed"], data["illustrated"]) == (1, 1)
    for accuracy, configuration in zip(accuracies.values(), data["configurations"], strict=True):
        best = accuracy == 0.9
        assert configuration["metrics"]["average_accuracy"]["statistics"][0] == near(100 * accuracy)
        assert ("matrix" in configuration) == ("samples" in configuration) == best
        curves = configuration["curves"]
        assert len(curves["evaluations"]["accuracy"]) == (1 + TASKS if best else 1)
        assert len(curves["sample_quality"]["recall"]) == (1 + TASKS if best else 1)
        assert curves["evaluations"]["accuracy"]["mean so far"]["mean"][-1] == near(100 * accuracy)


def test_the_sentence_says_so_if_the_next_is_better_over_common_seeds(tmp_path):
    """The best has the better mean because of a seed that the next lacks."""
    for seed, accuracy in enumerate((0.50, 0.51, 0.49, 1.0)):
        write_run(tmp_path / "runs", seed, accuracy=accuracy)
    for seed, accuracy in enumerate((0.55, 0.57, 0.54)):
        write_run(tmp_path / "runs", seed, "joint", accuracy=accuracy)
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")]) == 0
    (sentence, *_) = embedded((tmp_path / "page.html").read_text(encoding="utf-8"))["verdicts"][0]
    assert sentence.startswith("finetune has average accuracy 62.50")
    assert "But over 3 common seeds the next is better, by 5.33 points, 95 % interval 3.90 to 6.77." in sentence


def test_the_sentence_leaves_out_networks_that_are_given_the_task(tmp_path):
    """Others choose among the classes of all tasks, except in task-incremental learning."""

    def sentence(scenario):
        for strategy, accuracy in {"finetune": 0.5, "generative_replay": 0.6, "joint": 0.9}.items():
            status = {"reference_for": "transfer"} if strategy == "joint" else None
            write_run(tmp_path / scenario, 0, strategy, accuracy=accuracy, status=status, scenario=scenario)
        assert main([str(tmp_path / scenario), "--html", str(tmp_path / "page.html")]) == 0
        return embedded((tmp_path / "page.html").read_text(encoding="utf-8"))["verdicts"][0][0]

    assert re.match(
        "generative_replay.* has average accuracy 60.00.*, the better of 2; next is finetune", sentence("class")
    )
    assert re.match("joint has average accuracy 90.00.*, the best of 3", sentence("task"))


def test_the_interval_of_the_sentence_contains_the_difference_where_lower_is_better(tmp_path):
    for seed in range(3):
        for rate in (0.001, 0.01):
            write_run(tmp_path / "runs", seed, optimizer__lr=rate)
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")]) == 0
    data = embedded((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert data["metrics"][1]["better"] == "lower"
    means = [one["metrics"]["forgetting"]["statistics"][0] for one in data["configurations"]]
    match = re.search(r"(\S+) points apart .*, 95 % interval (\S+) to ([−\d.]+\d)", data["verdicts"][0][1])
    apart, low, high = (float(text.replace("−", "-")) for text in match.groups())
    assert apart == pytest.approx(abs(means[1] - means[0]), abs=0.011)
    assert low <= apart <= high and (low + high) / 2 == pytest.approx(apart, abs=0.011)
