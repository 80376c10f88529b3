import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tapernet import IDP, MPIDP, RTESLA, TESLA, FineTune, ImageData, Recipe, Settings, Slimmable, TaperedNet, fit, taper
from tapernet.errors import ConfigError, DataError, FileError, TrainingError
from tapernet.files import read_tensors, write_tensors
from tapernet.measure.accuracy import accuracies
from tapernet.zoo.mlp import mlp

EXAMPLE = torch.zeros(1, 1, 4, 4)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "recipe",
    [
        IDP(max_epochs=8),
        TESLA(budgets=(1.0, 0.5, 0.1), max_epochs=6),
        RTESLA(budgets=(1.0, 0.5, 0.1), max_epochs=12),
        Slimmable(budgets=(1.0, 0.5, 0.3, 0.1), extra=1, epochs=10),
        FineTune(budgets=(1.0, 0.1), epochs=8),
    ],
    ids=lambda r: type(r).__name__,
)
@pytest.mark.parametrize("profile", ["linear", "trainable"])
def test_every_recipe_learns(recipe: Recipe, profile: str, plain: nn.Module, train: ImageData, val: ImageData) -> None:
    net = taper(plain, EXAMPLE, profile=profile)
    history = fit(net, train, val, recipe, Settings(batch_size=20, lr=3e-3), progress=False)
    assert accuracies(net, val.as_float(), val.labels, [1.0])[0] > 0.8  # a guess is right a third of the time
    assert sum(history.epochs) == len(history.rows)
    assert net.budget == 1.0
    for gamma in net.profiles():
        assert not torch.equal(gamma, torch.ones_like(gamma))
        assert bool((gamma.diff() <= 0).all())


def test_tesla_serves_small_budgets_that_idp_does_not(train: ImageData, val: ImageData) -> None:
    found = []
    for recipe in (IDP(max_epochs=12), TESLA(budgets=(1.0, 0.1), max_epochs=12)):
        torch.manual_seed(0)
        net = taper(mlp((1, 4, 4), 3, (30,)), EXAMPLE, profile="all-one")
        fit(net, train, val, recipe, Settings(batch_size=20, lr=3e-3), progress=False)
        found.append(accuracies(net, val.as_float(), val.labels, [0.1])[0])
    idp, tesla = found
    assert tesla > idp + 0.05


