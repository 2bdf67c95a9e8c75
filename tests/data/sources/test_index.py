"""``index.csv``: columns in any spelling, cells as people write them, contradictions by line."""

import unicodedata

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jfreq.data.options import Options
from jfreq.data.sources.kinds import open_source
from jfreq.types import InputError

RATE = 8000


@pytest.fixture
def folder(tmp_path):
    """Two seconds of sound each, and a text to put beside them."""
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.arange(2 * RATE) / (2 * RATE), RATE)
    return tmp_path


@pytest.fixture
def opened(folder):
    def call(text, encoding="utf-8", **options):
        (folder / "index.csv").write_bytes(text.encode(encoding))
        return open_source(str(folder), kind="auto", options=Options(**options))

    return call


def places(source):
    """Path, class names, fold, split, subject, start and end of every row."""
    return [
        (r.path, *(source.labels[i] for i in r.label), r.fold, r.split, r.subject, r.start, r.end)
        for r in source.rows
    ]


WANTED = [("a.wav", "dog", 1, "train", "s1", 0, None), ("b.wav", "cat", 2, "test", "s2", 100, 4000)]
HEADER = ("path", "label", "fold", "split", "subject", "start", "end")
CELLS = [("a.wav", "dog", "1", "train", "s1", "", ""), ("b.wav", "cat", "2", "test", "s2", "100", "4000")]  # noqa: E501  # fmt: skip


def spaced(words):
    blank = st.sampled_from(["", " ", "  ", "\t"])
    return st.tuples(*(st.tuples(blank, st.just(w), blank).map("".join) for w in words))


def cased(word):
    return st.sampled_from([word, word.upper(), word.capitalize()])


@given(st.data())
@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_the_same_table_in_any_dress(opened, data):
    """Order and case of columns, blanks, separators, line ends, quotes, a byte order mark."""
    order = data.draw(st.permutations(range(len(HEADER))))
    separator = data.draw(st.sampled_from(",;|\t"))
    lines = [[data.draw(cased(HEADER[i])) for i in order]]
    numbers = st.sampled_from(["{}", "{}.0"]) if data.draw(st.booleans()) else st.just("{}")
    for cells in CELLS:
        lines.append([data.draw(numbers).format(cells[i]) if cells[i].isdigit() else cells[i]
                      for i in order])  # fmt: skip
    if separator != "\t":
        lines = [data.draw(spaced(line)) for line in lines]
    if data.draw(st.booleans()):
        lines = [[f'"{cell}"' for cell in line] for line in lines]
    text = data.draw(st.sampled_from(["\n", "\r\n"])).join(separator.join(line) for line in lines)
    mark = data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    assert places(opened(text + data.draw(st.sampled_from(["", "\n", "\n\n"])), mark)) == WANTED


@pytest.mark.parametrize(
    ("text", "wanted", "notes"),
    [
        ("filename,category\na.wav,dog\n", [("a.wav", "dog")],
         ["'filename' is read as 'path'", "'category' is read as 'label'"]),
        ("filename,fold,target,category,esc10,take\na.wav,1,3,dog,True,A\nb.wav,2,1,cat,True,A\n",
         [("a.wav", "dog", 1), ("b.wav", "cat", 2)], ["columns 'esc10', 'take' not read"]),
        ("file,target\na.wav,dog\nb.wav,cat\n", [("a.wav", "dog"), ("b.wav", "cat")],
         ["'target' is read as 'label'"]),
        ("path,label_id\na.wav,10\nb.wav,2.0\n", [("a.wav", "10"), ("b.wav", "2")], []),
        ("path,label\na.wav,dog\na.wav,dog\nb.wav,\n", [("a.wav", "dog"), ("b.wav",)],
         ["1 line repeats another one"]),
        ("path,split\na.wav,Training\nb.wav,dev\nsub\\c.wav,testing\n",
         [("a.wav", "train"), ("b.wav", "validation"), ("sub/c.wav", "test")],
         ["Training is read as train, dev is read as validation, testing is read as test",
          r"in 1 paths \ is read as /"]),
        ("path,split\na.wav,balanced_train\nb.wav,eval\n",
         [("a.wav", "balanced_train"), ("b.wav", "eval")], []),
        ("path,split\na.wav,dev\nb.wav,val\n", [("a.wav", "dev"), ("b.wav", "val")], []),
        ("path;start_seconds;end_seconds\na.wav;0,5;1\nb.wav;1.25;2.05\n",
         [("a.wav", 4000, 8000), ("b.wav", 10_000, 16_000)], []),
        ("path,onset,offset\na.wav,0.5,1\n", [("a.wav", 4000, 8000)], []),
    ],
)  # fmt: skip
def test_what_columns_and_cells_mean(opened, text, wanted, notes):
    source = opened(text)
    told = [tuple(v for v in place if v not in (-1, "", None, 0)) for place in places(source)]
    assert told == wanted
    for note in notes:
        assert any(note in line for line in source.notes), source.notes
    assert bool(source.notes) == bool(notes) or "onset" in text


