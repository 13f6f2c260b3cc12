"""Sums of samples and of their outer products."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gr_cli.nn.fixed_point import sum_of_products, to_fixed_point
from gr_cli.nn.rare_values import RareValues
from gr_cli.nn.symmetric import lower_product, pack

FeatureMap = Callable[[Tensor], Tensor]
_BLOCK = 512  # samples in one matrix product


def class_sums(
    x: Tensor, rows: Tensor, feature_map: FeatureMap | None, with_moment: bool, fixed_point: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Sum (D,) and packed second moment (P,), or None, of the samples of a class, at positions `rows` of x (N, ...).

    Rare values are hidden (`RareValues`), except in fixed point, where sums are exact.
    """
    class_sum: Tensor | None = None
    class_moment: Tensor | None = None
    rare_values = RareValues() if with_moment and not fixed_point else None
    # Blocks of a class alone: products of the same numbers in each call, whatever other classes the task has.
    for block in rows.split(_BLOCK):
        features = x.index_select(0, block).flatten(1).double()
        features = features if feature_map is None else feature_map(features)
        features = to_fixed_point(features) if fixed_point else features
        block_sum = features.sum(0)
        class_sum = block_sum if class_sum is None else class_sum + block_sum
        if with_moment:
            moment = sum_of_products(features) if fixed_point else lower_product(features)
            class_moment = moment if class_moment is None else class_moment.add_(moment)
        if rare_values is not None and len(features):
            rare_values.update(features)
    assert class_sum is not None
    if class_moment is not None and rare_values is not None:
        rare_values.hide_in(class_sum, class_moment)
    return class_sum, None if class_moment is None else pack(class_moment)
