"""The command line as a user meets it, in one process for speed."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import tapernet
from tapernet.cli import main
from tapernet.engine import native
from tapernet.train.recipes import TESLA, FineTune, Recipe, Slimmable
from tapernet.zoo.trained import WEIGHTS

EXPERIMENTS = str(Path(__file__).parents[1] / "experiments")
QUICK = ["train", "--recipe", "TESLA", "--recipe.budgets", "[1.0,0.5]", "--recipe.max_epochs", "2"]


def test_train_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "out" / "net.safetensors"
    assert main([*QUICK, "--output", str(net), "--run_dir", str(tmp_path / "run")]) == 0
    assert {p.suffix for p in net.parent.iterdir()} == {".safetensors", ".json", ".csv", ".png"}
    assert (tmp_path / "run" / "metrics.csv").exists()
    printed = capsys.readouterr().out
    assert main(["evaluate", "--net", str(net), "--output", str(tmp_path / "again.json")]) == 0
    assert "100%" in capsys.readouterr().out
    assert "10%" in printed
    from tapernet import Curve

    first, again = Curve.load(net.with_suffix(".json")), Curve.load(tmp_path / "again.json")
    assert [p.accuracy for p in first.points] == [p.accuracy for p in again.points]


def test_a_teacher_is_named_and_asked_once_about_each_view(tmp_path: Path) -> None:
    teach = ["--recipe", "FineTune", "--recipe.epochs", "2", "--recipe.taught", "0.5", "--settings.views", "1"]
    arguments = ["train", *teach, "--teacher", "mlp-digits", "--run_dir", str(tmp_path / "run")]
    assert main([*arguments, "--output", str(tmp_path / "net.safetensors")]) == 0
    assert len(list((tmp_path / "run" / "answers").iterdir())) == 1


def test_a_trained_network_of_the_zoo_is_evaluated_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--budgets", "[1.0]"]) == 0
    assert "mlp-digits" in capsys.readouterr().out


def test_the_version_tells_the_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--version"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"tapernet {tapernet.__version__}, ")
    assert ("install a C++ compiler" in told) == (native.extension() is None)
    monkeypatch.setattr(native, "extension", lambda: None)
    assert main(["--version"]) == 0
    assert "no kernels: install a C++ compiler, and tapernet again" in capsys.readouterr().out


def test_the_zoo_tells_the_papers_macs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert all(macs in printed for macs in ("89,610", "12,399,306", "13,053,156", "223,117,952", "224,229,632"))


@pytest.mark.parametrize("recipe", [FineTune(), Slimmable(), TESLA()])
def test_a_recipe_that_is_named_has_its_own_defaults(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", type(recipe).__name__, "--print_config"])
    given = yaml.safe_load(capsys.readouterr().out)["recipe"]["init_args"]
    assert given["budgets"] == list(recipe.budgets)
    assert given.get("patience", "none") == getattr(recipe, "patience", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "TELSA"], "unknown recipe 'TELSA' (did you mean 'TESLA'?)"),
        (["train", "--recipe", "TESLA", "--recipe.alhpa", "0.5"], "unknown option of TESLA 'alhpa'"),
        (["train", "--recipe", "TESLA", "--recipe.alpha", "3"], "alpha is a finite number above 0 to 1"),
        (["train", "--recipe", "TESLA", "--recipe.alpha", "x"], "float'>. Got value: x"),
        (["train", "--recipe.alpha", "3"], "needs the recipe's name: --recipe FineTune | IDP |"),
        (["train", "--teacher", "mlp-digit"], "no trained network of that name: mlp-digit"),
        (["train", "--settings.lrr", "3"], "did you mean 'settings.lr'"),
        (["train", "--settings.batch_size", "many"], "settings.batch_size"),
        (["train", "--settings.optimizer", "adm"], "did you mean 'adam'"),
        (["train", "--settings.augment", "[spin]"], "unknown augmentation 'spin'"),
        (["train", "--data", "digitz"], "unknown data set 'digitz'"),
        (["train", "--model.name", "mpl"], "unknown network 'mpl'"),
        (["train", "--model.arguments", "{hiden: [3]}"], "hiden"),
        (["train", "--profile", "linaer"], "unknown profile 'linaer'"),
        (["train", "--output", "/dev/null/net"], "cannot write /dev/null/net"),
        (["train", "--output", "net.json"], "net.json needs another ending"),
        (["train", "--settings.precision", "17"], "precision '17'"),
        (["train", "--model.name", "c10net", "--model.arguments", "{input_shape: [3, 8, 8]}"], "does not run on"),
        (["cascade", "--output", "net.json"], "net.json needs another ending"),
        (["terminate", "--output", "net.json"], "net.json needs another ending"),
        (["bench", "--output", "times.png"], "the result is a .json file, which times.png is not"),
        (["bench", "--output", "times"], "the result is a .json file, which times is not"),
        (["evaluate", "--output", "curve.pgn"], "unknown ending '.pgn' (did you mean '.png'?)"),
        (["evaluate", "--output", "/dev/null/curve.json"], "cannot write"),
        (["cam", "--output", "maps.pgn"], "unknown ending '.pgn'"),
        (["evaluate", "--net", "/"], "is a folder"),
        (["evaluate", "--budgets", "0.5"], "budgets: 0.5 is none of list[float | str], null"),
        (["train", "--recipe", "TESLA", "--settings.lrr", "3"], "profile, recipe, run_dir, settings.augment"),
        (["--vresion"], "unknown option 'vresion'; valid: config, help"),
        (["terminate", "--images", "0"], "images is at least 1, not 0"),
        (["terminate", "--epochs", "-1"], "epochs is at least 0, not -1"),
        (["evaluate", "--net", "no-such"], "no such file"),
        (["evaluate", "--budgets", "[0]"], "a budget lies in (0, 1]"),
        (["evaluate", "--budgets", "[half]"], "half"),
        (["reproduce", "tesla/no_such", "--experiments", "/nowhere"], "no such file"),
        (["reproduce", "mnist_idp", "--experiments", EXPERIMENTS], "in that folder: early_termination/"),
        (["report", "tesla/mnist_idp", "--experiments", EXPERIMENTS], "is no figure, as it has no panels"),
        (["trian"], "invalid choice: 'trian'"),
        ([], "subcommand"),
    ],
    ids=lambda v: " ".join(v[-2:]) if isinstance(v, list) else "",
)
def test_a_mistake_is_named_and_exits_2(
    arguments: list[str], message: str, refused: Callable[[Sequence[str]], str]
) -> None:
    assert message in refused(arguments)


@pytest.mark.parametrize("text", ["settings: {lrr: 3}", "recipe: {class_path: TELSA}", "profil: linear"])
def test_a_misspelt_key_of_a_config_file_is_named(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "train.yaml")]) == 2
    said = capsys.readouterr().err
    assert any(word in said for word in ("'settings.lrr'", "'TELSA'", "'profil'"))


def test_the_network_is_not_written_over(refused: Callable[[Sequence[str]], str], tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes((WEIGHTS / "mlp-digits.safetensors").read_bytes())
    before = (tmp_path / "net.safetensors").read_bytes()
    for command in ("extract", "search", "cascade", "terminate", "evaluate"):
        said = refused([command, "--net", "net.safetensors", "--output", "./net.safetensors"])
        assert "it would be lost" in said
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_results_are_of_code_that_is_committed(
    refused: Callable[[Sequence[str]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("tapernet.commands.reproduce")
    asked: list[object] = []
    monkeypatch.setattr(module, "commit", lambda: "abc-dirty")
    monkeypatch.setattr(module, "run", lambda path, job: asked.append(path))
    command = ["reproduce", "tesla/mnist_idp", "--experiments", EXPERIMENTS, "--results", str(tmp_path)]
    assert "the code differs from commit abc, so that nobody could repeat" in refused(command)
    assert not asked
    assert main([*command, "--dirty", "true"]) == 0
    monkeypatch.setattr(module, "commit", lambda: "abc")
    assert main(command) == 0
    assert len(asked) == 2


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tapernet.cli", *arguments], check=False, stderr=subprocess.PIPE, **options
    )


def test_a_reader_that_has_gone_a_closed_output_and_a_full_one() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    gone = run_command("zoo", stdout=writer)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (1, b"")
    with open("/dev/full", "wb") as full:
        found = run_command("zoo", stdout=full)
    assert found.returncode == 2
    assert found.stderr.strip() == b"tapernet: error: the output cannot be written: no space left on device"
    closed = subprocess.run(f"{sys.executable} -m tapernet.cli zoo >&-", shell=True, check=False, capture_output=True)
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_options_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.yaml").write_bytes("profile: linéar".encode("latin-1"))
    assert main(["train", "--config", str(tmp_path / "train.yaml")]) == 2
    assert "UTF-8" in capsys.readouterr().err.upper().replace("UTF8", "UTF-8")
