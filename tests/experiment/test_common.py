import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tapernet.data import load_data
from tapernet.errors import ConfigError, FileError
from tapernet.experiment import common
from tapernet.experiment.common import Results, input_spec, open_teacher, unchanged
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
    for name in "ab":
        first.begin({"name": name, "config": {"epochs": 1}, measured: []}, {})
    with first.adding("b") as curve:
        curve[measured].append(0)
    assert [curve["name"] for curve in read_json(path)["curves"]] == ["b"]
    second = Results(path, "title", ["a", "b"])
    second.begin({"name": "a", "config": {"epochs": 2}, measured: []}, {})
    with pytest.raises(ConfigError, match="other settings"):
        second.begin({"name": "b", "config": {"epochs": 2}, measured: []}, {})


def test_runs_at_once_keep_what_each_of_them_measured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"

    def run(number: int) -> None:
        results = Results(path, "title", ["a"])
        results.begin({"name": "a", "config": {}, "points": []}, {})
        for i in range(10):
            with results.adding("a") as curve:
                curve["points"].append((number, i))

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, range(8)))
    (curve,) = read_json(path)["curves"]
    assert sorted(curve["points"]) == [[number, i] for number in range(8) for i in range(10)]


def test_what_another_run_wrote_with_other_settings_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    first, second = Results(path, "title", ["a"]), Results(path, "title", ["a"])
    for results, epochs in ((first, 1), (second, 2)):
        results.begin({"name": "a", "config": {"epochs": epochs}, "points": []}, {})
    with first.adding("a") as curve:
        curve["points"].append(0)
    with pytest.raises(ConfigError, match="other settings"), second.adding("a") as curve:
        curve["points"].append(1)
    assert read_json(path)["curves"][0]["points"] == [0]


def test_a_place_that_cannot_be_written_is_told_before_hours_of_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        Results(tmp_path / "file" / "a.json", "title", ["a"])


def test_a_teacher_knows_the_same_classes_on_the_same_scale() -> None:
    spec = input_spec(load_data("digits").train, "digits")
    assert open_teacher("mlp-digits", spec)(load_data("digits").test.as_float()[:2]).shape == (2, 10)
    with pytest.raises(ConfigError, match="mlp-digits cannot teach here: it knows the classes 0, 1"):
        open_teacher("mlp-digits", replace(spec, class_names=("a", "b")))
    with pytest.raises(ConfigError, match="mlp-digits cannot teach here: its images had mean"):
        open_teacher("mlp-digits", replace(spec, std=(0.5,)))
    with pytest.raises(FileError, match="no trained network of that name: mlp-digit"):
        open_teacher("mlp-digit", spec)


def test_code_that_differs_from_its_commit_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    def found() -> str:
        common.commit.cache_clear()
        return common.commit() or ""

    monkeypatch.setattr(common, "__file__", str(tmp_path / "src" / "common.py"))
    (tmp_path / "src").mkdir()
    assert found() == ""
    (tmp_path / "src" / "common.py").write_text("1")
    git("init", "-q")
    git("add", "src")
    git("commit", "-q", "-m", "first")
    clean = found()
    assert len(clean) >= 7
    assert "dirty" not in clean
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "figure.json").write_text("{}")  # what a run changes
    assert found() == clean
    (tmp_path / "src" / "new.py").write_text("2")
    assert found() == f"{clean}-dirty"
    (tmp_path / "src" / "new.py").unlink()
    (tmp_path / "src" / "common.py").write_text("3")
    assert found() == f"{clean}-dirty"
    git("commit", "-q", "-a", "-m", "second")
    assert common.commit() == f"{clean}-dirty"  # the code that runs was read before
    common.commit.cache_clear()


def test_a_point_names_all_code_that_worked_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("base", "curve", "old"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "checkpoint.safetensors").touch()
    now = ["aaa-dirty"]
    monkeypatch.setattr(common, "commit", lambda: now[0])
    assert common.commits(tmp_path / "base") == "aaa-dirty"
    now = ["bbb"]
    assert common.commits(tmp_path / "curve") == "bbb"
    assert common.commits(tmp_path / "base", tmp_path / "curve") == "aaa-dirty+bbb"
    assert common.commits(tmp_path / "old") == "unknown+bbb"
