"""Sets prepared by Apache Beam: the bytes are those of one process."""

from typing import Any

import pytest

from jfreq.data.prepare.parts import prepare_part
from jfreq.data.prepare.run import prepare
from jfreq.types import InputError

pytest.importorskip("apache_beam", reason="Apache Beam is not installed (make interop)")
from jfreq.data.prepare.beam import prepare_with_beam

SET: dict[str, Any] = {"n": 200, "seconds": 1.5, "progress": False}
"""Three shards."""


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    assert len(prepare("synthetic:tones", out, **SET).shards) == 3
    return content(out)


@pytest.mark.parametrize(
    "options", [(), ("direct_num_workers=2", "direct_running_mode=multi_processing")]
)
def test_beam_gives_the_same_bytes(plain, tmp_path, options):
    prepare_with_beam("synthetic:tones", tmp_path / "out", "DirectRunner", options, **SET)
    assert content(tmp_path / "out") == plain


def test_beam_goes_on_from_what_is_finished(plain, tmp_path):
    out = tmp_path / "out"
    prepare("synthetic:tones", tmp_path / "same", **SET)
    prepare_part("synthetic:tones", out, "2/3", **SET)
    first = (out / ".parts/000001.json").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jfreq.data.prepare.beam.finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare_with_beam("synthetic:tones", out, **SET)
    assert (out / ".parts/000001.json").stat().st_mtime_ns == first
    prepare_with_beam("synthetic:tones", out, **SET)
    assert content(out) == plain


def stopped(*args):
    raise KeyboardInterrupt


def test_what_a_worker_refuses_is_one_line(tmp_path, audio_folder):
    with pytest.raises(InputError, match=r"^a/1.wav: is empty: it has 0 bytes; mend or remove it"):
        prepare_with_beam(audio_folder, tmp_path / "out", progress=False, strict=True)


@pytest.fixture
def audio_folder(tmp_path):
    import numpy as np
    import soundfile

    (tmp_path / "in" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "in/a/0.wav", np.zeros(8000), 16000)
    (tmp_path / "in/a/1.wav").touch()
    return str(tmp_path / "in")


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("DirectRuner", (), r"no runner 'DirectRuner' \(did you mean 'DirectRunner'\?\)"),
        ("DirectRunner", ("direct_num_worker=2",), r"no option 'direct_num_worker' \(did you mean"),
        (
            "DirectRunner",
            ("direct_num_workers=two",),
            r"runner_options: .*invalid int value: 'two'",
        ),
        ("DirectRunner", ("--streaming",), r"write 'streaming', without dashes in front"),
        ("DataflowRunner", (), r"DataflowRunner failed: .*Missing required option: project"),
    ],
)
def test_bad_runners_and_options(tmp_path, runner, options, message):
    with pytest.raises(InputError, match=message):
        prepare_with_beam("synthetic:tones", tmp_path / "out", runner, options, **SET)
