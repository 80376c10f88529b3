import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import NETS

from tapernet import TaperedNet, taper, total_macs, zoo
from tapernet.errors import ConfigError
from tapernet.measure.layer_latency import LatencyTable, Sample
from tapernet.search.cost import LatencyCost, MacCost


@pytest.mark.parametrize("name", NETS)
def test_macs_are_those_of_a_forward_pass_at_any_widths(name: str) -> None:
    net = taper(NETS[name].make(8, 6), torch.zeros(1, *NETS[name].shape))
    cost = MacCost(net)
    for seed in range(4):
        rng = torch.Generator().manual_seed(seed)
        budget = net.budget_of(torch.randint(1, 101, (len(net.channel_groups),), generator=rng).tolist())
        with net.at(budget):
            assert cost(net.kept_channels()) == total_macs(net, torch.zeros(1, *NETS[name].shape)).usual


@pytest.mark.parametrize("name", ["mlp", "c10net", "resnet", "mobilenetv2", "vgg16", "nin"])
def test_macs_of_the_zoos_networks(name: str) -> None:
    net = taper(zoo.create(name), torch.zeros(1, *((1, 28, 28) if name == "mlp" else (3, 32, 32))))
    cost = MacCost(net)
    generator = torch.Generator().manual_seed(0)
    percents = torch.randint(1, 101, (len(net.channel_groups),), generator=generator).tolist()
    for budget in (1.0, 0.3, net.budget_of(percents)):
        with net.at(budget):
            assert cost(net.kept_channels()) == total_macs(net, torch.zeros(1, *net.input_shape)).usual


def mlp() -> TaperedNet:
    return taper(zoo.create("mlp", input_shape=[1, 4, 4], classes=3, hidden=[20, 12]), torch.zeros(1, 1, 4, 4))


def table_of(model: dict[str, tuple[float, float, float, float]], noise: float = 0.0) -> LatencyTable:
    """What a machine would measure whose layers take t0 + t1 in + t2 out + t3 in out."""
    widths = {"fc1": ([16], range(2, 21, 3)), "fc2": (range(2, 21, 3), range(2, 13, 3)), "fc3": (range(2, 13, 3), [3])}
    layers = {}
    for path, (t0, t1, t2, t3) in model.items():
        pairs = [(i, o) for i in widths[path][0] for o in widths[path][1]]
        exact = [t0 + t1 * i + t2 * o + t3 * i * o for i, o in pairs]
        off = [ms * (1 + noise * (-1) ** n) for n, ms in enumerate(exact)]
        layers[path] = tuple(Sample(i, o, ms) for (i, o), ms in zip(pairs, off, strict=True))
    return LatencyTable(layers)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.integers(1, 20), st.integers(1, 12))
def test_times_are_foretold_from_samples(times: list[float], a: int, b: int) -> None:
    model = dict.fromkeys(("fc1", "fc2", "fc3"), (times[0], times[1] / 10, times[2] / 10, times[3] / 100))
    expected = sum(
        model[path][0] + model[path][1] * i + model[path][2] * o + model[path][3] * i * o
        for path, i, o in (("fc1", 16, a), ("fc2", a, b), ("fc3", b, 3))
    )
    assert LatencyCost(mlp(), table_of(model))([a, b]) == pytest.approx(expected, rel=0.02)
    # Of measurements that are off by 5%, the sum is not off by more than those.
    assert LatencyCost(mlp(), table_of(model, noise=0.05))([a, b]) == pytest.approx(expected, rel=0.1)


def test_more_channels_never_cost_less() -> None:
    # Samples that fall with the width, as noise may have them.
    samples = tuple(Sample(i, o, 5 - i / 10 - o / 10) for i in (2, 10, 20) for o in (2, 6, 12))
    cost = LatencyCost(mlp(), LatencyTable(dict.fromkeys(("fc1", "fc2", "fc3"), samples)))
    found = [cost([a, b]) for a, b in ((1, 1), (5, 1), (5, 7), (20, 7), (20, 12))]
    assert found == sorted(found)


def test_a_table_of_another_network_is_refused() -> None:
    table = table_of({"fc1": (1, 0, 0, 0), "fc2": (1, 0, 0, 0)})
    with pytest.raises(ConfigError, match="of another network: they differ in fc3"):
        LatencyCost(mlp(), table)
    more = table_of(dict.fromkeys(("fc1", "fc2", "fc3"), (1, 0, 0, 0))).layers
    with pytest.raises(ConfigError, match="they differ in fc9"):
        LatencyCost(mlp(), LatencyTable({**more, "fc9": more["fc1"]}))