def test_a_plain_network_is_fine_tuned_too(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    fit(plain, train, val, FineTune(epochs=8), Settings(batch_size=20, lr=3e-3), progress=False)
    assert accuracies(plain, val.as_float(), val.labels, [1.0])[0] > 0.8
    with pytest.raises(ConfigError, match="has no dial"):
        fit(plain, train, val, TESLA(), progress=False)


def test_a_small_budget_trains_its_prefix_alone(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    net = taper(plain, EXAMPLE)
    before = weights(net)
    fit(net, train, val, IDP(budget=0.5, max_epochs=2), Settings(batch_size=20), progress=False)
    after = weights(net)
    fc1, fc2 = "model.fc1.weight", "model.fc2.weight"
    assert torch.equal(after[fc1][10:], before[fc1][10:])
    assert torch.equal(after[fc2][6:], before[fc2][6:])
    assert torch.equal(after[fc2][:, 10:], before[fc2][:, 10:])
    assert not torch.equal(after[fc1][:10], before[fc1][:10])
    assert not torch.equal(after[fc2][:6, :10], before[fc2][:6, :10])


def test_mp_idp_freezes_lower_ranges_and_leaves_higher_ones(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    net = taper(plain, EXAMPLE, profile={0.5: "linear", 1.0: "harmonic"})
    middle = "model.fc2.weight"

    class UpToHalf(MPIDP):
        """The first range's stage alone, to see the weights between the two."""

        def stages(self, net: nn.Module, seed: int):  # type: ignore[no-untyped-def]
            yield next(super().stages(net, seed))

    before = weights(net)[middle]
    fit(net, train, val, UpToHalf(max_epochs=2), Settings(batch_size=20), progress=False)
    half = weights(net)[middle]
    assert not torch.equal(half[:6, :10], before[:6, :10])
    assert torch.equal(half[6:], before[6:])
    lower = weights(net)
    with net.at(0.5):
        scores = net(val.as_float())
    torch.manual_seed(0)
    again = taper(plain, EXAMPLE, profile={0.5: "linear", 1.0: "harmonic"})
    fit(again, train, val, MPIDP(max_epochs=2), Settings(batch_size=20), progress=False)
    full = weights(again)
    assert torch.equal(full[middle][:6, :10], lower[middle][:6, :10])
    assert not torch.equal(full[middle][6:], lower[middle][6:])
    with again.at(0.5):  # the second stage left the first range's network as it was
        assert torch.equal(again(val.as_float()), scores)


def test_early_stopping_restores_the_best_weights(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    net = taper(plain, EXAMPLE)
    # Labels without meaning: the accuracy jumps about, and the last epoch is hardly ever the best.
    val = ImageData(val.images, val.labels.roll(1), val.class_names)
    history = fit(net, train, val, IDP(patience=3), Settings(batch_size=20, lr=0.02), progress=False)
    best = max(row["val"] for row in history.rows)
    assert history.rows[-1]["val"] < best
    assert accuracies(net, val.as_float(), val.labels, [1.0])[0] == best
    assert len(history.rows) - 1 - [row["val"] for row in history.rows].index(best) == 3


class Killed(Exception):
    """Stands for whatever ends a process."""


RUNS = {
    "tesla": (TESLA(budgets=(1.0, 0.5, 0.1), patience=2, max_epochs=4), "linear", Settings(batch_size=30)),
    "atp": (RTESLA(budgets=(1.0, 0.1), patience=2, max_epochs=6), "trainable", Settings(batch_size=30)),
    "narrow": (IDP(budget=0.5, max_epochs=5), "linear", Settings(batch_size=30, optimizer="sgd", lr=0.1)),
    "mp-idp": (MPIDP(max_epochs=3), {0.5: "linear", 1.0: "linear"}, Settings(batch_size=30)),
    "sandwich": (
        Slimmable(budgets=(1.0, 0.5, 0.3, 0.1), extra=1, epochs=5),
        "linear",
        Settings(batch_size=30, optimizer="sgd", lr=0.1, schedule="cosine", warmup=1, augment=("shift",)),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_ends_at_the_weights_of_an_unbroken_one(
    name: str, plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, profile, settings = RUNS[name]
    resume_often(plain, profile, train, val, recipe, settings, tmp_path, monkeypatch)


def test_a_run_with_batch_norm_that_was_stopped_ends_at_the_weights_and_statistics_of_an_unbroken_one(
    train: ImageData, val: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12), nn.BatchNorm1d(12)]
    net = nn.Sequential(*layers, nn.ReLU(), nn.Linear(12, 3))
    recipe = TESLA(budgets=(1.0, 0.5, 0.2), patience=2, max_epochs=4)
    ended = resume_often(net, "linear", train, val, recipe, Settings(batch_size=30), tmp_path, monkeypatch)
    with ended.at(0.2), torch.no_grad():  # the statistics are there, and are among what was compared
        assert ended.eval()(val.as_float()).isfinite().all()
    assert any(k.endswith("running_var_20") for k in ended.state_dict())


def resume_often(
    plain: nn.Module, profile: object, train: ImageData, val: ImageData, recipe: Recipe, settings: Settings,
    folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> TaperedNet:  # fmt: skip
    """Trains a network unbroken, and one that is stopped in every third epoch; they must end alike. Returns one."""
    # A process that starts again has other weights, until the checkpoint is read.
    other = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    unbroken, broken = (taper(plain, EXAMPLE, profile=profile) for _ in range(2))  # type: ignore[arg-type]
    whole = fit(unbroken, train, val, recipe, settings, progress=False)

    from tapernet.train import loop

    calls = 0

    def stop_now_and_then(*arguments: object) -> list[float]:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:  # in the middle of an epoch, after its steps and before its checkpoint
            raise Killed
        return accuracies(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "accuracies", stop_now_and_then)
    for _ in range(100):
        try:
            resumed = fit(broken, train, val, recipe, settings, run_dir=folder, progress=False)
            break
        except Killed:
            broken = taper(other, EXAMPLE, profile=profile)  # type: ignore[arg-type]
    assert calls > 3
    assert resumed.rows == whole.rows
    assert resumed.epochs == whole.epochs
    assert_same(weights(broken), weights(unbroken))
    return broken


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from conftest import blobs
from tapernet import RTESLA, Settings, fit, taper, save
from tapernet.zoo.mlp import mlp
torch.manual_seed(0)
torch.set_num_threads(1)
net = taper(mlp((1, 4, 4), 3, (20, 12)), torch.zeros(1, 1, 4, 4))
recipe = RTESLA(budgets=(1.0, 0.5, 0.1), max_epochs=int(sys.argv[3]))
fit(net, blobs(201, 1), blobs(100, 2), recipe, Settings(batch_size=20), run_dir=sys.argv[1], progress=False)
if int(__import__("os").environ.get("RANK", "0")) == 0:
    save(net, sys.argv[1] + "/net.safetensors")
"""


def run_script(folder: Path, epochs: int, *launcher: str) -> list[str]:
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    return [sys.executable, *launcher, str(script), str(folder), str(Path(__file__).parents[1]), str(epochs)]


def test_a_killed_process_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    from tapernet import load

    model = mlp((1, 4, 4), 3, (20, 12))
    subprocess.run(run_script(tmp_path / "unbroken", 40), check=True)
    log = tmp_path / "broken" / "metrics.csv"
    with subprocess.Popen(run_script(tmp_path / "broken", 40)) as process:
        deadline = time.monotonic() + 300
        while not (log.exists() and log.read_text().count("\n") > 5):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "broken" / "net.safetensors").exists()
    subprocess.run(run_script(tmp_path / "broken", 40), check=True)
    nets = [load(tmp_path / name / "net.safetensors", model) for name in ("broken", "unbroken")]
    assert_same(weights(nets[0]), weights(nets[1]))
    assert log.read_text() == (tmp_path / "unbroken" / "metrics.csv").read_text()


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    from tapernet import load

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    subprocess.run(run_script(tmp_path / "one", 6), check=True, env=environment)
    subprocess.run(run_script(tmp_path / "two", 6, *torchrun), check=True, env=environment, capture_output=True)
    model = mlp((1, 4, 4), 3, (20, 12))
    one, two = (weights(load(tmp_path / name / "net.safetensors", model)) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def test_a_finished_run_returns_at_once(
    plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = taper(plain, EXAMPLE)
    first = fit(net, train, val, IDP(max_epochs=2), run_dir=tmp_path, progress=False)
    again = taper(mlp((1, 4, 4), 3, (20, 12)), EXAMPLE)
    monkeypatch.setattr("tapernet.train.loop._Run._epoch", None)
    assert fit(again, train, val, IDP(max_epochs=2), run_dir=tmp_path, progress=False).rows == first.rows
    assert_same(weights(again), weights(net))


def test_a_folder_with_another_run_is_refused(
    plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path
) -> None:
    fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)
    with pytest.raises(ConfigError, match="another folder"):
        fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=2), run_dir=tmp_path, progress=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FileError, match="not a whole safetensors file"):
        fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)


@pytest.mark.parametrize("other", ["images", "profile", "multiple"])
def test_a_folder_with_a_run_on_other_images_or_of_another_dial_is_refused(
    other: str, plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path
) -> None:
    fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)
    net = taper(plain, EXAMPLE, "harmonic" if other == "profile" else "linear")
    if other == "multiple":
        net = taper(plain, EXAMPLE, multiple=4)
    if other == "images":
        train = replace(train, images=train.images.flip(3))
    before = weights(net)
    with pytest.raises(
        ConfigError, match="on other images, with another teacher, or of a network with another profile"
    ):
        fit(net, train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)
    assert_same(weights(net), before)


def test_a_checkpoint_from_before_there_were_digests_is_taken(
    plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path
) -> None:
    first = fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, header = read_tensors(path, kind="training checkpoint", version=1)
    del header["content"]
    write_tensors(path, tensors, header)
    again = fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), run_dir=tmp_path, progress=False)
    assert again.rows == first.rows


def test_a_folder_that_cannot_be_written_is_told_before_the_first_epoch(
    plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    net = taper(plain, EXAMPLE)
    before = weights(net)
    with pytest.raises(FileError, match="cannot write"):
        fit(net, train, val, IDP(max_epochs=1), run_dir=tmp_path / "file" / "run", progress=False)
    assert_same(weights(net), before)


@pytest.mark.parametrize("bad", [TESLA, "TESLA"])
def test_what_is_no_recipe_is_refused(bad: object, plain: nn.Module, train: ImageData, val: ImageData) -> None:
    with pytest.raises(ConfigError, match=r"recipe: one such as TESLA\(\), not .*TESLA"):
        fit(taper(plain, EXAMPLE), train, val, bad, progress=False)  # type: ignore[arg-type]


def test_a_network_learns_from_its_teacher_which_stays_as_it_is(
    plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path
) -> None:
    teacher = copy.deepcopy(plain)
    fit(teacher, train, val, FineTune(epochs=5), Settings(batch_size=20), progress=False)
    before = weights(teacher)
    # Labels without meaning, of which nothing is to be learned: all comes from the teacher.
    drawn = torch.randint(3, (len(train),), generator=torch.Generator().manual_seed(0))
    nonsense = ImageData(train.images, drawn, train.class_names)
    recipe, settings = FineTune(epochs=5, taught=1.0), Settings(batch_size=20)
    history = fit(plain, nonsense, val, recipe, settings, run_dir=tmp_path, progress=False, teacher=teacher)
    assert history.rows[-1]["val"] > 0.7
    assert_same(weights(teacher), before)
    assert fit(plain, nonsense, val, recipe, settings, run_dir=tmp_path, progress=False, teacher=teacher) == history
    with torch.no_grad():
        teacher.get_parameter("fc1.weight")[0] += 0.1
    with pytest.raises(ConfigError, match="another teacher"):
        fit(plain, nonsense, val, recipe, settings, run_dir=tmp_path, progress=False, teacher=teacher)


def test_a_teacher_that_does_not_fit_is_refused(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    recipe, other = FineTune(taught=0.5), copy.deepcopy(plain)
    with pytest.raises(ConfigError, match="there is no teacher"):
        fit(plain, train, val, recipe, progress=False)
    with pytest.raises(ConfigError, match=r"the recipe says 0\.0, and there is a teacher"):
        fit(plain, train, val, FineTune(), progress=False, teacher=other)
    with pytest.raises(ConfigError, match="the teacher is the network itself"):
        fit(plain, train, val, recipe, progress=False, teacher=plain)
    with pytest.raises(
        DataError, match=r"the teacher gives scores of shape \(4,\) for an image, but the data set has 3 classes"
    ):
        fit(plain, train, val, recipe, progress=False, teacher=mlp((1, 4, 4), 4, (20, 12)))


def test_logs_hold_a_row_for_each_epoch(plain: nn.Module, train: ImageData, val: ImageData, tmp_path: Path) -> None:
    import csv

    history = fit(taper(plain, EXAMPLE), train, val, TESLA((1.0, 0.5), max_epochs=2), run_dir=tmp_path, progress=False)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss"]) for r in rows] == [r["loss"] for r in history.rows]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_training_leaves_the_random_state_of_the_caller(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(taper(plain, EXAMPLE), train, val, IDP(max_epochs=1), progress=False)
    assert torch.equal(torch.rand(3), expected)


def wrong_size(data: ImageData) -> ImageData:
    return ImageData(torch.zeros(len(data), 1, 5, 5), data.labels, data.class_names)


def more_classes(data: ImageData) -> ImageData:
    return ImageData(data.images, data.labels, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(wrong_size, r"\(1, 5, 5\), but the network takes \(1, 4, 4\)"), (more_classes, "4 classes")],
)
def test_data_that_does_not_fit_is_refused(
    change: object, message: str, plain: nn.Module, train: ImageData, val: ImageData
) -> None:
    with pytest.raises(DataError, match=message):
        fit(taper(plain, EXAMPLE), change(train), change(val), IDP(), progress=False)  # type: ignore[operator]


class Seen(nn.Module):
    """Notes the sides of the images that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.classify = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)
        self.sides: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.sides.append(x.shape[-1])
        return self.classify(self.pool(self.conv(x)).flatten(1))


def test_images_grow_with_the_epochs(train: ImageData, val: ImageData) -> None:
    net, whole = Seen(), train.shape[-1]
    fit(net, train, val, FineTune(epochs=4), Settings(batch_size=len(train), sides=((1, 3), (2, 4))), progress=False)
    assert net.sides == [3, 4, 4, whole]


def test_images_smaller_than_the_network_takes_are_refused(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    with pytest.raises(ConfigError, match="2 pixels a side"):
        fit(plain, train, val, FineTune(epochs=1), Settings(sides=((1, 2),)), progress=False)


def test_a_loss_that_explodes_stops_the_run(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    net: TaperedNet = taper(plain, EXAMPLE)
    with pytest.raises(TrainingError, match="a lower lr may help"):
        fit(net, train, val, IDP(), Settings(optimizer="sgd", lr=1e30), progress=False)


def test_validation_is_in_the_precision_of_the_training(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    """And the finished network is in full precision again."""
    net, seen = taper(plain, EXAMPLE), []
    net.register_forward_hook(lambda _, __, scores: seen.append((net.training, scores.dtype)))
    history = fit(net, train, val, IDP(max_epochs=8), Settings(precision="bf16-mixed", batch_size=20), progress=False)
    assert (True, torch.bfloat16) in seen
    assert (False, torch.bfloat16) in seen
    (found,) = accuracies(net, val.as_float(), val.labels, [1.0])
    assert history.rows[-1]["val"] == pytest.approx(found, abs=0.1)
    assert seen[-1] == (False, torch.float32)


def test_the_seed_decides_what_is_drawn(plain: nn.Module, train: ImageData, val: ImageData) -> None:
    found = []
    for seed in (0, 0, 1):
        net = taper(copy.deepcopy(plain), EXAMPLE)
        fit(net, train, val, IDP(max_epochs=1), Settings(batch_size=20, seed=seed), progress=False)
        found.append(weights(net))
    assert_same(found[0], found[1])
    assert any(not torch.equal(found[0][k], found[2][k]) for k in found[0])


def test_early_stopping_goes_by_the_objectives_weights(
    plain: nn.Module, train: ImageData, val: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs: the mean of both budgets is better in the first, the accuracy by weights in the second."""
    from tapernet.train import loop

    scripted = iter([[0.5, 0.9], [0.6, 0.1]])
    monkeypatch.setattr(loop, "accuracies", lambda *_: next(scripted))
    net, seen = taper(plain, EXAMPLE), []
    monkeypatch.setattr(loop._Run, "_save", lambda run, *_: seen.append(weights(run.net)))
    recipe = FineTune(budgets=(1.0, 0.5), weights=(0.9, 0.1), epochs=2, patience=2)
    history = fit(net, train, val, recipe, Settings(batch_size=20), progress=False)
    assert [row["val"] for row in history.rows] == pytest.approx([0.54, 0.55])
    assert_same(weights(net), seen[1])


@pytest.mark.parametrize("batch", [200, 70])
def test_a_trainable_profile_takes_its_turn_in_epochs_of_any_length(
    batch: int, plain: nn.Module, train: ImageData, val: ImageData
) -> None:
    """One batch an epoch, or three: weights and profile take alternate batches, from epoch to epoch."""
    net = taper(plain, EXAMPLE, profile="trainable")
    turns: list[str] = []
    steps = torch.optim.Adam.step

    def step(optimizer: torch.optim.Adam, *arguments: object) -> object:
        shapes = {p.dim() for group in optimizer.param_groups for p in group["params"]}
        turns.append("weights" if 2 in shapes else "profile")
        return steps(optimizer, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        fit(net, train, val, FineTune(epochs=3), Settings(batch_size=batch, lr=1e-2), progress=False)
    assert turns == [("weights", "profile")[i % 2] for i in range(3 * -(-200 // batch))]
    assert any(not torch.equal(gamma, torch.ones_like(gamma)) for gamma in net.profiles())


def test_the_same_code_and_seed_give_the_same_weights_in_another_process(tmp_path: Path) -> None:
    """Bit for bit, on one machine; another processor adds floats in another order."""
    for name in ("first", "second"):
        subprocess.run(run_script(tmp_path / name, 6), check=True)
    files = [(tmp_path / name / "net.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


NOISE = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import blobs
from tapernet import FineTune, Settings, fit
from torch import nn

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.drawn, self.fc = [], nn.Linear(16, 3)
    def forward(self, x):
        if self.training:
            self.drawn.append(torch.rand(3).tolist())
        return self.fc(x.flatten(1))

net = Noisy()
fit(net, blobs(40, 1), blobs(20, 2), FineTune(epochs=1), Settings(batch_size=20), progress=False)
Path(sys.argv[2], os.environ["RANK"]).write_text(repr(net.drawn))
"""


def test_processes_draw_different_noise(tmp_path: Path) -> None:
    """Dropout of one mask in every process would be half as much noise."""
    script = tmp_path / "noise.py"
    script.write_text(NOISE)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    subprocess.run(
        [*launcher, str(script), str(Path(__file__).parents[1]), str(tmp_path)], check=True, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    first, second = ((tmp_path / rank).read_text() for rank in "01")  # lines of one output could run into each other
    assert first.startswith("[[")
    assert first != second
