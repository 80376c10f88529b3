"""Placing checks: what every method promises, and Algorithm 1 against a plain reading of it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.data import ImageData
from tapernet.errors import ConfigError, DataError
from tapernet.measure.termination import count_termination, observing
from tapernet.nn.check import Check
from tapernet.nn.terminating import Outcome, terminating_layers
from tapernet.placement import PLACEMENTS, least_right, place_checks
from tapernet.placement.greedy import choose_steps, macs_done
from tapernet.placement.greedy_paper import _Search, from_centre
from tapernet.placement.per_filter import _measure, _Table
from tapernet.placement.rerun import Rerun, usual_batch

pytestmark = pytest.mark.usefixtures("usual_times")

SHAPE = (3, 10, 10)
CLASSES = 5
KINDS = ("chain", "c10net", "residual", "dial")


class Residual(nn.Module):
    """Branches, a sum in place and ReLUs in place: what remembered values must survive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.outer, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.outer(self.relu(self.inner(x)))
        x += y
        x = self.relu(self.last(self.relu(x)))
        return self.fc(x.mean((2, 3)))


def chain() -> nn.Module:
    convolutions = [(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.ReLU(inplace=True)) for i in range(5)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)]
    return nn.Sequential(*itertools.chain(*convolutions), *head)


def problem(kind: str, n: int = 60, budget: float = 0.5) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network that gets most of its images right, and loses some with every check."""
    torch.manual_seed(3)
    images, example = torch.randn(n, *SHAPE), torch.zeros(1, *SHAPE)
    c10net = zoo.create("c10net", input_shape=SHAPE, classes=CLASSES)
    model = {"chain": chain, "residual": Residual}.get(kind, lambda: c10net)().eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
            last = module
    net = taper(model, example, profile="all-one").eval() if kind == "dial" else model
    if kind == "dial":
        net.budget = budget
        last = net.model.fc2
    with torch.no_grad():
        last.bias -= net(images).mean(0)
        labels = net(images).argmax(1)
    labels[::10] = (labels[::10] + 1) % CLASSES
    stopping = terminate(net, example)
    return stopping, (images, labels)


def right(net: nn.Module, data: tuple[Tensor, Tensor]) -> int:
    with torch.no_grad():
        return int((net(data[0]).argmax(1) == data[1]).sum())


def checks_of(net: nn.Module) -> dict[str, tuple[Check, ...]]:
    return {path: layer.checks for path, layer in terminating_layers(net).items()}


# --- Algorithm 1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "order"), [(1, [0]), (2, [0, 1]), (3, [1, 0, 2]), (4, [1, 2, 0, 3]), (9, [4, 3, 5, 2, 6, 1, 7, 0, 8])]
)
def test_from_the_centre_outward(count: int, order: list[int]) -> None:
    assert from_centre(count) == order


def as_published(net: nn.Module, data: tuple[Tensor, Tensor], tolerance: float) -> int:
    """The pseudo code, line by line; returns the number of trials."""
    layers, count = list(terminating_layers(net).values()), len(data[1])
    acc, trials = right(net, data), 0
    middle = (len(layers) - 1) / 2
    while layers:
        layer = min(layers, key=lambda each: abs(list(terminating_layers(net).values()).index(each) - middle))
        layers.remove(layer)
        for v in (0.05, 0.32):
            layer.set_checks([Check(share=v)])
            trials += 1
            if (acc - right(net, data)) / count < tolerance:
                break
            layer.set_checks([])
    return trials


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [0.0, 0.15, 0.4])
@pytest.mark.parametrize("options", [{"plain": True}, {"sample": 7}, {"sample": 60, "memory": 30_000}, {"memory": 0}])
def test_algorithm_1(kind: str, tolerance: float, options: dict[str, int]) -> None:
    net, data = problem(kind)
    before = right(net, data) / 60
    trials = as_published(net, data, tolerance)
    expected, after = checks_of(net), right(net, data) / 60
    placement = place_checks(net, data, tolerance=tolerance, batch_size=8, **options)
    assert checks_of(net) == placement.checks == expected
    assert (placement.accuracy_before, placement.accuracy, placement.trials) == (before, after, trials)


def test_the_problems_have_both_outcomes() -> None:
    # Otherwise the test above could not tell one order of layers from another.
    found = set()
    for kind in KINDS:
        net, data = problem(kind)
        as_published(net, data, 0.4)
        found |= {layer[0].share if layer else None for layer in checks_of(net).values()}
    assert found == {0.05, 0.32, None}


def test_a_wrong_guess_is_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = problem("chain")
    as_published(net, data, 0.2)
    expected = checks_of(net)
    passes, make = [], _Search._make
    monkeypatch.setattr(_Search, "_make", lambda self, trials: passes.append(len(trials)) or make(self, trials))
    monkeypatch.setattr(_Search, "_outcome", lambda self: True)  # the best one, whatever the sample says
    place_checks(net, data, tolerance=0.2, batch_size=8, memory=60_000)
    assert checks_of(net) == expected
    assert len(passes) > 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Rerun]:
    """Every `Rerun` that is made."""
    made: list[Rerun] = []
    start = Rerun.__init__

    def init(self: Rerun, *arguments: object, **keywords: object) -> None:
        start(self, *arguments, **keywords)
        made.append(self)

    monkeypatch.setattr(Rerun, "__init__", init)
    return made


@pytest.mark.parametrize("memory", [200_000, 1 << 30], ids=["guessed", "one by one"])
def test_fewer_layers_are_run_than_plainly(memory: int, runs: list[Rerun]) -> None:
    counts = []
    for plain in (True, False):
        net, data = problem("chain", 200)
        place_checks(net, data, tolerance=0.05, batch_size=8, plain=plain, sample=30, memory=memory)
        counts.append(sum(sum(run.executions.values()) for run in runs))
        runs.clear()
    assert counts[1] < counts[0] / 2


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("before", [0, 10, 19, 20])
def test_the_least_that_must_be_right(before: int, tolerance: float) -> None:
    least = least_right(before, 20, tolerance)
    tolerated = [(before - r) / 20 < tolerance for r in range(22)]
    assert [r >= least for r in range(22)] == tolerated


# --- running again ---------------------------------------------------------------------------------------------------


def test_only_the_layers_from_the_change_on_are_run_again() -> None:
    net, data = problem("chain")
    rerun = Rerun(net, *data, batch_size=100)
    paths = list(rerun.layers)
    rerun.run(0)
    for changed in (3, 1, 4, 0):
        before = dict(rerun.executions)
        rerun.layers[paths[changed]].set_checks([Check(share=0.3)])
        result = rerun.run(0)
        extra = [rerun.executions[path] - before[path] for path in paths]
        assert extra == [0] * changed + [1] * (len(paths) - changed)
        assert torch.equal(result.scores, Rerun(net, *data, batch_size=100, memory=0).run(0).scores)
    before = dict(rerun.executions)
    rerun.run(0)
    # Nothing changed: only the last layer's input is remembered, not its output.
    assert sum(rerun.executions.values()) - sum(before.values()) == 1


@pytest.mark.parametrize(
    ("network", "side", "batch"),
    [("c10net", 8, 100), ("c10net", 32, 100), ("nin", 32, 21), ("nin", 16, 85)],  # of 192 x 32 x 32 floats 21 are 16 MB
)
def test_a_batch_is_smaller_where_activations_are_large(network: str, side: int, batch: int) -> None:
    net = zoo.create(network, input_shape=(3, side, side))
    images = torch.zeros(3, 3, side, side)
    assert usual_batch(net, images) == batch
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_batch_of_one_image_where_that_is_too_much_already() -> None:
    wide = nn.Conv2d(1, 64, 1)
    assert usual_batch(wide, torch.zeros(2, 1, 512, 512)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [0, 20_000, 1 << 30])
def test_results_and_macs_are_those_of_the_whole_network(kind: str, memory: int) -> None:
    net, data = problem(kind)
    rerun = Rerun(net, *data, batch_size=16, memory=memory, cost=macs_done)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        for layer in rerun.layers.values():
            if torch.rand(1, generator=generator) < 0.5:
                share = 0.05 + 0.9 * torch.rand(1, generator=generator).item()
                layer.set_checks([Check(share=share)])
        report = count_termination(net, data)
        assert rerun.run_all() == (right(net, data), sum(layer.done for layer in report.layers))
        assert rerun.used <= memory
        rerun.settle_all()


def test_a_run_ends_as_soon_as_it_cannot_be_good_enough() -> None:
    net, data = problem("chain")
    rerun = Rerun(net, *data, batch_size=16, memory=0, cost=macs_done)
    right, cost = rerun.run_all()
    assert rerun.put_hardest_first() == right
    assert rerun.run_all() == rerun.run_within(right, cost + 1) == (right, cost)
    assert rerun.run_within(right, cost) is None
    assert rerun.run_within(right + 1, math.inf) is None
    rerun.executions.clear()
    assert rerun.run_within(len(data[0]), math.inf) is None
    assert set(rerun.executions.values()) == {1}  # the least sure come first, with a wrong one among them


def test_the_hardest_images_have_the_smallest_margins() -> None:
    net, (images, labels) = problem("chain")
    rerun = Rerun(net, images, labels, batch_size=16)
    rerun.put_hardest_first()
    with torch.no_grad():
        scores = net.eval()(images)
    margins = [float(s[y] - max(v for c, v in enumerate(s) if c != y)) for s, y in zip(scores, labels, strict=True)]
    order = [int(i) for batch in rerun.index for i in batch]
    assert sorted(order) == list(range(len(images)))
    assert all(margins[a] <= margins[b] + 1e-4 for a, b in itertools.pairwise(order))


def test_settling_forgets_other_checks() -> None:
    net, data = problem("chain")
    rerun = Rerun(net, *data, batch_size=100)
    rerun.run(0)
    used = rerun.used
    untouched = rerun.checks
    rerun.checks = {path: (Check(share=0.5),) for path in rerun.layers}
    rerun.run(0)
    assert rerun.used > used
    rerun.checks = untouched
    rerun.settle(0)
    assert rerun.used == used
    before = sum(rerun.executions.values())
    rerun.run(0)
    assert sum(rerun.executions.values()) == before + 1
    rerun.forget(0)
    assert rerun.used == 0


def test_a_layer_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu()).relu().mean((2, 3))

    net = terminate(Twice(), torch.zeros(1, *SHAPE))
    with pytest.raises(ConfigError, match="runs twice"):
        place_checks(net, (torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.long)), tolerance=0.1)


# --- greedy ----------------------------------------------------------------------------------------------------------


def test_the_first_step_saves_most_per_answer_lost() -> None:
    net, data = problem("c10net")
    candidates = [Check(share=share) for share in (0.1, 0.3, 0.6)]
    base, least, gains = right(net, data), least_right(right(net, data), 60, 0.3), {}
    for path, layer in terminating_layers(net).items():
        for check in candidates:
            layer.set_checks([check])
            found, report = right(net, data), count_termination(net, data)
            if found >= least:
                saved = sum(each.total - each.done for each in report.layers)
                gains[path, check] = saved / (max(base - found, 0) + 1)
            layer.set_checks([])
    path, check = max(gains, key=gains.__getitem__)
    everywhere = {path: [(check,) for check in candidates] for path in terminating_layers(net)}
    steps, _ = choose_steps(Rerun(net, *data, cost=macs_done), everywhere, 0.3)
    assert {p: c for p, c in steps[1].items() if c} == {path: (check,)}


def test_every_step_saves_more() -> None:
    net, data = problem("chain")
    rerun = Rerun(net, *data, cost=macs_done)
    candidates = {path: [(Check(share=share),) for share in (0.1, 0.3, 0.6)] for path in rerun.layers}
    steps, _ = choose_steps(rerun, candidates, 0.3)
    done = []
    for rerun.checks in steps:
        done.append(rerun.run_all()[1])
    assert len(steps) > 2
    assert all(a > b for a, b in itertools.pairwise(done))


def test_greedy_takes_back_steps_that_all_images_do_not_tolerate() -> None:
    net, data = problem("chain", 200)
    kept = place_checks(net, data, tolerance=0.1, method="greedy", sample=3)
    assert kept.accuracy_before - kept.accuracy < 0.1
    assert kept.accuracy == right(net, data) / 200


def test_greedy_sets_the_bias_first() -> None:
    net, data = problem("chain")
    place_checks(net, data, tolerance=0.2, method="greedy", bias_first=True, shares=(0.3,), thresholds=(0.0, -0.1))
    assert all(layer.options.bias_first for layer in terminating_layers(net).values())
    assert right(net, data) / 60 > 0.9 - 0.2


# --- per filter ------------------------------------------------------------------------------------------------------


def test_per_filter_prefers_filters_that_harm_no_margin() -> None:
    net, (images, labels) = problem("c10net")
    layer = net.conv3
    with torch.no_grad():
        # What half of the last filters say is not heard: their channels' weights are zero.
        net.fc1.weight.view(64, 64, -1)[:, ::2] = 0
    placement = place_checks(net, (images, labels), tolerance=0.03, method="per-filter", shares=(0.05,))
    (check,) = layer.checks
    positions = torch.tensor(check.positions(layer.terms, layer.terms, 64))
    # A filter that never stops has nothing to save, muted or not.
    muted, heard = ((positions[start::2] == 40).sum().item() for start in (0, 1))
    assert muted > 28
    assert heard < muted
    assert placement.accuracy_before - placement.accuracy < 0.03


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_per_filter_harm_is_the_margins_derivative(threshold: float) -> None:
    net, (images, labels) = problem("chain", 4)
    path, check = "4", Check(share=0.2, threshold=threshold)
    table = _Table.empty(terminating_layers(net)[path], [(check,)])
    _measure(net, (images, labels), {path: table}, 2)
    layer, filter_ = table.layer, 3
    seen: list[Outcome] = []

    def margins(part: float) -> Tensor:
        """With a part of the way gone from what comes out of ReLU to what does with the check."""

        def hook(_: nn.Module, __: object, y: Tensor) -> Tensor:
            before, after = y.relu(), seen[0].emitted.relu()
            y = y.clone()
            y[:, filter_] = (before + part * (after - before))[:, filter_]
            return y

        handle = layer.register_forward_hook(hook)
        with torch.no_grad():
            scores = net(images).double()
        handle.remove()
        own = scores.gather(1, labels[:, None])[:, 0]
        return own - scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1)

    with observing(net, lambda at, _, outcome: seen.append(outcome) if at == path else None):
        layer.set_checks([check])
        with torch.no_grad():
            net(images)
        layer.set_checks([])
    assert ((seen[0].emitted > 0) & seen[0].stopped & (seen[0].full < 0))[:, filter_].any() == (threshold > 0)
    expected = (margins(0.001) - margins(0.0)).abs().sum().item() / 0.001
    assert expected > 0
    assert table.harm[0, filter_].item() == pytest.approx(expected, rel=0.02)


def test_a_filter_may_have_several_checks_and_then_saves_more() -> None:
    saved, most = [], []
    for checks in (1, 2, 3):
        net, data = problem("c10net", 100)
        options = {"shares": (0.05, 0.2, 0.5), "thresholds": (-0.5, 0.0, 0.5), "checks": checks}
        placement = place_checks(net, data, tolerance=0.3, method="per-filter", **options)
        assert placement.accuracy_before - placement.accuracy < 0.3
        saved.append(count_termination(net, data).saved)
        most.append(max(len(layer.checks) for layer in terminating_layers(net).values()))
        for layer in terminating_layers(net).values():
            positions = [check.positions(layer.terms, layer.terms, layer.out_channels) for check in layer.checks]
            for of_filter in zip(*positions, strict=True):
                real = [position for position in of_filter if position < layer.terms]
                assert real == sorted(set(real))
    assert most == [1, 2, 3]
    assert saved[1] > saved[0]


def test_what_the_table_promises_of_a_layer_is_what_it_does() -> None:
    net, (images, labels) = problem("chain")
    layer = terminating_layers(net)["0"]
    candidates = [Check(share=share, threshold=threshold) for share in (0.1, 0.25, 0.5) for threshold in (-1.0, -0.5)]
    table = _Table.empty(layer, [(check,) for check in candidates])
    worth, price = [], 0.0
    for _ in range(2):
        _measure(net, (images, labels), {"0": table}, 25)
        price = price or (table.saved / table.harm).quantile(0.7).item()
        worth.append((table.saved - price * table.harm).max(0).values.sum())
        table.add_earlier(candidates, price)
    assert worth[1] > worth[0]  # a second look pays at this price
    _measure(net, (images, labels), {"0": table}, 25)
    assert len(table.checks_at(price)) > 1
    assert -1 in table.best(30 * price)  # then some filters are better without
    for each in (price, 30 * price):
        layer.set_checks(table.checks_at(each))
        promised = sum(table.saved[number, f].item() for f, number in enumerate(table.best(each)) if number >= 0)
        (counted,) = (found for found in count_termination(net, (images, labels)).layers if found.path == "0")
        assert counted.total - counted.done == pytest.approx(promised)


def test_per_filter_needs_a_check() -> None:
    net, data = problem("c10net")
    with pytest.raises(ConfigError, match="one check or more, not 0"):
        place_checks(net, data, tolerance=0.2, method="per-filter", checks=0)


def test_per_filter_needs_the_full_width() -> None:
    net, data = problem("dial")
    with pytest.raises(ConfigError, match=r"budget 1\.0"):
        place_checks(net, data, tolerance=0.2, method="per-filter")


# --- rounded sums ---


def test_layers_of_few_products_have_no_check_of_rounded_sums() -> None:
    net, data = problem("c10net", budget=1.0)
    checks = place_checks(net, data, tolerance=0.3, method="rounded").checks
    assert checks == checks_of(net) == {"conv1": (), "conv2": (Check(bits=8),), "conv3": (Check(bits=8),)}


def test_checks_of_rounded_sums_go_until_the_drop_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = problem("c10net", budget=1.0)
    answers = iter([50, 30, 45])
    monkeypatch.setattr("tapernet.placement.rounded._right", lambda *arguments: next(answers))
    placement = place_checks(net, data, tolerance=0.1, method="rounded")
    assert placement.checks == checks_of(net) == {"conv1": (), "conv2": (Check(bits=8),), "conv3": ()}
    assert (placement.accuracy, placement.trials) == (45 / 60, 2)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1.0])
def test_so_large_a_share_goes_on(share: float) -> None:
    net, data = problem("c10net", budget=1.0)
    checks = place_checks(net, data, tolerance=1.0, method="rounded", goes_on=share).checks
    for layer in count_termination(net, data).layers:
        going = [layer.situations[name].count for name in ("true positive", "false positive")]
        positive = sum(layer.situations[name].count for name in ("true positive", "false negative"))
        if checks[layer.path]:
            assert sum(going) == pytest.approx(min(share * layer.outputs, positive), abs=0.01 * layer.outputs)


def test_a_share_that_cannot_go_on() -> None:
    net, data = problem("c10net", budget=1.0)
    with pytest.raises(ConfigError, match=r"a share in \[0, 1\], not 1\.5"):
        place_checks(net, data, tolerance=1.0, method="rounded", goes_on=1.5)


def test_nothing_is_checked_where_no_drop_is_tolerated() -> None:
    net, data = problem("c10net", budget=1.0)
    placement = place_checks(net, data, tolerance=0, method="rounded")
    assert placement.checks == checks_of(net) == {"conv1": (), "conv2": (), "conv3": ()}
    assert placement.accuracy == placement.accuracy_before


# --- every method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(PLACEMENTS))
@pytest.mark.parametrize("kind", ["chain", "c10net", "dial"])
def test_the_drop_stays_below_the_tolerance_and_macs_are_saved(method: str, kind: str) -> None:
    net, data = problem(kind, budget=1.0 if method == "per-filter" else 0.5)
    before = right(net, data) / 60
    options = {"least_products": 1} if method == "rounded" else {}
    placement = place_checks(net, data, tolerance=0.25, method=method, **options)
    assert placement.checks == checks_of(net)
    assert placement.accuracy_before == before
    assert placement.accuracy == right(net, data) / 60
    assert before - placement.accuracy < 0.25
    assert count_termination(net, data).saved > 0.05
    assert placement.trials > 0
    assert set(placement.as_dict()) == {"checks", "accuracy_before", "accuracy", "trials"}


@pytest.mark.parametrize("method", list(PLACEMENTS))
def test_old_checks_do_not_count(method: str) -> None:
    net, data = problem("chain")
    first = place_checks(net, data, tolerance=0.2, method=method)
    assert place_checks(net, data, tolerance=0.2, method=method) == first


@pytest.mark.parametrize("method", list(PLACEMENTS))
def test_a_data_set_serves_as_well(method: str) -> None:
    net, (images, labels) = problem("chain")
    data = ImageData(images, labels, tuple("abcde"))
    pair = place_checks(net, (images, labels), tolerance=0.2, method=method)
    assert place_checks(net, data, tolerance=0.2, method=method) == pair


@pytest.mark.parametrize("method", list(PLACEMENTS))
def test_after_an_error_all_is_as_before(method: str) -> None:
    net, (images, labels) = problem("chain")
    layers = list(terminating_layers(net).values())
    layers[2].set_checks([Check(share=0.5)])
    state = [(layer.options, layer.checks) for layer in layers]
    labels = torch.full_like(labels, 99)  # told after the checks of the network were taken away
    with pytest.raises(DataError, match="classes"):
        place_checks(net.train(), (images, labels), tolerance=0.2, method=method)
    assert [(layer.options, layer.checks) for layer in layers] == state
    assert all(module.training for module in net.modules())


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [-0.01, 1.01, math.nan, math.inf, "10%", None, True])
def test_a_tolerance_outside_its_range(tolerance: float) -> None:
    net, data = problem("chain")
    with pytest.raises(ConfigError, match="the tolerance is a finite number from 0 to 1"):
        place_checks(net, data, tolerance=tolerance)


def test_zero_images() -> None:
    net, (images, labels) = problem("chain")
    with pytest.raises(DataError, match="zero images"):
        place_checks(net, (images[:0], labels[:0]), tolerance=0.1)


def test_not_as_many_labels() -> None:
    net, (images, labels) = problem("chain")
    with pytest.raises(DataError, match="as many labels"):
        place_checks(net, (images, labels[1:]), tolerance=0.1)


def test_an_unknown_method() -> None:
    net, data = problem("chain")
    with pytest.raises(ConfigError, match="did you mean 'greedy'"):
        place_checks(net, data, tolerance=0.1, method="gredy")


@pytest.mark.parametrize("method", list(PLACEMENTS))
@pytest.mark.parametrize("option", ["share", "tolerances", "images"])
def test_an_unknown_option(method: str, option: str) -> None:
    net, data = problem("chain")
    with pytest.raises(ConfigError, match=f"option of {method} '{option}'"):
        place_checks(net, data, tolerance=0.1, method=method, **{option: 1})


def test_a_network_that_does_not_terminate() -> None:
    with pytest.raises(ConfigError, match="call terminate"):
        place_checks(chain(), problem("chain")[1], tolerance=0.1)


def test_the_exact_order_has_nothing_to_place() -> None:
    net, data = problem("chain")
    for layer in terminating_layers(net).values():
        layer.options = replace(layer.options, order="exact")
    with pytest.raises(ConfigError, match="stops by itself"):
        place_checks(net, data, tolerance=0.1)


class WritesInPlace(nn.Module):
    """Convolutions whose outputs the next operation overwrites, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, CLASSES)
        self.relu = nn.ReLU(inplace=way == "module")

    def rectified(self, x: Tensor) -> Tensor:
        if self.way == "keyword":
            return F.relu(x, inplace=True)
        if self.way == "positional":
            return F.relu(x, True)
        return x.relu_() if self.way == "method" else self.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectified(self.conv1(x))
        y = self.rectified(self.conv2(x))
        if self.way == "operator":
            x *= 2
        return self.fc(y.mean((2, 3)) + x.mean((2, 3)))


@pytest.mark.parametrize("way", ["module", "keyword", "positional", "method", "operator", "none"])
def test_operations_in_place_do_not_reach_what_is_remembered(way: str) -> None:
    images, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % CLASSES
    net = terminate(WritesInPlace(way).eval(), images[:1])
    rerun = Rerun(net, images, labels, batch_size=20)
    for share in (None, 0.1, 0.3, None, 0.1):
        for layer in terminating_layers(net).values():
            layer.set_checks([] if share is None else [Check(share=share)])
            fresh = Rerun(net, images, labels, batch_size=20, memory=0)
            assert torch.equal(rerun.run(0).scores, fresh.run(0).scores)
            assert torch.equal(rerun.run(0).scores, fresh.run(0).scores)
