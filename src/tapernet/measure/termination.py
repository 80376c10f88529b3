"""What early termination does to a network: MACs done and saved, right and wrong decisions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.measure.inputs import Labelled, images_of
from tapernet.measure.macs import layer_macs
from tapernet.nn.check import Check
from tapernet.nn.mode import eval_mode
from tapernet.nn.terminating import Outcome, TerminatingConv2d, checks_set, count_true, terminating_layers
from tapernet.registry import unknown

TABLE_1_ITERATIONS = (3, 7, 15, 22, 30, 37, 45, 52, 60, 67)
"""The iterations of the first filter's 76 in Table 1 of the ET paper."""

SITUATIONS = ("true positive", "true negative", "false positive", "false negative")
"""Table 2 of the ET paper. Negative: the filter was stopped; true: the sign of the full sum says the same."""

Watch = Callable[[str, TerminatingConv2d, Outcome], None]
"""What is told of a layer's calls: its path, the layer, and what became of it."""


@dataclass
class Situation:
    """Outputs of one kind in a layer.

    Args:
        count: how many.
        macs: terms that were computed for them.
        error: by how much what ReLU passes is wrong, added up: u for a false negative that emits something below zero,
            as all do at a threshold of zero. One above zero may emit more, and the error is what lies between that and
            u, or, for a true negative, zero.
    """

    count: int = 0
    macs: int = 0
    error: float = 0.0


@dataclass
class LayerTermination:
    """The decisions of one layer over all images.

    Args:
        path: of the layer in the network.
        terms: n, terms of a filter, its bias included if it has one.
        situations: by the names in `SITUATIONS`.
    """

    path: str
    terms: int = 0
    situations: dict[str, Situation] = field(default_factory=lambda: {name: Situation() for name in SITUATIONS})

    @property
    def outputs(self) -> int:
        """Outputs over all images."""
        return sum(s.count for s in self.situations.values())

    @property
    def total(self) -> int:
        """MACs if nothing stopped."""
        return self.outputs * self.terms

    @property
    def done(self) -> int:
        """MACs that were done."""
        return sum(s.macs for s in self.situations.values())

    @property
    def saved(self) -> float:
        """Share of the MACs that was saved, in [0, 1]."""
        return 1 - self.done / self.total

    @property
    def right_stops(self) -> float:
        """MAC_TN: of the stopped outputs, the share whose full sum is negative, in [0, 1]; NaN if none stopped."""
        true, false = self.situations["true negative"].count, self.situations["false negative"].count
        return true / (true + false) if true + false else float("nan")

    def add(self, outcome: Outcome) -> None:
        """Counts one call."""
        self.terms = outcome.terms
        stopped, negative = outcome.stopped, outcome.full < 0
        stops, negatives, right = (int(count_true(mask).sum()) for mask in (stopped, negative, stopped & negative))
        saved, saved_rightly = int(outcome.saved().sum()), int(outcome.saved(negative).sum())
        found = {
            "true positive": (negative.numel() - negatives - stops + right, 0),
            "true negative": (right, saved_rightly),
            "false positive": (negatives - right, 0),
            "false negative": (stops - right, saved - saved_rightly),
        }
        for name, (outputs, left_out) in found.items():
            self.situations[name].count += outputs
            self.situations[name].macs += outputs * outcome.terms - left_out
        wrong = torch.where(stopped, (outcome.full.relu() - outcome.emitted.relu()).abs(), 0)
        for name, mask in (("true negative", negative), ("false negative", ~negative)):
            self.situations[name].error += float((wrong * mask).sum(dtype=torch.float64))


