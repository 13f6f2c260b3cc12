"""Values that are recognised without pydantic are those that pydantic allows."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import pytest
from annotated_types import Ge, Gt, Len, Lt, MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from gr_cli.config.arguments import _STRICT
from gr_cli.config.plain_values import is_plainly_allowed
from gr_cli.config.run_settings import RUN_SETTINGS_BY_NAME
from gr_cli.nn.gradient_rules.base import GradientRule
from gr_cli.types import Betas, FractionBelowOne, LayerSizes, Positive, PositiveInt, ReplayWeight, VariesPerReplica

ANNOTATIONS = (
    *dict.fromkeys(setting.allowed for setting in RUN_SETTINGS_BY_NAME.values()),  # in one order in every process
    Betas, FractionBelowOne, LayerSizes, Positive, PositiveInt, ReplayWeight, bool, str, None, Sequence[str],
    list[int], tuple[int, int], Annotated[float, Gt(0), VariesPerReplica], Annotated[int, MultipleOf(2)],
    Mapping[str, int], Literal[1, True, "a"], Annotated[Sequence[int], Len(1)],
)  # fmt: skip
# Without denormal numbers, which tests that ran before in this process may have set to flush to 0.
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.floats(-2, 2, allow_subnormal=False),
    st.sampled_from([0.0, 1.0, float("inf"), float("nan"), 2**70]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "1", "seen", "none", "class", "by_tasks"]))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.lists(NUMBERS, min_size=2, max_size=2).map(tuple))


def pydantic_allows(value: Any, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(value=VALUES)
@settings(deadline=None)
def test_what_is_plainly_allowed_is_allowed(annotation, value):
    if is_plainly_allowed(value, annotation):
        assert pydantic_allows(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, PositiveInt), (None, PositiveInt | None), (0.5, FractionBelowOne), (1, float), ("a", Literal["a", "b"]),
        ([400, 400], LayerSizes), ([], LayerSizes), ((0.9, 0.999), Betas), (True, bool), ("x", str), (3, Any),
        (0.1, Annotated[float, Ge(0), VariesPerReplica]), ("by_tasks", ReplayWeight),
    ],
)  # fmt: skip
def test_values_of_a_usual_run_are_recognised(value, annotation):
    assert is_plainly_allowed(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (0, PositiveInt), (1.0, PositiveInt), (True, PositiveInt), (1.0, FractionBelowOne), (float("nan"), float),
        ("1", float), ("c", Literal["a", "b"]), (True, Literal[1]), ([0.9], Betas), ("ab", Sequence[str]),
        ([1, 0], LayerSizes), (0, bool), (None, int), (2, Annotated[int, Lt(2)]), (2, Annotated[int, MultipleOf(2)]),
    ],
)  # fmt: skip
def test_other_values_are_left_to_pydantic(value, annotation):
    assert not is_plainly_allowed(value, annotation)


class Rule(GradientRule):
    def gradients(self, *_: Any) -> Any:
        """No gradients."""


@runtime_checkable
class Loads(Protocol):
    def load(self) -> int: ...


class Loader:
    def load(self) -> int:
        return 1


def test_components_are_recognised_by_their_class():
    rule = Rule.__new__(Rule)
    assert is_plainly_allowed(rule, GradientRule) and is_plainly_allowed(rule, GradientRule | None)
    assert not is_plainly_allowed({"_target_": "x"}, GradientRule)
    assert not is_plainly_allowed(Loader(), Loads)  # a protocol of another package
    with pytest.raises(PydanticSchemaGenerationError):
        pydantic_allows(rule, GradientRule)
