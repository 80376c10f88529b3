import pytest

from tapernet.errors import ConfigError
from tapernet.train.early_stopping import EarlyStopping


def test_it_stops_after_patience_epochs_without_a_new_best() -> None:
    stopper = EarlyStopping(2)
    said = []
    for value in [0.5, 0.6, 0.6, 0.7, 0.1, 0.7]:
        assert not stopper.exhausted
        said.append(stopper.improved(value))
    assert said == [True, True, False, True, False, False]
    assert stopper.exhausted
    assert stopper.best == 0.7


def test_without_patience_it_never_stops() -> None:
    stopper = EarlyStopping(None)
    for _ in range(100):
        stopper.improved(0.0)
    assert not stopper.exhausted


def test_patience_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="patience"):
        EarlyStopping(0)
