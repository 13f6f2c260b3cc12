"""Docstrings, annotations and signatures read from source agree with what importing them says."""

import inspect
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Le, Len, Lt

from gr_cli.config.annotations import allowed_values, literal_values
from gr_cli.config.docstrings import first_sentence, parse_docstring
from gr_cli.config.groups import CONF
from gr_cli.config.instantiate import import_target, targets_in_text
from gr_cli.config.options import PLUGIN_PACKAGES
from gr_cli.config.signatures import imported_component, read_component

TARGETS = sorted(
    {
        target.replace(*PLUGIN_PACKAGES)
        for path in CONF.rglob("*.yaml")
        for target in targets_in_text(path.read_text(encoding="utf-8"))
        if target.startswith(("gr_cli.", PLUGIN_PACKAGES[0])) and target != "gr_cli.cli.callback.ValidateJobs"
    }
)


def test_a_docstring_has_a_summary_and_arguments():
    text = """Replay of stored samples
    of earlier tasks.

    What it does: more text.

    Args:
        per_class: Samples stored of each class,
            evenly chosen.
        weight (float): Weight of the loss.

    Raises:
        ValueError: never.
    """
    found = parse_docstring(text)
    assert found.summary == "Replay of stored samples of earlier tasks."
    assert found.arguments == {
        "per_class": "Samples stored of each class, evenly chosen.",
        "weight": "Weight of the loss.",
    }
    assert parse_docstring(None).arguments == {}


def test_the_first_sentence_ends_at_a_full_stop_and_not_at_an_abbreviation():
    assert first_sentence("As in Shin et al. (2017), e.g. VAEs. More.") == "As in Shin et al. (2017), e.g. VAEs"
    assert first_sentence("Fraction that is zeroed (eq. 6). 0: none") == "Fraction that is zeroed (eq. 6)"


@pytest.mark.parametrize(
    ("annotation", "allowed", "values"),
    [
        (Literal["hard", "soft"] | None, "one of hard, soft or null", ("hard", "soft", "null")),
        (Annotated[int, Ge(1)] | None, "a whole number ≥ 1 or null", ("null",)),
        (
            Sequence[Annotated[float, Ge(0)] | None] | None,
            "null or a list, each a number ≥ 0 or null",
            ("null",),
        ),
        (Annotated[float, Ge(0), Lt(1)], "a number ≥ 0 and < 1", ()),
        (Annotated[int, Le(3)], "a whole number ≤ 3", ()),
        (Annotated[list[float], Len(2, 2)], "a list of 2 numbers", ()),
        (bool, "true or false", ("true", "false")),
        (list[int | str], "a list, each a whole number or text", ()),
    ],
)
def test_an_annotation_as_text(annotation, allowed, values):
    assert allowed_values(annotation) == allowed
    assert literal_values(annotation) == values


@pytest.mark.parametrize("target", TARGETS)
def test_source_and_import_agree(target):
    """Names, defaults and allowed values of a component are the same, read from source or imported."""
    read, imported = read_component(target), imported_component(target)
    assert read is not None
    assert list(read.arguments) == [name for name in imported.arguments if name != "self"]
    parameters = inspect.signature(import_target(target, "")).parameters
    for name, argument in read.arguments.items():
        default = parameters[name].default
        assert (argument.default is None) == (default is inspect.Parameter.empty), name
        if isinstance(default, (bool, int, float, str)):
            assert eval(argument.default) == argument.default_value == default, name
        hint = imported.arguments[name].annotation
        if argument.annotation is not Any:
            assert allowed_values(argument.annotation) == allowed_values(hint), name
            assert literal_values(argument.annotation) == literal_values(hint), name
        assert argument.meaning == imported.arguments[name].meaning, name


def test_a_component_of_another_package_is_not_read():
    assert read_component("torch.nn.Linear") is None
    assert read_component("gr_cli.strategies.NoSuchStrategy") is None
    assert read_component("") is None
    assert read_component("gr_cli./tmp/module.Name") is None


def test_a_component_of_another_package_is_imported(tmp_path, monkeypatch):
    (tmp_path / "own_strategy.py").write_text(
        'class Own:\n    """Mine.\n\n    Args:\n        size: Its size.\n    """\n\n'
        "    def __init__(self, size: int = 3) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = imported_component("own_strategy.Own")
    del sys.modules["own_strategy"]
    assert found.summary == "Mine."
    assert (found.arguments["size"].annotation, found.arguments["size"].default) == (int, "3")
    assert found.arguments["size"].meaning == "Its size."