@dataclass
class TerminationReport:
    """MACs of a terminating network over some images, bias counted as in the ET paper.

    Args:
        layers: the terminating layers.
        others: MACs of each other convolution and fully connected layer for one image, by path.
        done_per_image: MACs that each image took in all layers, shape (images,), int64.
    """

    layers: list[LayerTermination]
    others: dict[str, int]
    done_per_image: Tensor

    @property
    def images(self) -> int:
        """How many images were counted."""
        return len(self.done_per_image)

    @property
    def total(self) -> int:
        """MACs of one image if nothing stopped."""
        return sum(layer.total for layer in self.layers) // self.images + sum(self.others.values())

    @property
    def done(self) -> float:
        """MACs of one image on average."""
        return float(self.done_per_image.double().mean())

    @property
    def saved(self) -> float:
        """Share of all the network's MACs that was saved, in [0, 1]."""
        return 1 - self.done / self.total

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it, with the shares."""
        layers = [
            {**asdict(layer), "done": layer.done, "total": layer.total, "saved": layer.saved} for layer in self.layers
        ]
        return {
            "images": self.images, "total": self.total, "done": self.done, "saved": self.saved,
            "layers": layers, "others": self.others, "done_per_image": self.done_per_image.tolist(),
        }  # fmt: skip

    def __str__(self) -> str:
        """A line for each layer."""
        lines = [f"{self.done:,.0f} of {self.total:,} MACs an image: {self.saved:.1%} saved"]
        for layer in self.layers:
            counts = ", ".join(f"{name} {s.count / layer.outputs:.1%}" for name, s in layer.situations.items())
            lines.append(f"{layer.path}: {layer.saved:.1%} saved of {layer.total // self.images:,} ({counts})")
        return "\n".join(lines)


@contextmanager
def observing(net: nn.Module, watch: Watch) -> Iterator[None]:
    """Calls `watch` with path, layer and outcome of every call of a terminating layer inside the block.

    Raises:
        ConfigError: the network has no terminating layer.
    """
    layers = terminating_layers(net)
    if not layers:
        raise ConfigError(f"{type(net).__name__} has no terminating layer: call terminate(model, example) first")
    before = {path: layer.observer for path, layer in layers.items()}
    try:
        for path, layer in layers.items():
            layer.observer = partial(watch, path, layer)
        yield
    finally:
        for path, layer in layers.items():
            layer.observer = before[path]


def count_termination(net: nn.Module, data: Labelled | Tensor, batch_size: int = 50) -> TerminationReport:
    """MACs that `net` does and saves on `data`, per layer and per image, with every decision counted.

    Args:
        net: a network from `tapernet.terminate`, run in eval mode; a `TaperedNet` at the budget that is set.
        data: a data set, images and labels, or images (n, channels, height, width).
        batch_size: images run at once.

    Raises:
        DataError: no images.
        ConfigError: the network has no terminating layer.
    """
    images = images_of(data)
    counts: dict[str, LayerTermination] = {}
    per_image: list[Tensor] = []

    def watch(path: str, layer: TerminatingConv2d, outcome: Outcome) -> None:
        counts.setdefault(path, LayerTermination(path)).add(outcome)
        outputs = outcome.full[0].numel()
        per_image[-1] += (outputs * outcome.terms - outcome.saved().sum(1)).cpu()

    for batch in torch.split(images, batch_size):
        per_image.append(torch.zeros(len(batch), dtype=torch.int64))
        run_watched(net, batch, watch)
    terminating = terminating_layers(net)
    with eval_mode(net):
        others = {path: m.paper for path, m in layer_macs(net, images[0]).items() if path not in terminating}
    return TerminationReport(list(counts.values()), others, torch.cat(per_image) + sum(others.values()))


@dataclass(frozen=True)
class Iteration:
    """One column of Table 1 of the ET paper.

    Args:
        iteration: i, terms after which the partial sum is looked at.
        right: MAC_TN, the share of filters negative at i whose full sum is negative too, in [0, 1].
        saved: MAC_SV, the share of the layer's MACs saved if those filters stopped at i, in [0, 1].
    """

    iteration: int
    right: float
    saved: float


def by_iteration(
    net: nn.Module,
    path: str,
    data: Labelled | Tensor,
    iterations: Sequence[int] = TABLE_1_ITERATIONS,
    batch_size: int = 50,
) -> list[Iteration]:
    """What one layer would save, and how often rightly, for each place of its one check (ET paper, Table 1).

    The layers before it run with the checks that they have; its own are put back afterwards.

    Args:
        net: a network from `tapernet.terminate`.
        path: of the layer, such as "conv1".
        data: a data set, images and labels, or images.
        iterations: the positions.
        batch_size: images run at once.

    Raises:
        ConfigError: an unknown layer, a position outside its terms, or a layer in the exact order.
        DataError: no images.
    """
    layers = terminating_layers(net)
    if path not in layers:
        raise ConfigError(unknown("terminating layer", path, layers))
    layer = layers[path]
    before, counts = layer.checks, [LayerTermination(path) for _ in iterations]
    checks = [Check(position=i) for i in iterations]

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for count, check in zip(counts, checks, strict=True):
            layer.set_checks([check])
            layer.observer = count.add
            module.forward(inputs[0])
        layer.observer = None
        layer.set_checks(before)

    handle = layer.register_forward_pre_hook(measure)
    try:
        for batch in torch.split(images_of(data), batch_size):
            run_watched(net, batch, None)
    finally:
        handle.remove()
        layer.observer = None
        layer.set_checks(before)
    return [Iteration(i, count.right_stops, count.saved) for i, count in zip(iterations, counts, strict=True)]


def measure_inputs(net: nn.Module, data: Labelled | Tensor, batch_size: int = 250) -> None:
    """Measures E|x| of every input channel of the terminating layers, for the order "expected", and keeps it in them.

    Args:
        net: a network from `tapernet.terminate`; one with a dial at budget 1.0.
        data: a data set, images and labels, or images; a thousand will do.
        batch_size: images run at once.

    Raises:
        ConfigError: a dial below 1.0, or a network without terminating layers.
        DataError: no images.
    """
    layers = terminating_layers(net)
    sums: dict[str, Tensor] = {}
    numbers: dict[str, int] = {}

    def measure(path: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.shape[1] != layers[path].in_channels:
            raise ConfigError("inputs are measured at budget 1.0")
        sums[path] = sums.get(path, torch.zeros(1)) + x.abs().sum((0, 2, 3), dtype=torch.float64)
        numbers[path] = numbers.get(path, 0) + x.numel() // x.shape[1]

    # Without checks, which the order "expected" cannot have before its inputs are measured.
    handles = [layer.register_forward_pre_hook(partial(measure, path)) for path, layer in layers.items()]
    try:
        with checks_set(net, {}):
            for batch in torch.split(images_of(data), batch_size):
                run_watched(net, batch, None)
    finally:
        for handle in handles:
            handle.remove()
    for path, total in sums.items():
        layers[path].input_mean.copy_(total / numbers[path])


@torch.no_grad()
def run_watched(net: nn.Module, images: Tensor, watch: Watch | None) -> None:
    """Runs the images in eval mode, with `watch` told of every call as by `observing`."""
    with eval_mode(net), nullcontext() if watch is None else observing(net, watch):
        net(images)
