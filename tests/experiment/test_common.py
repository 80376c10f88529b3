from pathlib import Path

import pytest

from tapernet.errors import ConfigError, FileError
from tapernet.experiment.common import Results, unchanged
from tapernet.files import read_json

USUAL = {"settings": {"lr": 0.1, "new": 0}, "base": {"settings": {"new": 0}}}


def test_an_option_that_is_new_had_its_default() -> None:
    stored = {"settings": {"lr": 0.1}, "base": {"epochs": 3, "settings": {}}}
    current = {"settings": {"lr": 0.1, "new": 0}, "base": {"epochs": 3, "settings": {"new": 0}}}
    assert unchanged(stored, current, USUAL)
    assert not unchanged(stored, current | {"settings": {"lr": 0.1, "new": 1}}, USUAL)
    assert not unchanged(stored, current | {"base": {"epochs": 3, "settings": {"new": 1}}}, USUAL)


def test_what_was_said_must_be_said_again() -> None:
    stored = {"settings": {"lr": 0.1}}
    assert not unchanged(stored, {"settings": {"lr": 0.2}}, USUAL)
    assert not unchanged(stored, {"settings": {}}, USUAL)
    assert not unchanged(stored, {}, USUAL)
    assert not unchanged(stored, {"settings": {"lr": 0.1}, "more": 1}, USUAL)
    assert not unchanged({"training": None}, {"training": {"epochs": 3}}, USUAL)


@pytest.mark.parametrize("text", ["[]", "{}", '{"curves": 3}', '{"curves": [{"name": "a"}]}', "cut of"])
def test_what_is_no_result_file_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"a\.json"):
        Results(path, "title", ["a"])
    assert path.read_text() == text


@pytest.mark.parametrize("measured", ["points", "seeds"])
def test_settings_of_a_curve_with_no_number_bind_nobody(measured: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    first = Results(path, "title", ["a", "b"])
    first.curve({"name": "a", "config": {"epochs": 1}, measured: []}, {})
    first.curve({"name": "b", "config": {"epochs": 1}, measured: []}, {})[measured].append(0)
    first.write()
    assert [curve["name"] for curve in read_json(path)["curves"]] == ["b"]
    second = Results(path, "title", ["a", "b"])
    assert second.curve({"name": "a", "config": {"epochs": 2}, measured: []}, {})["config"] == {"epochs": 2}
    with pytest.raises(ConfigError, match="other settings"):
        second.curve({"name": "b", "config": {"epochs": 2}, measured: []}, {})