def test_classes_are_numbered_by_label_id_and_else_in_natural_order(opened):
    text = "path,label,label_id\na.wav,dog,1\nb.wav,cat,7\nsub/c.wav,ape,0\n"
    assert opened(text).labels == ("ape", "dog", "cat")
    assert opened("path,label\na.wav,c10\nb.wav,c9\nsub/c.wav,c2\n").labels == ("c2", "c9", "c10")
    assert opened("path,label_id\na.wav,1\nb.wav,0\n", labels=("no", "yes")).labels == ("no", "yes")


def test_several_labels(opened):
    source = opened('path,labels\na.wav,"dog,cat"\nb.wav,\nsub/c.wav,"cat , ape"\n')
    assert source.multi_label and source.labels == ("ape", "cat", "dog")
    assert [r.label for r in source.rows] == [(1, 2), (), (0, 1)]
    source = opened('path,labels\na.wav,"Male speech, man speaking; dog"\na.wav,cat\n')
    assert source.labels == ("Male speech, man speaking", "cat", "dog")
    assert [r.label for r in source.rows] == [(0, 1, 2)]
    assert any("were put together" in note for note in source.notes)
    source = opened('path,labels\na.wav,"dog,cat"\nb.wav,dog\n', drop_labels=("dog",))
    assert [r.label for r in source.rows] == [(0,)]
    with pytest.raises(InputError, match=r"'dgo' matches no class .did you mean 'dog'.*cat, dog"):
        opened('path,labels\na.wav,"dog,cat"\nb.wav,dog\n', drop_labels=("dgo",))


def test_classes_by_number_are_dropped_by_their_names(opened):
    text = "path,label_id\na.wav,0\nb.wav,10\nsub/c.wav,2\n"
    source = opened(text, drop_labels=("2",))
    assert source.labels == ("0", "10") and source.dropped == {"2"}
    assert [r.label for r in source.rows] == [(0,), (1,)]
    source = opened(text.replace("10", "1"), labels=("dog", "cat", "ape"), drop_labels=("c*",))
    assert source.labels == ("dog", "cat", "ape") and source.dropped == {"cat"}
    assert [(r.path, r.label) for r in source.rows] == [("a.wav", (0,)), ("sub/c.wav", (2,))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paths,label\na.wav,dog\n", r"index.csv: has no column 'path' \(did you mean 'paths'\?\)"),
        ("path,lable\na.wav,dog\n", r"column 'lable' is not known \(did you mean 'label'\?\)"),
        ("path,label,Label\na.wav,dog,cat\n", "has two columns 'label'"),
        ("path,class,category\na.wav,dog,cat\n", "'class' and 'category' may both be the label"),
        ("path,label,labels\na.wav,dog,cat\n", "has columns 'label' and 'labels'"),
        ("path,label\n", "names no recordings"),
        ("", "is empty"),
        ("path,label\n,dog\n", "index.csv:2: names no path"),
        ("path,label\na.wav,dog,3\n", "index.csv:2: has 3 cells, the first line names 2"),
        ('path,label\na.wav,"dog\nb.wav,cat\n', "index.csv:3: .* is a quote not closed"),
        ("path,fold\na.wav,1\nb.wav,1.5\n", "index.csv:3 fold: expected a whole number, got '1.5'"),
        ("path,fold\na.wav,one\n", "index.csv:2 fold: expected a number, got 'one'"),
        ("path,fold\na.wav,1e99\n", "index.csv:2 fold: 1e99 is too large"),
        ("path,start\na.wav,-1\n", "index.csv:2 start: must be 0 or more, got -1"),
        ("path,start,end\na.wav,9,5\n", "index.csv:2: ends at 5, which is not after its start"),
        ("path,start,end\na.wav,0,1\n", r"samples 0\.\.1 are too few; start and end count samples"),
        ("path,start,end\na.wav,0,79\n", r"samples 0\.\.79 are too few"),
        ("path,end_seconds,start_seconds\na.wav,1,2\n", "ends at 1.0 s, which is not after"),
        ("path,start_seconds\na.wav,-2\n", "start_seconds: must be 0 or more"),
        ("path,end,end_seconds\na.wav,900,1\n", "states its span in samples and in seconds"),
        ("path,sr\na.wav,0\n", "index.csv:2 sr: must be positive"),
        ("path,label\na.wav,dog\na.wav,cat\n", "index.csv:3: a.wav is 'cat' here and 'dog' in l"),
        ("path,fold\na.wav,1\na.wav,2\n", "index.csv:3: a.wav has fold 2 here and 1 in line 2"),
        ("path,split\na.wav,x\na.wav,y\n", "a.wav has split 'y' here and 'x' in line 2"),
        ("path,label,label_id\na.wav,dog,1\nb.wav,cat,1\n", "but 'dog' has 1 in an earlier line"),
        ("path,label,label_id\na.wav,dog,1\nb.wav,dog,2\n", "but 'dog' has 1 in an earlier line"),
        ("path\na.wav\nx.npz\n", "index.csv:3: x.npz is a file of arrays, line 2 names one of sou"),
        ("path\na.txt\n", "index.csv:2: a.txt is neither sound"),
    ],
)  # fmt: skip
def test_broken_indexes_name_file_and_line(opened, text, message):
    with pytest.raises(InputError, match=message):
        opened(text)


