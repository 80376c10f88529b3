"""Pruning filters for efficient convnets: the filters of least L1 norm go (PFEC; Li et al. 2017)."""

from collections.abc import Mapping

from torch import Tensor

from tapernet.prune import PRUNERS
from tapernet.prune.filters import Filters, l1_norms


@PRUNERS.register("pfec")
def pfec(filters: Filters, keep: Mapping[str, int], images: Tensor, *, greedy: bool = False) -> None:
    """Keeps in each convolution the filters whose sum of |w| is greatest (section 3.1).

    Args:
        filters: of the model to change.
        keep: filters to keep, by path.
        images: not used.
        greedy: leave the inputs that earlier layers lost out of the sums (section 3.2), instead of taking each layer by
            itself.
    """
    scores = {path: l1_norms(filters.conv(path).weight) for path in filters.readers}
    for path in filters.readers:
        if path in keep:
            filters.keep(path, l1_norms(filters.conv(path).weight) if greedy else scores[path], keep[path])
