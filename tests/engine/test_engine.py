"""Calls of an engine: what it takes, how it fails, many at once."""

import copy
import pickle
import resource
import threading
from collections.abc import Iterator

import pytest
import torch
from engine_reference import by_torch, close, needs_kernels
from torch import Tensor

import tapernet as tn
from tapernet.engine import Engine
from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet

pytestmark = needs_kernels


@pytest.fixture(scope="module")
def net() -> TaperedNet:
    torch.manual_seed(0)
    return tn.taper(tn.zoo.create("c10net"), torch.zeros(1, 3, 32, 32)).eval()


@pytest.fixture
def engine(net: TaperedNet) -> Iterator[Engine]:
    return tn.compile(net)


BAD: dict[str, Tensor] = {
    "float32": torch.zeros(1, 3, 32, 32, dtype=torch.float64),
    "half": torch.zeros(1, 3, 32, 32, dtype=torch.float16),
    "CPU": torch.zeros(1, 3, 32, 32, device="meta"),
    "sparse": torch.zeros(1, 3, 32, 32).to_sparse(),
    "channels": torch.zeros(1, 4, 32, 32),
    "no batch": torch.zeros(3, 32, 32),
    "too small": torch.zeros(1, 3, 2, 2),
    "another size": torch.zeros(1, 3, 64, 64),
    "empty": torch.zeros(1, 3, 0, 32),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_is_refused(engine: Engine, case: str) -> None:
    with pytest.raises(ConfigError):
        engine(BAD[case])


def test_something_else_than_a_tensor_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="list"):
        engine([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [0, 0.0, 1.01, -0.5, float("nan"), 0.123456, "slow", {"conv9": 0.5}, None, True])
def test_a_bad_budget_is_refused_and_the_old_one_stays(engine: Engine, budget: object) -> None:
    engine.budget = 0.5
    with pytest.raises(ConfigError):
        engine.budget = budget  # type: ignore[assignment]
    assert engine.budget == 0.5


def test_a_budget_without_statistics_is_refused() -> None:
    x = torch.randn(4, 3, 16, 16)
    net = tn.taper(tn.zoo.create("resnet", input_shape=(3, 16, 16), depth=8), x).eval()
    tn.calibrate(net, [x], [0.5])
    engine = tn.compile(net)
    with pytest.raises(ConfigError, match="calibrate"):
        engine(x)
    with net.at(0.5):
        close(engine(x, budget=0.5), by_torch(net, x))


def test_a_batch_of_no_images(engine: Engine) -> None:
    assert engine(torch.zeros(0, 3, 32, 32)).shape == (0, 10)


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_are_divided_among_threads(net: TaperedNet, batch: int, threads: int) -> None:
    engine = tn.compile(net, threads=threads)
    x = torch.randn(batch, 3, 32, 32)
    close(engine(x), by_torch(net, x))


def test_other_layouts_of_memory(net: TaperedNet, engine: Engine) -> None:
    x = torch.randn(2, 3, 64, 32)
    for view in (x[:, :, ::2], x[:, :, :32].to(memory_format=torch.channels_last), x[:1, :, :32].expand(2, -1, -1, -1)):
        close(engine(view), by_torch(net, view))


def test_another_image_size_where_the_network_allows_it() -> None:
    torch.manual_seed(1)
    model = tn.zoo.create("nin", input_shape=(3, 16, 16)).eval()
    engine = tn.compile(model, torch.zeros(1, 3, 16, 16))
    for size in ((16, 16), (11, 19), (32, 8)):
        x = torch.randn(2, 3, *size)
        close(engine(x), by_torch(model, x))


def test_the_result_has_no_gradient_and_the_input_may_want_one(engine: Engine) -> None:
    assert not engine(torch.randn(1, 3, 32, 32, requires_grad=True)).requires_grad


def test_calls_from_several_threads_at_several_budgets(net: TaperedNet) -> None:
    engine = tn.compile(net, threads=2)
    budgets = (1.0, 0.5, 0.2, 0.7)
    x = torch.randn(5, 3, 32, 32)
    expected = {}
    for budget in budgets:
        with net.at(budget):
            expected[budget] = by_torch(net, x)
    wrong: list[object] = []

    def call(budget: float) -> None:
        try:
            for _ in range(20):
                close(engine(x, budget=budget), expected[budget])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(b,)) for b in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_does_not_grow_over_many_calls() -> None:
    engine = tn.compile(tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28)).eval())
    x = torch.randn(16, 1, 28, 28)
    budgets = [b / 10 for b in range(1, 11)]

    def call(times: int) -> int:
        for i in range(times):
            engine.budget = budgets[i % 10]
            engine(x)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = call(500)
    # A result kept at each call would be 6 MB.
    assert call(10_000) - before < 2_000


def test_not_a_number_stays_one(net: TaperedNet) -> None:
    engine = tn.compile(net)
    x = torch.randn(2, 3, 32, 32)
    x[0, 0, 5, 5] = torch.nan
    out = engine(x)
    assert out[0].isnan().any()
    close(out[1:], by_torch(net, x)[1:])


def test_copies_and_pickles_are_refused_with_the_way_around() -> None:
    engine = tn.compile(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="save the network, and compile that"):
            attempt(engine)  # type: ignore[operator]
