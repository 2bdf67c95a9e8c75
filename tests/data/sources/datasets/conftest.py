"""Small trees in the layouts in which the owners of sets of sound publish them.

Each builder fills a folder and returns what has to come out of it, by path:
``(labels, fold, split, subject)``.
"""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

RATE = 8000
_RNG = np.random.default_rng(20)


def wav(path, *, seconds=0.05, **options):
    """Random sound; the folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x = _RNG.integers(-9000, 9000, round(seconds * RATE)).astype(np.int16)
    soundfile.write(path, x, RATE, **options)
    return x


def table(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def esc50(home):
    lines, want = [], {}
    for fold in (1, 2):
        for target, name in ((14, "chirping_birds"), (0, "dog"), (37, "clock_alarm")):
            for take in "AB":
                file = f"{fold}-{fold}00{target}-{take}-{target}.wav"
                wav(home / "audio" / file)
                lines.append(
                    [file, fold, target, name, str(target == 0), f"{fold}00{target}", take]
                )
                want[f"audio/{file}"] = ((name,), fold, "", f"{fold}00{target}")
    head = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    table(home / "meta/esc50.csv", [head, *lines])
    return want


def urbansound8k(home):
    lines, want = [], {}
    for fold in (1, 10):
        for number, name in ((3, "dog_bark"), (0, "air_conditioner")):
            source = f"{fold}{number}5"
            for part in range(2):
                file = f"{source}-{number}-0-{part}.wav"
                wav(home / "audio" / f"fold{fold}" / file)
                lines.append([file, source, 0.0, 0.05, 1, fold, number, name])
                want[f"audio/fold{fold}/{file}"] = ((name,), fold, "", source)
    head = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    table(home / "metadata/UrbanSound8K.csv", [head, *lines])
    return want


def speech_commands(home):
    want = {}
    for word in ("yes", "no"):
        for who, split in (("00a1b2c3", "test"), ("0d4e5f60", "validation"), ("1a2b3c4d", "train")):
            file = f"{word}/{who}_nohash_{len(want) % 2}.wav"
            wav(home / file)
            want[file] = ((word,), -1, split, who)
    for split, name in (("test", "testing_list.txt"), ("validation", "validation_list.txt")):
        listed = [file for file, (_, _, said, _) in want.items() if said == split]
        (home / name).write_text("\n".join(listed) + "\n")
    wav(home / "_background_noise_/pink_noise.wav", seconds=0.5)
    (home / "README.md").write_text("words")
    return want


def fsd50k(home):
    truth = home / "FSD50K.ground_truth"
    table(
        truth / "dev.csv",
        [
            ["fname", "labels", "mids", "split"],
            [64760, "Electric_guitar,Music", "/m/02sgy,/m/04rlf", "train"],
            [16399, "Bark,Animal", "/m/05tny_,/m/0jbk", "val"],
            [16401, "Animal", "/m/0jbk", "train"],
        ],
    )
    table(truth / "eval.csv", [["fname", "labels", "mids"], [37199, "Music", "/m/04rlf"]])
    (truth / "vocabulary.csv").write_text(
        "0,Animal,/m/0jbk\n1,Bark,/m/05tny_\n2,Electric_guitar,/m/02sgy\n3,Music,/m/04rlf\n"
        "4,Zipper_(clothing),/m/01s0vc\n"
    )
    want = {
        "FSD50K.dev_audio/64760.wav": (("Electric_guitar", "Music"), -1, "train", ""),
        "FSD50K.dev_audio/16399.wav": (("Animal", "Bark"), -1, "validation", ""),
        "FSD50K.dev_audio/16401.wav": (("Animal",), -1, "train", ""),
        "FSD50K.eval_audio/37199.wav": (("Music",), -1, "test", ""),
    }
    for file in want:
        wav(home / file)
    return want


NAMINGS = (
    "{}.wav",
    "Y{}.wav",
    "{}_30.wav",
    "{}_30_40.wav",
    "{}_30000_40000.flac",
    "{}_30.000.wav",
    "Y{}_30.000_40.000.wav",
    "{}_30.0_40.0.flac",
    "{}_30.0-40.0.wav",
    "A title [{}].ogg",
)
"""How common downloaders call a clip from 30 s to 40 s."""


def audioset(home):
    (home / "class_labels_indices.csv").parent.mkdir(parents=True, exist_ok=True)
    (home / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
        '2,/t/dd00003,"Music"\n'
    )
    head = "# Segments csv created\n# YTID, start_seconds, end_seconds, positive_labels\n"
    want, train = {}, []
    for i, naming in enumerate(NAMINGS):
        first = ("-", "--", "Y", "_", "Y_-", "a")[i % 6]
        ytid = f"{first}{i:0{10 - len(first)}d}{'-_Y'[i % 3]}"
        file = "balanced_train_segments/" + naming.format(ytid)
        wav(home / file)
        train.append(f'{ytid}, 30.000, 40.000, "/m/05zppz,/m/09x0r"\n')
        names = ("Speech", "Male speech, man speaking")
        want[file] = (names, -1, "balanced_train", ytid)
    (home / "balanced_train_segments.csv").write_text(head + "".join(train))
    (home / "eval_segments.csv").write_text(head + 'zyxwvutsrqp, 0.000, 10.000, "/t/dd00003"\n')
    wav(home / "eval_segments/part00/Yzyxwvutsrqp.wav")
    want["eval_segments/part00/Yzyxwvutsrqp.wav"] = (("Music",), -1, "eval", "zyxwvutsrqp")
    return want


def librispeech(home):
    want = {}
    for subset, who in (("train-clean-100", 19), ("train-clean-100", 26), ("dev-clean", 84)):
        folder, words = f"{subset}/{who}/{who}7", []
        for i in range(2):
            name = f"{who}-{who}7-{i:04d}"
            wav(home / folder / f"{name}.flac")
            words.append(f"{name} SOME WORDS\n")
            want[f"{folder}/{name}.flac"] = ((), -1, subset, str(who))
        (home / folder / f"{who}-{who}7.trans.txt").write_text("".join(words))
    (home / "SPEAKERS.TXT").write_text("; ID |SEX| SUBSET\n19 | F | train-clean-100\n")
    return want


def ravdess(home):
    want = {}
    for actor in ("01", "12"):
        for emotion, name in (("08", "surprised"), ("01", "neutral"), ("06", "fearful")):
            file = f"Actor_{actor}/03-01-{emotion}-01-02-01-{actor}.wav"
            wav(home / file)
            want[file] = ((name,), -1, "", f"actor_{actor}")
    return want


def cremad(home):
    want = {}
    for name, label in (
        ("1001_DFA_ANG_XX", "angry"),
        ("1001_IEO_HAP_LO", "happy"),
        ("1040_ITH_SAD_X", "sad"),
        ("1091_WSI_NEU_XX", "neutral"),
    ):
        wav(home / f"AudioWAV/{name}.wav")
        want[f"AudioWAV/{name}.wav"] = ((label,), -1, "", name[:4])
    (home / "VideoDemographics.csv").write_text("ActorID,Age\n1001,51\n")
    return want


def emodb(home):
    want = {}
    for name, label in (
        ("03a01Fa", "happy"),
        ("03a01Wa", "angry"),
        ("08b09Lb", "bored"),
        ("16a05Ta", "sad"),
        ("16b10Nc", "neutral"),
    ):
        wav(home / f"wav/{name}.wav")
        want[f"wav/{name}.wav"] = ((label,), -1, "", name[:2])
    return want


def gtzan(home):
    want = {}
    for genre in ("rock", "blues"):
        for i in range(2):
            file = f"genres_original/{genre}/{genre}.{i:05d}.wav"
            wav(home / file)
            want[file] = ((genre,), -1, "", "")
        (home / "images_original" / genre).mkdir(parents=True)
        (home / "images_original" / genre / f"{genre}00000.png").write_bytes(b"png")
    (home / "features_30_sec.csv").write_text("filename,length\nblues.00000.wav,661794\n")
    return want


def nsynth(home):
    want = {}
    for folder, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        notes = {}
        for family in ("vocal", "bass"):
            player = f"{family}_acoustic_{len(folder):03d}"
            name = f"{player}-022-050"
            file = f"nsynth-{folder}/audio/{name}.wav"
            wav(home / file)
            notes[name] = {
                "note_str": name,
                "instrument_str": player,
                "instrument_family_str": family,
                "instrument_source_str": "acoustic",
                "pitch": 22,
                "velocity": 50,
            }
            want[file] = ((family,), -1, split, player)
        (home / f"nsynth-{folder}" / "examples.json").write_text(json.dumps(notes))
    return want


SETS = {
    "esc50": esc50,
    "urbansound8k": urbansound8k,
    "speech_commands": speech_commands,
    "fsd50k": fsd50k,
    "audioset": audioset,
    "librispeech": librispeech,
    "ravdess": ravdess,
    "cremad": cremad,
    "emodb": emodb,
    "gtzan": gtzan,
    "nsynth": nsynth,
}
ORDER = {
    "esc50": ("dog", "chirping_birds", "clock_alarm"),
    "urbansound8k": ("air_conditioner", "dog_bark"),
    "speech_commands": ("no", "yes"),
    "fsd50k": ("Animal", "Bark", "Electric_guitar", "Music", "Zipper_(clothing)"),
    "audioset": ("Speech", "Male speech, man speaking", "Music"),
    "librispeech": (),
    "ravdess": ("neutral", "fearful", "surprised"),
    "cremad": ("neutral", "happy", "sad", "angry"),
    "emodb": ("neutral", "happy", "sad", "angry", "bored"),
    "gtzan": ("blues", "rock"),
    "nsynth": ("bass", "vocal"),
}


@pytest.fixture
def sets():
    """``build[kind](folder)``, ``order[kind]``, and ``wav``, ``table`` for what is odd."""
    return SimpleNamespace(build=SETS, order=ORDER, wav=wav, table=table, rate=RATE)
