"""Class activation maps: where in an image the score of a class comes from, at each budget.

The method is that of Zhou et al. 2016, "Learning deep features for discriminative localization"; the TESLA paper shows
its maps at ten budgets (Figures 5 and 6).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.budget import TEN_BUDGETS
from tapernet.convert.extract import extract
from tapernet.errors import ConfigError, DataError
from tapernet.extras import need
from tapernet.measure.accuracy import predicted
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet, at

NEEDS = "a class activation map needs a network that ends in global average pooling and one linear layer"


@dataclass(frozen=True)
class ActivationMaps:
    """The maps of some images at one budget.

    Args:
        budget: that was computed.
        predicted: class of the highest score, shape (n,).
        shown: class whose map it is, shape (n,).
        maps: sum over the channels c of w[class, c] * feature map c, brought to the images' size by bilinear
            interpolation; shape (n, height, width), in units of the class's score without its bias.
    """

    budget: Budget
    predicted: Tensor
    shown: Tensor
    maps: Tensor


def activation_maps(
    net: nn.Module, images: Tensor, budgets: Iterable[Budget] | None = None, *, classes: Tensor | None = None
) -> list[ActivationMaps]:
    """The class activation maps of images at each budget.

    The maps are those of the extracted sub-network, whose linear layer has the profile folded in; so no hook is ever
    placed on a network with a dial. Where average poolings with windows side by side follow one another, the map is
    taken before the first of them: the average over it is the same, and it is finer.

    Args:
        net: a `TaperedNet`, or any module at budget 1.0. It needs a module (a ReLU, a block) whose feature maps, once
            averaged over the image, are what its last linear layer reads.
        images: standardised, shape (n, channels, height, width), on the network's device.
        budgets: by default 10%, 20%, ..., 100%, or 1.0 alone for a network without a dial.
        classes: whose maps, shape (n,); by default the class predicted at that budget.

    Raises:
        ConfigError: a network without such an end, which the message names; torchcam is not installed; a bad budget, or
            one without batch-norm statistics.
        DataError: `classes` are not n classes of the network.
    """
    if budgets is None:
        budgets = TEN_BUDGETS if isinstance(net, TaperedNet) else (1.0,)
    return [_maps_at(net, images, budget, classes) for budget in budgets]


def _maps_at(net: nn.Module, images: Tensor, budget: Budget, classes: Tensor | None) -> ActivationMaps:
    cam = need("torchcam.methods", "cam", "a class activation map").CAM
    with at(net, budget):
        plain = extract(net, budget) if isinstance(net, TaperedNet) else net
    with eval_mode(plain), torch.no_grad():
        features, linear = _find_end(plain, images)
        # The extractor's own context removes its hooks, whatever happens inside.
        with cam(plain, features, linear, input_shape=images.shape[1:]) as extractor:
            scores = plain(images)
            highest = predicted(scores)
            shown = highest if classes is None else _checked(classes, scores)
            coarse = extractor(shown.tolist(), scores, normalized=False)[0]
    maps = F.interpolate(coarse[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return ActivationMaps(budget, highest, shown, maps)


def _checked(classes: Tensor, scores: Tensor) -> Tensor:
    images, outputs = scores.shape
    if classes.shape != (images,):
        raise DataError(f"{images} images need as many classes, not a tensor of shape {tuple(classes.shape)}")
    if bool(((classes < 0) | (classes >= outputs)).any()):
        raise DataError(f"the network has classes 0 to {outputs - 1}, but a map is asked for of {classes.tolist()}")
    return classes.to(scores.device)


@dataclass
class _Seen:
    """What a forward pass showed of one module: its last call counts.

    Args:
        positions: of its feature maps, height times width; 0 if its output is none.
        average: of each feature map, shape (n, channels), or the output itself of a linear layer.
        read: what a linear layer was given.
    """

    positions: int
    average: Tensor
    read: Tensor | None = None


def _find_end(net: nn.Module, images: Tensor) -> tuple[str, str]:
    """Paths of the module with the finest feature maps that the linear layer reads the averages of, and of that layer.

    Told from what passes, so that a pooling may be a module, a mean in `forward`, or a chain of poolings.
    """
    seen: dict[str, _Seen] = {}
    with _watching(net, seen):
        scores: Tensor = net(images)
    linear = next((path for path, s in reversed(seen.items()) if s.read is not None), None)
    if linear is None:
        raise ConfigError(f"{NEEDS}; this one has no linear layer")
    end = seen[linear]
    assert end.read is not None
    heads = (end.average, end.average.log_softmax(1), end.average.softmax(1)) if end.average.dim() == 2 else ()
    if not any(_same(head, scores) for head in heads):
        raise ConfigError(f"{NEEDS}; the scores of this one are not the outputs of its "
                          f"last linear layer, {linear}, or their softmax")  # fmt: skip
    pooled = {path: s.positions for path, s in seen.items() if s.positions and _same(s.average, end.read)}
    if not pooled:
        raise ConfigError(f"{NEEDS}; the last linear layer of this one, {linear}, does not read the global average of "
                          f"any module's feature maps")  # fmt: skip
    finest = max(pooled, key=lambda path: pooled[path])
    if pooled[finest] == 1:
        raise ConfigError(f"{NEEDS}, over more than one position; in this one a single position is left before "
                          f"{linear} (average pooling in place of max, or larger images, leave more)")  # fmt: skip
    return finest, linear


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@contextmanager
def _watching(net: nn.Module, seen: dict[str, _Seen]) -> Iterator[None]:
    """Fills `seen` in the order of each module's last call, for the block."""

    def watch(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            seen.pop(path, None)
            if not isinstance(output, Tensor):
                return
            if isinstance(module, nn.Linear) and isinstance(inputs[0], Tensor):
                seen[path] = _Seen(0, output, inputs[0])
            elif output.dim() == 4:
                seen[path] = _Seen(output.shape[2] * output.shape[3], output.mean((2, 3)))

        return module.register_forward_hook(hook)

    handles = []
    try:
        for path, module in net.named_modules():
            if path:
                handles.append(watch(path, module))
        yield
    finally:
        for handle in handles:
            handle.remove()
