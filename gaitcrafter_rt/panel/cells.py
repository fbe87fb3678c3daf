"""Which (identity, view, covariate) a panel's clips show, in order."""

from __future__ import annotations

import numpy as np

from ..config import Labels
from ..errors import InvalidRequestError


def spread_cells(labels: Labels, count: int) -> list[dict[str, str]]:
    """``count`` cells (identity, view, covariate) in a fixed shuffled order, again from the start when all were had.

    The first n do not depend on ``count``, and any number of them is spread over identities, views and covariates.
    """
    sizes = (len(labels.identity), len(labels.view), len(labels.covariate))
    total = int(np.prod(sizes))
    if total == 0:
        raise InvalidRequestError(f"a panel needs a model with identities, views and covariates; this one has {sizes} of them")
    order = np.random.Generator(np.random.Philox(key=[0, total])).permutation(total)
    places = np.stack(np.unravel_index(order[np.arange(count) % total], sizes), 1)
    return [{"identity": labels.identity[i], "view": labels.view[v], "covariate": labels.covariate[c]} for i, v, c in places]
