"""The dimensions of a study's search space: a range of floats or integers, or a list of choices."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, Self, TypeGuard

from pydantic import Field, ValidationInfo, model_validator

from atft.spec.base import Spec, is_stored, refuse

MAX_LEVELS: Final = 1_000_000  # of a stepped float
RESOLUTION: Final = 1e-9  # a float range's width, or step, by its largest value: below, samplers compute with rounding
LARGEST_INT: Final = 2**48  # of an int range: samplers compute with floats, also between two integers
Scalar = bool | int | float | str | None


class FloatDimension(Spec):
    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0.0)

    @model_validator(mode="after")
    def _range(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.low > self.high:
            refuse("/low", f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            refuse("/low", "a log scale needs low > 0")
        if self.log and self.step is not None:
            refuse("/step", "a log scale takes no step")
        if not math.isfinite(self.high - self.low):
            refuse("/high", f"the range from {self.low} to {self.high} is too wide to compute with")
        largest = max(abs(self.low), abs(self.high))
        if self.low != self.high and self.high - self.low < RESOLUTION * largest:
            refuse(
                "/high", f"the range from {self.low} to {self.high} is too narrow to search: widen it, or fix a value"
            )
        if self.step is not None and self.step < RESOLUTION * largest:
            refuse("/step", f"steps of {self.step} are too small beside {largest}: make the step larger")
        if self.step is not None and (self.high - self.low) / self.step > MAX_LEVELS:
            refuse("/step", f"these are more than {MAX_LEVELS:,} values: make the step larger, or leave it out")
        return self

    def extremes(self) -> tuple[Scalar, ...]:
        top = self.high if self.num_levels is None else self.level(self.num_levels - 1)
        return (self.low,) if self.low == top else (self.low, top)

    @property
    def num_levels(self) -> int | None:
        """Number of values; None for a continuous range."""
        if self.step is None:
            return None
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(self.step))) + 1

    def level(self, index: int) -> float:
        """The value `index` steps above `low`, in decimal arithmetic: 0.1 + 2 · 0.1 is 0.3."""
        return float(Decimal(str(self.low)) + index * Decimal(str(self.step)))

    def canonical(self, value: Scalar) -> Scalar:
        """The dimension's own value that equals `value`. Raises ValueError if there is none."""
        if not _is_number(value) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is outside {self.low} to {self.high}")
        if self.num_levels is None or self.step is None:
            return float(value)
        level = self.level(round((value - self.low) / self.step))
        if not math.isclose(level, value, rel_tol=RESOLUTION, abs_tol=RESOLUTION * self.step) or level > self.high:
            raise ValueError(f"{value!r} is on none of the steps of {self.step} from {self.low}")
        return level


class IntDimension(Spec):
    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _range(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.low > self.high:
            refuse("/low", f"low {self.low} is above high {self.high}")
        if self.log and self.low < 1:
            refuse("/low", "a log scale needs low ≥ 1")
        if self.log and self.step != 1:
            refuse("/step", "a log scale takes no step")
        for name, end in (("low", self.low), ("high", self.high)):
            if abs(end) > LARGEST_INT:
                refuse(f"/{name}", f"{name} is beyond {LARGEST_INT:,}, where samplers cannot tell integers apart")
        if self.log and self.low != self.high and self.high - self.low < RESOLUTION * self.high:
            refuse("/high", f"the range from {self.low} to {self.high} is too narrow for a log scale: leave log out")
        return self

    def extremes(self) -> tuple[Scalar, ...]:
        top = self.level(self.num_levels - 1)
        return (self.low,) if self.low == top else (self.low, top)

    @property
    def num_levels(self) -> int:
        return (self.high - self.low) // self.step + 1

    def level(self, index: int) -> int:
        return self.low + index * self.step

    def canonical(self, value: Scalar) -> Scalar:
        """The dimension's own value that equals `value`. Raises ValueError if there is none."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is no integer from {self.low} to {self.high}")
        if (value - self.low) % self.step != 0:
            raise ValueError(f"{value!r} is on none of the steps of {self.step} from {self.low}")
        return value


class CategoricalDimension(Spec):
    kind: Literal["categorical"] = "categorical"
    choices: tuple[Scalar, ...] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _distinct(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and len(set(self.choices)) != len(self.choices):
            refuse(
                "/choices", "list each choice once: 0 and 0.0 are one, as are 1 and true, which no sampler tells apart"
            )
        return self

    def extremes(self) -> tuple[Scalar, ...]:
        """Smallest and largest choice when all are numbers; else every choice."""
        if all(isinstance(c, int | float) and not isinstance(c, bool) for c in self.choices):
            numbers = sorted(c for c in self.choices if isinstance(c, int | float))
            return (numbers[0],) if len(numbers) == 1 else (numbers[0], numbers[-1])
        return self.choices

    @property
    def num_levels(self) -> int:
        return len(self.choices)

    def level(self, index: int) -> Scalar:
        return self.choices[index]

    def canonical(self, value: Scalar) -> Scalar:
        """The choice that equals `value`: 0 and 0.0 are one, 1 and true are two. Raises ValueError if there is none."""
        for choice in self.choices:
            if value == choice and isinstance(value, bool) is isinstance(choice, bool):
                return choice
        raise ValueError(f"{value!r} is none of the choices")


def _is_number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="kind")]


def merge_choices(
    dimension: CategoricalDimension, resolve: Mapping[Scalar, object]
) -> tuple[CategoricalDimension, list[str]]:
    """Merge choices that resolve to the same value into the first of them; also returns a message per merged choice."""
    seen: dict[object, Scalar] = {}
    merged = []
    for choice in dimension.choices:
        kept = seen.setdefault(resolve.get(choice, choice), choice)
        if kept is not choice:
            merged.append(f"{choice!r} resolves to the same run as {kept!r}: merged")
    return CategoricalDimension(choices=tuple(seen.values())), merged