def test_label_ids_beyond_the_given_names(opened):
    with pytest.raises(InputError, match=r"index.csv:3: label_id 2 is not one of the 2 labels"):
        opened("path,label_id\na.wav,1\nb.wav,2\n", labels=("no", "yes"))


def test_accents_are_found_however_they_are_written(folder, opened):
    """Macs take letters and accents apart in what they write into archives and tables."""
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.wav"
    apart = unicodedata.normalize("NFD", name)
    (folder / "a.wav").rename(folder / name)
    (folder / "b.wav").rename(folder / f"2{apart}")
    source = opened(f"path,label\n{apart},{apart}\n2{name},{name}\n")
    assert [r.path for r in source.rows] == [name, f"2{apart}"]
    assert source.labels == (name,)
    assert all(len(source.read(row)["audio"].x) == 2 * RATE for row in source.rows)


def test_paths_may_lead_anywhere_and_what_is_not_there_is_named(folder, opened, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (folder / "a.wav").rename(other / "a.wav")
    (folder / "c").mkdir()
    up = f"{'../' * len(folder.parts)}{other}/a.wav".replace("//", "/")
    source = opened(f"path\n{other}/a.wav\n{up}\nnone.wav\nc\\none.wav\n")
    assert [len(source.read(row)["audio"].x) for row in source.rows[:2]] == [2 * RATE] * 2
    for row in source.rows[2:]:
        with pytest.raises(InputError, match="is not on disk"):
            source.read(row)


def test_times_of_arrays_need_a_rate(folder, opened):
    np.savez(folder / "x.npz", x=np.arange(300.0).reshape(100, 3), sr=50)
    np.save(folder / "y.npy", np.zeros((100, 3)))
    source = opened("path,start_seconds,end_seconds\nx.npz,0.5,1\n")
    np.testing.assert_array_equal(next(iter(source.read(source.rows[0]).values())).x[:, 0],
                                  np.arange(75, 150, 3))  # fmt: skip
    with pytest.raises(InputError, match=r"index.csv:2: nothing states the rate of y.npy"):
        opened("path,start_seconds,end_seconds\ny.npy,0.5,1\n")
    assert opened("path,start_seconds,sr\ny.npy,0.5,10\n").rows[0].start == 5


def test_unlabelled_stretches_between_times(opened):
    source = opened("path,label,start_seconds,end_seconds\na.wav,dog,0.5,1\n", unlabelled=True)
    assert [(r.start, r.end) for r in source.rest] == [(0, 4000), (8000, 16_000)]


def test_an_index_may_be_called_in_capitals(folder):
    (folder / "INDEX.CSV").write_text("Path,Label\na.wav,dog\n")
    assert len(open_source(str(folder), kind="auto", options=Options()).rows) == 1
    source = open_source(str(folder / "INDEX.CSV"), kind="auto", options=Options())
    assert source.labels == ("dog",)
