"""The search space of a command line: what Hydra's grammar becomes for Optuna."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gr_cli.cli.sweepers.search_space import Parameter, parse_search_space


def space(*words):
    return parse_search_space(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("value", "parameter"),
    [
        ("1,2", Parameter("a", ("1", "2"))),
        ("choice(b,'c d',[1,2])", Parameter("a", ("b", "c\\ d", "[1,2]"))),
        ("shuffle(3,1,3)", Parameter("a", ("3", "1"))),
        ("sort(3,1)", Parameter("a", ("1", "3"))),
        ("range(1,10)", Parameter("a", (), 1, 9, 1, is_int=True)),  # without its end, as in Hydra
        ("range(10,1,-2)", Parameter("a", (), 2, 10, 2, is_int=True)),
        ("range(0.1,0.55,0.1)", Parameter("a", (), 0.1, 0.5, 0.1)),
        ("range(0,1000000000)", Parameter("a", (), 0, 999999999, 1, is_int=True)),
        ("interval(0,1)", Parameter("a", (), 0, 1)),
        ("tag(log,interval(1e-5,1))", Parameter("a", (), 1e-5, 1, log=True)),
        ("int(interval(4,16))", Parameter("a", (), 4, 16, 1, is_int=True)),
        ("tag(log,int(interval(4,16)))", Parameter("a", (), 4, 16, 1, log=True, is_int=True)),
        ("int(tag(log,interval(4,16)))", Parameter("a", (), 4, 16, 1, log=True, is_int=True)),
    ],
)
def test_hydras_grammar_is_a_parameter(value, parameter):
    parsed = space(f"a={value}").parameters
    assert parsed == {"a": parameter}
    pytest.importorskip("optuna")
    distribution = parsed["a"].distribution()  # which refuses what Optuna does not know
    assert all(distribution._contains(distribution.to_internal_repr(end)) for end in parameter.ends())


def test_values_are_overrides_with_few_digits_within_the_range():
    learning_rate = Parameter("+optimizer.lr", (), 0.1, 1 / 3)
    assert learning_rate.override(0.12345678901) == "+optimizer.lr=0.123457"
    assert Parameter("a", (), 0.6666672, 1).override(0.66666721) == "a=0.66666721"
    assert Parameter("n", (), 1, 9, 1, is_int=True).override(3.0) == "n=3"


def test_several_seeds_are_the_runs_of_a_trial_and_the_last_value_of_a_setting_counts():
    searched = space("b=0,1", "strategy=er", "a=1,2", "seed=range(2)", "b=3", "a=interval(0,1)")
    assert searched.jobs({"a": 0.25}) == [["strategy=er", "b=3", "a=0.25", f"seed={seed}"] for seed in (0, 1)]


def test_limits_of_the_pruner_are_accuracies(tmp_path):
    pytest.importorskip("optuna")
    from gr_cli.cli.sweepers.study import RunOutcome, SearchStudy, StudyOptions

    study = SearchStudy(space("a=1,2"), StudyOptions("random", 0, 1, "x", "maximize", ""), tmp_path, None, "name")
    assert study.limits(0, before=0) is None
    study.tell(*study.ask(1, 2), [RunOutcome("run", "folder", "finished", 0.5, [0.0, 0.5])])
    assert study.limits(0, before=0) is None and study.limits(0, before=1) == [0.0, 0.499999]


def test_one_seed_replaces_several():
    assert space("seed=0,1", "a=1,2", "seed=7").jobs({"a": "1"}) == [["seed=7", "a=1"]]


def test_the_grid_has_each_combination_once():
    searched = space("a=x,y", "b=range(0,0.3,0.1)", "c=range(2)")
    points = [searched.combination(i) for i in range(searched.num_combinations())]
    assert len({tuple(point.items()) for point in points}) == len(points) == 12
    assert space("a=range(0,1000000000)", "b=1,2").combination(1999999999) == {"a": 999999999, "b": "2"}
    assert points[0] == {"a": "x", "b": 0.0, "c": 0} and points[-1] == {"a": "y", "b": 0.2, "c": 1}


def test_ends_of_ranges_and_combinations_of_options_are_checked():
    examples = list(space("strategy=er,dgr", "generator=vae,cvae", "lr=interval(1,2)").examples())
    assert {(e["strategy"], e["generator"]) for e in examples} == {
        (s, g) for s in ("er", "dgr") for g in ("vae", "cvae")
    }
    assert {e["lr"] for e in examples} == {1.0, 2.0}
