"""The search space of a command line: overrides in Hydra's grammar as parameters with a range or a list of values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from gr_cli.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

_DIGITS = 6  # significant digits of a number on a trial's command line
_MAX_COMBINATIONS = 64  # of listed options that are checked before the first trial


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    Attributes:
        key: The setting as on the command line, with `+` if it has one.
        choices: Listed values as on the command line; empty for a range of numbers.
        low: Lowest number.
        high: Highest number.
        step: Step of the numbers; None: any number between.
        log: Whether the logarithm is searched evenly.
        is_int: Whether numbers are whole.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    is_int: bool = False

    def override(self, value: Any) -> str:
        """The override that sets a value."""
        return f"{self.key}={value if isinstance(value, str) else self._format(value)}"

    def _format(self, value: float) -> str:
        """A number with few digits, as long as it stays within the range."""
        if self.is_int:
            return str(int(value))
        rounded = f"{value:.{_DIGITS}g}"
        return rounded if self.low <= float(rounded) <= self.high else repr(value)

    def distribution(self) -> BaseDistribution:
        """The distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.is_int:
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def ends(self) -> tuple[Any, ...]:
        """All listed values, or the lowest and the highest number."""
        return self.choices or (self.low, self.high)

    def num_values(self) -> int:
        """Number of values.

        Raises:
            ConfigError: There are infinitely many.
        """
        if self.choices:
            return len(self.choices)
        if self.step is None:
            shown = f"interval({self.low:g},{self.high:g})"
            raise ConfigError(self.key, shown, "has no grid", "list values, use range(...), or another sampler")
        return round((self.high - self.low) / self.step) + 1

    def value(self, i: int) -> Any:
        """A value of the grid, by its index."""
        if self.choices:
            return self.choices[i]
        number = Decimal(repr(self.low)) + i * Decimal(repr(self.step))
        return int(number) if self.is_int else float(number)


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies.

    Attributes:
        parameters: The searched settings by key.
        fixed: The other overrides.
        seeds: Overrides of the seed, one for each run of a trial; empty: one run with the seed of the configuration.
    """

    parameters: Mapping[str, Parameter]
    fixed: Sequence[str]
    seeds: Sequence[str]

    def jobs(self, values: Mapping[str, Any]) -> list[list[str]]:
        """The overrides of each run of a trial, by its values."""
        common = [*self.fixed, *(parameter.override(values[key]) for key, parameter in self.parameters.items())]
        return [[*common, seed] for seed in self.seeds] or [common]

    def examples(self) -> Iterator[dict[str, Any]]:
        """Values to check before the first trial: combinations of listed values, then the ends of each range."""
        first = {key: parameter.ends()[0] for key, parameter in self.parameters.items()}
        listed = {key: parameter.choices for key, parameter in self.parameters.items() if parameter.choices}
        yield from (
            first | dict(zip(listed, c, strict=True)) for c in islice(product(*listed.values()), _MAX_COMBINATIONS)
        )
        yield from (first | {key: end} for key, parameter in self.parameters.items() for end in parameter.ends())

    def num_combinations(self) -> int:
        """Number of points of the grid."""
        return math.prod(parameter.num_values() for parameter in self.parameters.values())

    def combination(self, number: int) -> dict[str, Any]:
        """A point of the grid; the last parameter varies fastest."""
        values = {}
        for key, parameter in reversed(list(self.parameters.items())):
            number, i = divmod(number, parameter.num_values())
            values[key] = parameter.value(i)
        return {key: values[key] for key in self.parameters}


def parse_search_space(overrides: Sequence[Override]) -> SearchSpace:
    """The search space of parsed overrides; of several of the same setting the last one counts.

    Raises:
        ConfigError: A value can't be searched, or there is nothing to search.
    """
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, str] = {}
    seeds: list[str] = []
    for override in overrides:
        key = override.get_key_element()
        for earlier in (parameters, fixed):
            earlier.pop(key, None)
        if key.lstrip("+") == "seed":
            seeds = []
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
        elif key.lstrip("+") == "seed":
            seeds = [f"{key}={value}" for value in _listed(override)]
        else:
            parameters[key] = _parameter(override)
    if not parameters:
        raise ConfigError(
            "hydra/sweeper",
            "optuna",
            "has nothing to search",
            "give a setting several values: optimizer.lr='tag(log,interval(1e-4,1e-1))'",
        )
    return SearchSpace(parameters, list(fixed.values()), seeds)


def _listed(override: Override) -> list[str]:
    """The listed values of an override, in the order of the command line.

    Raises:
        ConfigError: It lists none.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    key, text, value = override.get_key_element(), override.get_value_string(), override.value()
    if getattr(value, "shuffle", False):
        value.shuffle = False  # type: ignore[union-attr]  # a random order would differ when the command is repeated
    try:
        values = list(dict.fromkeys(override.sweep_string_iterator()))
    except (HydraException, OmegaConfBaseException):
        values = []
    if not values:
        raise ConfigError(key, text, "must list values", "such as 0,1,2 or range(3)")
    return values


def _parameter(override: Override) -> Parameter:
    """A searched setting.

    Raises:
        ConfigError: Its values can't be searched.
    """
    key, text, value = override.get_key_element(), override.get_value_string(), override.value()
    tags: set[str] = getattr(value, "tags", set())
    if unknown := tags - {"log"}:
        raise ConfigError(key, text, f"has a tag {min(unknown)}", "the only tag is log")
    log = "log" in tags
    if override.is_choice_sweep():
        return Parameter(key, choices=tuple(_listed(override)))
    numbers: Any = value
    if override.is_interval_sweep():
        low, high = numbers.start, numbers.end
        is_int = isinstance(low, int) and isinstance(high, int)
        step = 1.0 if is_int else None
    else:
        start, stop, by = (Decimal(repr(number)) for number in (numbers.start, numbers.stop, numbers.step))
        count = math.ceil((stop - start) / by) if by else 0
        is_int = isinstance(numbers.start, int) and isinstance(numbers.step, int)
        low, high = sorted((float(start), float(start + (count - 1) * by)))
        step = float(abs(by))
        if count < 1:
            raise ConfigError(key, text, "has no values", "such as range(1,9)")
        if log and not (is_int and step == 1):
            raise ConfigError(key, text, "can't be searched by its logarithm with a step", "use tag(log,interval(...))")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(key, text, "must go from a lower to a higher number", "such as interval(0,1)")
    if log and low <= 0:
        raise ConfigError(key, text, "has no logarithm", "start above 0: tag(log,interval(1e-4,1e-1))")
    return Parameter(key, (), low, high, step, log, is_int)
