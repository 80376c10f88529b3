"""Without the compiled kernels everything runs through torch."""

from collections.abc import Iterator

import pytest
import torch
from engine_reference import by_torch, close

import tapernet as tn
from tapernet.engine import native
from tapernet.errors import ConfigError
from tapernet.nn.terminating import terminating_layers


@pytest.fixture(autouse=True)
def no_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(native, "import_module", _missing)
    native.extension.cache_clear()
    native.warn_once.cache_clear()
    yield
    native.extension.cache_clear()


def _missing(name: str) -> None:
    raise ImportError(name)


@pytest.mark.filterwarnings("ignore:tapernet was installed without")
def test_the_answers_are_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 32, 32)
    net = tn.taper(tn.zoo.create("c10net"), x).eval()
    engine = tn.compile(net)
    for budget in (1.0, 0.3, {"conv1": 0.5}):
        with net.at(budget), engine.at(budget):
            close(engine(x), by_torch(net, x))
    assert engine.kernels == "torch"
    with pytest.raises(ConfigError):
        engine(x.double())


def test_it_says_so_once(recwarn: pytest.WarningsRecorder) -> None:
    net = tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28))
    tn.compile(net)
    tn.compile(net)
    told = [w for w in recwarn if "without its native kernels" in str(w.message)]
    assert len(told) == 1
    assert told[0].filename == __file__


@pytest.mark.filterwarnings("ignore:tapernet was installed without")
def test_a_layer_chosen_dense_computes_everything() -> None:
    torch.manual_seed(1)
    model, x = tn.zoo.create("c10net").eval(), torch.rand(2, 3, 32, 32)
    net = tn.terminate(model, x).eval()
    layers = terminating_layers(net)
    for layer in layers.values():
        layer.set_checks([tn.Check(share=0.1)])
    close(tn.compile(net, x)(x), by_torch(net, x))
    close(tn.compile(net, x, choices=dict.fromkeys(layers, "dense"))(x), by_torch(model, x))
    assert all(layer.checks for layer in layers.values())
