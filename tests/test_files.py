import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tapernet.errors import ConfigError, FileError
from tapernet.files import (
    check_writable,
    locked,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)

HEADER = {"kind": "thing", "version": 1}


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    tensors = {"prefix": whole[:2, :3], "scalar": torch.tensor(3.0), "ints": torch.arange(3)}
    write_tensors(tmp_path / "a", tensors, HEADER | {"note": "é"})
    found, header = read_tensors(tmp_path / "a", kind="thing", version=1)
    assert header == HEADER | {"note": "é"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_tensors(path, {"w": torch.randn(50)}, HEADER)
    data = path.read_bytes()
    for length in [0, 4, 20, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FileError, match="not a whole safetensors file"):
            read_tensors(path, kind="thing", version=1)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, foreign = tmp_path / "text", tmp_path / "foreign"
    text.write_text("import os; os.system('touch pwned')")
    save_file({"w": torch.zeros(2)}, foreign, metadata={"format": "pt"})
    with pytest.raises(FileError, match="not a whole safetensors file"):
        read_tensors(text, kind="thing", version=1)
    with pytest.raises(FileError, match="not written by tapernet"):
        read_tensors(foreign, kind="thing", version=1)
    with pytest.raises(FileError, match="no such file"):
        read_tensors(tmp_path / "missing", kind="thing", version=1)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileError):
        read_tensors(tmp_path / "bomb", kind="thing", version=1)
    assert not (tmp_path / "pwned").exists()


def test_another_kind_and_a_future_version_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {}, {"kind": "thing", "version": 7})
    with pytest.raises(FileError, match="is a file of kind 'thing', not 'network'"):
        read_tensors(tmp_path / "a", kind="network", version=9)
    with pytest.raises(FileError, match="version 7; this tapernet reads up to 1"):
        read_tensors(tmp_path / "a", kind="thing", version=1)


def test_an_error_while_writing_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full_disk(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match="No space left on device"):
        write_atomically(path, full_disk)
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


WRITER = """
import sys, torch
from tapernet.files import write_tensors
i = 0
while True:
    i += 1
    write_tensors(sys.argv[1], {"w": torch.full((2_000_000,), float(i))}, {"kind": "thing", "version": 1})
    print(i, flush=True)
"""


def test_a_kill_during_a_save_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()  # at least one file is there; now some save or other is under way
        time.sleep(0.02)
        writer.send_signal(signal.SIGKILL)
    tensors, _ = read_tensors(path, kind="thing", version=1)
    assert len(tensors["w"].unique()) == 1


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A place where nothing can be written, for root too: below a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


def test_a_folder_that_cannot_be_written_is_named(read_only: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write .*net"):
        write_json(read_only / "net", {})
    with pytest.raises(FileError, match=r"cannot write .*net"):
        check_writable(read_only / "net")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it is a folder"):
        check_writable(tmp_path)


def test_json_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("{")
    for name in ("a", "missing"):
        with pytest.raises(FileError, match="cannot read"):
            read_json(tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder, not a file"):
        read_tensors(tmp_path, kind="thing", version=1)


def test_an_ending_of_a_file_beside_it_is_refused(tmp_path: Path) -> None:
    check_writable(tmp_path / "net.safetensors", beside=(".json",))
    with pytest.raises(ConfigError, match=r"net.json needs another ending"):
        check_writable(tmp_path / "net.json", beside=(".json",))
    (tmp_path / "net.json").mkdir()
    with pytest.raises(FileError, match=r"net.json: it is a folder"):
        check_writable(tmp_path / "net.safetensors", beside=(".json",))


def test_what_a_killed_process_left_is_removed_by_the_next_write_and_what_is_under_way_stays(tmp_path: Path) -> None:
    left, other = tmp_path / ".a.json.xyz.part", tmp_path / ".b.json.xyz.part"
    left.write_text("half")
    other.write_text("half")

    def write(part: Path) -> None:
        write_json(tmp_path / "a.json", {"by": "another"})  # which must not take this one's part for a dead one's
        assert part.exists()
        part.write_text("1")

    write_atomically(tmp_path / "a.json", write)
    assert read_json(tmp_path / "a.json") == 1
    assert sorted(os.listdir(tmp_path)) == [".b.json.xyz.part", "a.json"]


def test_a_part_that_is_taken_for_a_dead_ones_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock another process may remove it."""
    make, made = tempfile.mkstemp, []

    def removed_once(**arguments: Any) -> tuple[int, str]:
        handle, name = make(**arguments)
        if not made:
            os.unlink(name)
        made.append(name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", removed_once)
    write_json(tmp_path / "a.json", {"whole": True})
    assert len(made) == 2
    assert read_json(tmp_path / "a.json") == {"whole": True}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "read-only", "nul", "long", ".", "/"])
def test_places_that_hold_no_file_to_replace_are_refused(kind: str, tmp_path: Path) -> None:
    path: Path | str = tmp_path / "out"
    if kind == "folder":
        (tmp_path / "out").mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "read-only":
        (tmp_path / "out").write_text("kept")
        (tmp_path / "out").chmod(0o444)
    else:
        path = {"device": "/dev/null", "nul": "a\0b", "long": str(tmp_path / ("x" * 300))}.get(kind, kind)
    for call in (lambda: check_writable(path), lambda: write_json(path, {})):
        with pytest.raises(FileError, match="cannot write"):
            call()
    assert not list(tmp_path.glob(".*"))
    if kind == "read-only":
        assert Path(path).read_text() == "kept"


def test_links_are_followed_and_modes_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    real.chmod(0o640)
    link.symlink_to(real)
    write_json(link, {"new": 1})
    assert link.is_symlink()
    assert read_json(real) == {"new": 1}
    assert real.stat().st_mode & 0o777 == 0o640


def test_an_input_is_no_output(tmp_path: Path) -> None:
    net, link = tmp_path / "net.json", tmp_path / "link.json"
    write_json(net, {})
    link.symlink_to(net)
    for output in (net, link, tmp_path / "." / "net.json", tmp_path / "net.safetensors"):
        with pytest.raises(ConfigError, match="it would be lost"):
            check_writable(output, beside=() if output.suffix == ".json" else (".json",), inputs=(net,))
    check_writable(tmp_path / "other", inputs=(net, "mlp-digits"))


KILLED = """
import os, signal, sys
from pathlib import Path
from tapernet.files import locked
with locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another run works in"), locked(tmp_path):
        pass
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    with locked(tmp_path):  # of a process that was killed nothing is left
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_refused_or_the_same(data: st.DataObject, tmp_path: Path) -> None:
    path, tensors = tmp_path / "a", {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor([1, 2])}
    write_tensors(path, tensors, HEADER | {"note": "é", "list": [1.5, None]})
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        found, header = read_tensors(path, kind="thing", version=1)
    except FileError:
        return
    assert {key: header[key] for key in HEADER} == HEADER
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"kind": "thing", "version": Infinity}', '{"kind": "thing", "version": ' + "9" * 5000 + "}", "[]",
     '{"kind": "thing", "version": 1.0}', '{"kind": "thing"}', "null"],
)  # fmt: skip
def test_headers_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "a", metadata={"tapernet": text})
    with pytest.raises(FileError, match="not written by tapernet"):
        read_tensors(tmp_path / "a", kind="thing", version=1)
    (tmp_path / "b").write_text("[" * 100_000)
    with pytest.raises(FileError, match="cannot read"):
        read_json(tmp_path / "b")
