"""Back to the size that a model was grown from: copies are averaged, shares are added up.

Of a model that has not trained since this is exactly what it was. Of one that has it is the model
of the smaller size whose copies would come closest to it.
"""

from __future__ import annotations

from typing import Any, cast

from mfd_flower.scaling.resized import (
    GROWN_FROM,
    AnyModel,
    deep_in,
    is_prompted,
    resized,
    scale_epsilons,
)
from mfd_flower.scaling.sizes import Size, SizeError, size_of, trunk_of
from mfd_flower.scaling.transforms import Transform


def shrink(model: AnyModel, size: Size | None = None) -> AnyModel:
    """Return a grown model at the size that it was grown from; the one given stays as it is.

    Parameters
    ----------
    model
        What `grow` returned, trained since or not.
    size
        That size; without it the model knows.

    Raises
    ------
    SizeError
        If the model is not known to be grown, or cannot be from a size like that.
    """
    large = size_of(model)
    small = size or vars(trunk_of(model)).get(GROWN_FROM)
    if small is None:
        raise SizeError("model is not known to be grown: say its size")
    small.check_reaches(large)
    change = Transform(small, large, deep_in(model))
    kept = [change.first(old) for old in range(small.depth)]
    made = resized(model, kept, small, change.shrunk(model.state_dict()))
    vars(trunk_of(made)).pop(GROWN_FROM, None)
    scale_epsilons(made, 1 / change.tokens.copied)
    if is_prompted(made):
        around = cast(Any, made)
        around.levels = tuple(
            next(old for old in range(1, small.depth + 1) if change.level(old) == level)
            for level in around.levels
        )
        around.prompt_from = change.blocks[around.prompt_from]
    return made
