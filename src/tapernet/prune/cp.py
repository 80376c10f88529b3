"""Channel pruning: LASSO chooses the channels that a layer reads, least squares rebuild it (CP; He et al. 2017).

Both steps need only sums over samples, X'X and X'Y, so that memory does not grow with their number.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.errors import PruningError
from tapernet.nn.mode import eval_mode
from tapernet.prune import PRUNERS
from tapernet.prune.filters import Filters, Reader


@PRUNERS.register("cp")
def cp(
    filters: Filters,
    keep: Mapping[str, int],
    images: Tensor,
    *,
    sample: int = 5000,
    places: int = 10,
    batch_size: int = 20,
    ridge: float = 1e-6,
    seed: int = 0,
) -> None:
    """From the first layer to the last, keeps the channels from which the next layer's outputs are best rebuilt.

    The inputs X are those of the pruned model, the outputs Y those of the untouched one, so that later layers make up
    for the errors of earlier ones.

    Args:
        filters: of the model to change.
        keep: filters to keep, by path.
        images: shape (n, channels, height, width).
        sample: images to take, at equal distances; the default, as that of `places`, is that of He et al. A fully
            connected layer has one output in an image, and with few times as many as its inputs the rebuilt weights
            fit those images alone.
        places: outputs of a convolution to take from each image, at random.
        batch_size: images run at once.
        ridge: pull of the rebuilt weights towards the old ones, in units of the inputs' mean square.
        seed: of the random places.

    Raises:
        PruningError: a layer reads the filters beside those of other layers.
    """
    untouched = copy.deepcopy(filters.model)
    picked = images[:: -(-len(images) // sample)]
    for path in filters.readers:
        if keep.get(path, filters.widths[path]) == filters.widths[path]:
            continue
        reader = filters.reader(path)
        if not filters.reads_alone(path):
            raise PruningError(f"{path}: {filters.readers[path]} reads its filters beside those of other layers, "
                               f"which CP does not rebuild")  # fmt: skip
        target = untouched.get_submodule(filters.readers[path])
        samples = _samples(
            (filters.model, reader), (untouched, target), picked, places=places, batch_size=batch_size, seed=seed
        )
        sums = _Sums.over(samples, filters.widths[path], centred=reader.bias is not None)
        weight = reader.weight.detach().double().reshape(len(reader.weight), filters.widths[path], -1)
        chosen = choose_channels(sums, weight, keep[path])
        rebuilt, bias = rebuild(sums, weight, chosen, ridge)
        score = torch.zeros(filters.widths[path])
        score[chosen] = 1
        filters.keep(path, score, len(chosen))
        with torch.no_grad():
            reader.weight.copy_(rebuilt.view_as(reader.weight))
            if reader.bias is not None:
                reader.bias.copy_(bias)


@dataclass
class _Sums:
    """Sums over S samples of a layer with C channels of P taps each and O outputs, float64.

    Args:
        count: S.
        x: mean of the inputs, shape (C, P); zero if a bias cannot make up for it.
        y: mean of the outputs, shape (O,); likewise.
        xx: sum of products of centred inputs, shape (C, P, C, P).
        xy: sum of products of centred inputs and outputs, shape (C, P, O).
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def over(cls, samples: Iterator[tuple[Tensor, Tensor]], channels: int, *, centred: bool) -> "_Sums":
        """Sums over batches of inputs (s, C * P) and outputs (s, O)."""
        count, totals = 0, [torch.zeros(())] * 4
        for inputs, outputs in samples:
            x, y = inputs.double(), outputs.double()
            totals = [a + b for a, b in zip(totals, [x.sum(0), y.sum(0), x.T @ x, x.T @ y], strict=True)]
            count += len(x)
        x, y = totals[0] / count * centred, totals[1] / count * centred
        xx, xy = totals[2] - count * torch.outer(x, x), totals[3] - count * torch.outer(x, y)
        taps = len(x) // channels
        return cls(
            count, x.view(channels, taps), y, xx.view(channels, taps, channels, taps), xy.view(channels, taps, -1)
        )


