"""Sets prepared by parts: the same bytes as by one process, whatever happens on the way."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from jfreq.data.prepare import journal
from jfreq.data.prepare import plan as plan_module
from jfreq.data.prepare.parts import finish_parts, prepare_part
from jfreq.data.prepare.run import prepare
from jfreq.data.readers import sound
from jfreq.data.shards.reader import open_shards
from jfreq.files import Lock
from jfreq.parts import Part, parse_part
from jfreq.types import InputError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of two rows."""
    monkeypatch.setattr(plan_module, "rows_of_shards", two_rows)


def two_rows(rows, row_bytes):
    return [rows[i : i + 2] for i in range(0, len(rows), 2)]


def content(folder):
    """Every file of a set: its bytes by its name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def plain(audio_set, tmp_path):
    """The set by one process, with a clip that cannot be read."""
    (audio_set[0] / "05.wav").write_bytes(b"RIFF but not really")
    prepare(str(audio_set[0]), tmp_path / "plain", progress=False)
    return tmp_path / "plain"


def part(audio_set, out, which, **options):
    return prepare_part(str(audio_set[0]), out, which, progress=False, **options)


def finish(audio_set, out, **options):
    return finish_parts(str(audio_set[0]), out, progress=False, **options)


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_any_number_of_parts_in_any_order_gives_the_same_bytes(audio_set, plain, tmp_path, count):
    out, rng = tmp_path / "out", np.random.default_rng(count)
    shards = [
        part(audio_set, out, f"{i + 1}/{count}", workers=int(rng.integers(1, 4)))
        for i in rng.permutation(count)
    ]
    assert sum(shards) == 6
    info = finish(audio_set, out)
    assert content(out) == content(plain)
    assert open_shards(out).info == info and info.skipped == 1


def test_recordings_are_not_needed_to_join_parts(audio_set, plain, tmp_path):
    out = tmp_path / "out"
    for i in (1, 2):
        part(audio_set, out, f"{i}/2")
    shutil.rmtree(audio_set[0])
    finish(audio_set, out)
    assert content(out) == content(plain)


def test_strict_refuses_what_parts_have_skipped(audio_set, plain, tmp_path):
    out = tmp_path / "out"
    part(audio_set, out, "1/1")
    for begin, more in ((finish, ()), (part, ("1/1",))):
        with pytest.raises(InputError, match=r"05.wav: .*; mend or remove it, or"):
            begin(audio_set, out, *more, strict=True)
    finish(audio_set, out)
    assert content(out) == content(plain)


def test_parts_of_different_numbers_and_one_process_continue_each_other(audio_set, plain, tmp_path):
    for out in (tmp_path / "a", tmp_path / "b"):
        part(audio_set, out, "1/2")
        part(audio_set, out, "3/3")
    prepare(str(audio_set[0]), tmp_path / "a", progress=False)
    part(audio_set, tmp_path / "b", "2/2")
    finish(audio_set, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(plain)


@pytest.mark.parametrize("total", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("count", [1, 3, 64, 100])
def test_parts_hold_every_shard_once(total, count):
    parts = [Part(i, count).of(total) for i in range(1, count + 1)]
    assert [i for shards in parts for i in shards] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_only_the_first_part_looks_at_all_headers(audio_set, plain, tmp_path, monkeypatch):
    """The others read those of their own rows, and lead to the same bytes."""
    seen, header = [], sound.header
    monkeypatch.setattr(sound, "header", lambda path: seen.append(path.name) or header(path))
    out = tmp_path / "out"
    part(audio_set, out, "1/3")
    assert len(seen) == 12
    seen.clear()
    part(audio_set, out, "3/3")
    assert sorted(seen) == ["08.wav", "09.wav", "10.wav", "11.wav"]
    part(audio_set, out, "2/3")
    finish(audio_set, out)
    assert content(out) == content(plain)


def test_a_finished_part_is_not_written_again(audio_set, tmp_path, monkeypatch):
    out = tmp_path / "out"
    part(audio_set, out, "2/3")
    monkeypatch.setattr(journal, "write", None)
    assert part(audio_set, out, "2/3") == 2


def test_after_the_end_parts_have_nothing_to_do(audio_set, plain, capsys):
    before = content(plain)
    prepare_part(str(audio_set[0]), plain, "3/7")
    assert "is finished already; part 3/7 has nothing to do" in capsys.readouterr().err
    finish(audio_set, plain)
    assert content(plain) == before


def test_missing_parts_are_named(audio_set, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"holds no parts; run the same command with --part 1/N"):
        finish(audio_set, out)
    assert not out.exists()
    part(audio_set, out, "2/4")
    with pytest.raises(
        InputError,
        match=r"3 of 4 parts are not finished: 1/4, 3/4, 4/4; run .* --part 1/4 and so on",
    ):
        finish(audio_set, out)
    part(audio_set, out, "1/4")
    part(audio_set, out, "4/4")
    with pytest.raises(InputError, match=r"1 of 4 parts is not finished: 3/4; run .* --part 3/4 a"):
        finish(audio_set, out)


def test_parts_of_other_commands_are_refused(audio_set, tmp_path, write_index):
    """By their options and by their sources, when they begin and when they are joined."""
    out, other = tmp_path / "out", tmp_path / "other"
    part(audio_set, out, "1/2")
    for begin in (part, finish, prepare_again):
        with pytest.raises(
            InputError, match=r"holds parts of another command \(rate None, not 8000.0\)"
        ):
            begin(audio_set, out, *(("2/2",) if begin is part else ()), rate=8000.0)
    part(audio_set, other, "2/2", rate=8000.0)
    for path in (other / ".parts").glob("00*"):
        path.rename(out / ".parts" / path.name)  # as if two machines' folders were copied together
    with pytest.raises(InputError, match=r"000003.json: belongs to another command"):
        finish(audio_set, out)
    write_index(audio_set[0], [row | {"subject": "x"} for row in audio_set[2]])
    with pytest.raises(InputError, match=r"another command \(other recordings, labels, folds or"):
        part(audio_set, out, "2/2")


def prepare_again(audio_set, out, **options):
    prepare(str(audio_set[0]), out, progress=False, **options)


def test_other_versions_of_libraries_are_refused(audio_set, tmp_path, monkeypatch):
    part(audio_set, tmp_path / "out", "1/2")
    monkeypatch.setattr(plan_module, "_libsndfile", lambda: "0.0.1")
    with pytest.raises(InputError, match=r"another command \(libsndfile .*, not 0.0.1\)"):
        part(audio_set, tmp_path / "out", "2/2")


@pytest.mark.parametrize("suffix", [journal.RECORDS, journal.COLUMNS])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_a_damaged_part_is_named_and_can_be_written_again(audio_set, plain, tmp_path, suffix, how):
    out = tmp_path / "out"
    for i in (1, 2, 3):
        part(audio_set, out, f"{i}/3")
    path = journal.file_of(out / ".parts", 3, suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "bit" else data[:-9])
    if how == "gone":
        path.unlink()
    with pytest.raises(InputError, match=r"1 of 3 parts is (damaged|not finished).*: 2/3; run"):
        finish(audio_set, out)
    part(audio_set, out, "2/3")
    finish(audio_set, out)
    assert content(out) == content(plain)


def test_two_processes_do_not_prepare_the_same_part(audio_set, plain, tmp_path):
    out = tmp_path / "out"
    part(audio_set, out, "1/2")
    held = Lock(out / ".parts" / "part-00002-of-00002.lock", "prepares this part of")
    with pytest.raises(InputError, match=r"process \d+ on .* prepares this part of it now"):
        part(audio_set, out, "2/2")
    held.close()
    running = Lock(out / ".parts" / ".lock", "writes", shared=True)
    part(audio_set, out, "2/2")
    for begin in (finish, prepare_again):
        with pytest.raises(InputError, match=r"writes it now"):
            begin(audio_set, out)
    running.close()
    finish(audio_set, out)
    assert content(out) == content(plain)


@pytest.mark.parametrize("after", ["move", "columns", "metadata"])
def test_a_finish_that_was_stopped_is_done_again(audio_set, plain, tmp_path, monkeypatch, after):
    from jfreq.data.prepare import finish as module

    out = tmp_path / "out"
    for i in (1, 2):
        part(audio_set, out, f"{i}/2")
    owner, name = {
        "move": (module.tables, "write"),
        "columns": (module.tfds_metadata, "write"),
        "metadata": (module.shutil, "rmtree"),
    }[after]

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopped)
        with pytest.raises(KeyboardInterrupt):
            finish(audio_set, out)
    assert (out / "metadata.json").exists() == (after == "metadata")
    if after == "move":
        prepare(str(audio_set[0]), out, progress=False)
    else:
        finish(audio_set, out)
    assert content(out) == content(plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", r"part: '3' is not NUMBER/PARTS, for instance 3/64"),
        ("0/4", r"part: 0/4 does not exist; parts are numbered from 1/4 to 4/4"),
        ("5/4", r"part: 5/4 does not exist"),
        ("1/0", r"part: 1/0 does not exist"),
        ("-1/4", r"is not NUMBER/PARTS"),
        ("1/999999", r"999999 parts are too many"),
    ],
)
def test_parts_that_do_not_exist(text, message):
    with pytest.raises(InputError, match=message):
        parse_part(text)


KILLED = """
import sys, time
from jfreq.data.prepare import journal, plan
from jfreq.data.prepare.parts import prepare_part
write = journal.write
def slow(folder, index, windows, skipped, **kwargs):
    def slowly():
        for window in windows:
            yield window
            print(index, flush=True)
            time.sleep(60 * (index == 1))
    return write(folder, index, slowly(), skipped, **kwargs)
journal.write = slow
plan.rows_of_shards = lambda rows, row_bytes: [rows[i : i + 2] for i in range(0, len(rows), 2)]
prepare_part(sys.argv[1], sys.argv[2], "1/2", workers=1, progress=False)
"""


def test_a_part_that_was_killed_goes_on(audio_set, plain, tmp_path):
    """By SIGKILL in the middle of its second shard; the first is not written again."""
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, str(audio_set[0]), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "1":
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    first = journal.file_of(out / ".parts", 0, journal.FACTS)
    time_of_first = os.stat(first).st_mtime_ns
    with pytest.raises(InputError, match="not finished"):
        finish(audio_set, out)
    part(audio_set, out, "1/2")
    part(audio_set, out, "2/2")
    assert os.stat(first).st_mtime_ns == time_of_first
    finish(audio_set, out)
    assert content(out) == content(plain)


def test_beam_is_named_where_it_is_missing(tmp_path, monkeypatch):
    from jfreq.data.prepare.beam import prepare_with_beam

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"Beam is not installed; pip install 'jfreq\[beam\]'"):
        prepare_with_beam("synthetic:tones", tmp_path / "out", progress=False)
