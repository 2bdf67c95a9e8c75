"""Files: whole or not at all, full disks in one line, paths that are no paths."""

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import files
from jfreq.files import read_json
from jfreq.types import InputError


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (ValueError("INTERNAL: write failed: No space left on device [ENOSPC]"), "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (OSError(errno.EIO, "Input/output error"), "cannot be written .Input/output error"),
    ],
)
def test_disk_errors_name_the_folder(tmp_path, error, match):
    with pytest.raises(InputError, match=match) as found, files.disk_errors(tmp_path):
        raise error
    assert str(tmp_path) in str(found.value)


@pytest.mark.parametrize("error", [ZeroDivisionError(), InputError("x: is wrong"), ValueError("y")])
def test_other_errors_pass_through(tmp_path, error):
    with pytest.raises(type(error)) as found, files.disk_errors(tmp_path):
        raise error
    assert found.value is error


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path):
    path = files.write_atomically(tmp_path / "a" / "x.bin", lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        files.write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert files.sha256_of(path) == hashlib.sha256(b"old").hexdigest()
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    """Only drafts of this machine's dead processes: a living one may still be writing."""
    code = "import os; from jfreq import files; from pathlib import Path\n" \
        f"files.draft_of(Path({str(tmp_path / 'x[1].bin')!r})).write_bytes(b'half')\n" \
        "os.kill(os.getpid(), 9)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    living = tmp_path / f".x[1].bin.{platform.node()}-{os.getppid()}.draft"
    elsewhere = tmp_path / ".x[1].bin.another-host-7.draft"
    for path in (living, elsewhere):
        path.write_bytes(b"half")
    assert len(list(tmp_path.iterdir())) == 3
    path = files.write_atomically(tmp_path / "x[1].bin", lambda file: file.write(b"whole"))
    assert set(tmp_path.iterdir()) == {living, elsewhere, path}


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs", "https", "file", "az+tls", "r2.eu"])
def test_urls_are_no_paths(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (f"{scheme}://bucket/run", Path(f"{scheme}://bucket/run"), f"{scheme}:/bucket"):
        with pytest.raises(InputError, match=r"^workdir: .*bucket.*: is a URL, and a path"):
            files.local_path(path, "workdir")
        with pytest.raises(InputError, match="is a URL"):
            files.write_json(path, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a", "./a:b/c", "/x/gs://y", "c:/x", "tfds:mnist", "."])
def test_names_of_files_are_paths(text):
    assert files.local_path(text, "out") == Path(text)
    assert files.local_path("~/x", "out") == Path.home() / "x"


# ------------------------------------------------------------------ JSON that something damaged


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JSON, Expecting value in line 1"),
        (b"{\n'a': 1}", "no JSON, .* in line 2"),
        (b'{"a": 1} x', "no JSON, Extra data"),
        (b'{"a": "\x00"}', "no JSON, Invalid control character"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[1, 2]", r"no JSON object, but \[1, 2\]"),
        (b"3", "no JSON object, but 3"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": NaN}', "holds NaN, which is no number"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', "holds 'a' twice"),
    ],
)
def test_damaged_json_is_one_line(tmp_path, data, reason):
    path = tmp_path / "note.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as error:
        read_json(path, "a note", advice="write it again")
    text = str(error.value)
    assert text.startswith(f"{path}: is not a note") and text.endswith("; write it again")
    assert "\n" not in text and len(text) < len(str(path)) + 200


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: does not exist"):
        read_json(tmp_path / "none.json", "a note")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path, "a note")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_config_with_anything_in_a_field_is_a_config_or_one_line(data):
    """Any JSON value in the place of any part of a saved experiment."""
    from jfreq.config import Experiment
    from jfreq.config_json import to_dict
    from jfreq.methods import METHODS, experiment_from_dict

    method = data.draw(st.sampled_from(sorted(set(METHODS) - {"Classify"})))
    node = tree = json.loads(json.dumps(to_dict(Experiment("x", METHODS[method]()))))
    while True:
        name = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[name], dict) or data.draw(st.integers(0, 3)) == 0:
            break
        node = node[name]
    node[name] = data.draw(JSON)
    message = ""
    try:
        made = experiment_from_dict(tree, "run/config.json")
        assert experiment_from_dict(json.loads(json.dumps(to_dict(made)))) == made
    except InputError as error:
        message = str(error)
    assert not message or (message.startswith("run/config.json: ") and "\n" not in message)