def choose_channels(sums: _Sums, weight: Tensor, count: int) -> Tensor:
    """The channels that the LASSO keeps longest (Eq. 2 of He et al., beta step).

    The regressors are each channel's own contribution to the outputs, X_i W_i, and the penalty is lowered along the
    whole path of solutions until `count` of them have a coefficient.

    Args:
        sums: of the layer's samples.
        weight: shape (O, C, P), float64.
        count: channels to choose.

    Returns:
        Their numbers in increasing order, shape (count,).
    """
    from sklearn.linear_model import lars_path_gram

    gram = torch.stack([(weight * (weight[:, i] @ xx.flatten(1)).view_as(weight)).sum((0, 2))
                        for i, xx in enumerate(sums.xx)])  # fmt: skip
    products = torch.einsum("ocp,cpo->c", weight, sums.xy)
    # A channel that contributes nothing has no coefficient, and the path cannot divide by its square.
    alive = gram.diagonal() > 1e-12 * gram.diagonal().max()
    if not alive.any():
        return torch.arange(count)
    _, _, path = lars_path_gram(
        Xy=products[alive].numpy(), Gram=gram[alive][:, alive].numpy(), n_samples=sums.count * weight.shape[0],
        method="lasso", max_iter=8 * len(weight[0]),
    )  # fmt: skip
    sizes = (path != 0).sum(0)
    # If the path ends before enough channels came in, the others follow by what they have in common with the outputs.
    step = int(np.argmax(sizes >= count)) if sizes.max() >= count else -1
    size = torch.from_numpy(np.abs(path[:, step]))
    score = torch.full_like(products, -1)
    score[alive] = torch.where(size > 0, 1 + size / size.max(), products[alive].abs() / products.abs().max() / 2)
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def rebuild(sums: _Sums, weight: Tensor, chosen: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights and bias that give the outputs back best from the chosen channels (Eq. 2, W step).

    Args:
        sums: of the layer's samples.
        weight: shape (O, C, P), float64.
        chosen: channels, shape (count,).
        ridge: pull towards the old weights.

    Returns:
        Weights (O, count, P) and biases (O,).
    """
    old = weight[:, chosen].flatten(1).T
    xx = sums.xx[chosen][:, :, chosen].reshape(len(old), len(old))
    pull = ridge * (xx.diagonal().mean() or 1.0)  # of dead inputs nothing is known, and the old weights stay
    new = torch.linalg.solve(
        xx + pull * torch.eye(len(old), dtype=xx.dtype), sums.xy[chosen].flatten(0, 1) + pull * old
    )
    bias = sums.y - sums.x[chosen].flatten() @ new
    return new.T.reshape(len(weight), len(chosen), -1), bias


def _samples(
    pruned: tuple[nn.Module, Reader],
    untouched: tuple[nn.Module, nn.Module],
    images: Tensor,
    *,
    places: int,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a layer's inputs in the pruned model, (s, C * P), and its outputs in the untouched one, (s, O)."""
    generator = torch.Generator().manual_seed(seed)
    (model, reader), (whole, target) = pruned, untouched
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    # Copies, because a ReLU in place may come next.
    handles = [
        reader.register_forward_pre_hook(lambda _, x: inputs.append(x[0].clone())),
        target.register_forward_hook(lambda _, __, y: outputs.append(y.clone())),
    ]
    try:
        for batch in torch.split(images, batch_size):
            with torch.no_grad(), eval_mode(model), eval_mode(whole):
                model(batch)
                whole(batch)
            yield _at_places(reader, inputs.pop(), outputs.pop(), places, generator)
    finally:
        for handle in handles:
            handle.remove()


def _at_places(reader: Reader, x: Tensor, y: Tensor, places: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A fully connected layer's inputs and outputs, or a convolution's at random places of each image."""
    if isinstance(reader, nn.Linear):
        return x, y
    mode = "constant" if reader.padding_mode == "zeros" else reader.padding_mode
    x = F.pad(x, reader._reversed_padding_repeated_twice, mode)
    columns = F.unfold(x, reader.kernel_size, reader.dilation, 0, reader.stride)
    index = torch.rand(len(x), columns.shape[2], generator=generator).argsort(1)[:, :places, None]
    x = columns.transpose(1, 2).take_along_dim(index, 1)
    return x.flatten(0, 1), y.flatten(2).transpose(1, 2).take_along_dim(index, 1).flatten(0, 1)
