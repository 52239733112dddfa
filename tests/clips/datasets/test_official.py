"""Official files of data sets, in small, and the real ones where they are at hand."""

import json
from collections import Counter
from pathlib import Path

import pytest

from marey.clips.datasets import Listing, find_listing
from marey.clips.table import open_table
from marey.errors import ClipError
from submitting import run_script
from videos import shared_folder, write_video

SHARED = shared_folder()
needs_annotations = pytest.mark.skipif(SHARED is None, reason="no folder of reference annotations")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def told(listing: Listing) -> list[tuple[str, int | None, str | None, str | None]]:
    return [(one.source_id, one.label, one.label_name, one.split) for one in listing.sources]


KINETICS = {
    "k400_val.csv": (
        "label,youtube_id,time_start,time_end,split,is_cc\nabseiling,_4YTwq0-73Y,44,54,val,0\n"
        '"air drumming",_axE99QAhe8,26,36,val,0\nzumba,gone,1,11,val,0\n'
    ),
    "k600_train.csv": (
        "label,youtube_id,time_start,time_end,split\nabseiling,_4YTwq0-73Y,44,54,train\nzumba,new,0,10,train\n"
    ),
    "k600_test.csv": "youtube_id,time_start,time_end,split\nheld,5,15,test\n",
}
SOMETHING = {
    "something-something-v2-labels.json": '{"Pushing something": "1", "Holding something next to something": "0"}',
    "something-something-v2-train.json": json.dumps([{"id": "7", "template": "Pushing [something]"}]),
    "something-something-v2-validation.json": json.dumps(
        [{"id": "9", "template": "Holding [something] next to [something]", "label": "holding a cup"}]
    ),
    "something-something-v2-test.json": '[{"id": "11"}]',
}
JESTER = {
    "jester-v1-labels.csv": "Swiping Left\nDrumming Fingers\n",
    "jester-v1-train.csv": "34870;Drumming Fingers\n",
    "jester-v1-validation.csv": "9;Swiping Left\n",
    "jester-v1-test.csv": "12\n",
}
HMDB51 = {
    "splits/clap_test_split1.txt": "#20_Rhythm_clap_u.avi 1 \nb!('_clap.avi 2 \nunused_clap.avi 0 \n",
    "splits/clap_test_split2.txt": "#20_Rhythm_clap_u.avi 2 \nb!('_clap.avi 1 \n",
    "splits/brush_hair_test_split1.txt": "a_brush.avi 2 \n",
    "splits/brush_hair_test_split2.txt": "a_brush.avi 1 \n",
}
UCF101 = {
    "lists/classInd.txt": "1 Apply\r\n2 Bench\r\n",
    "lists/trainlist01.txt": "Bench/v_Bench_g08_c01.avi 2\r\n",
    "lists/testlist01.txt": "Apply/v_Apply_g01_c01.avi\r\n",
    "lists/trainlist03.txt": "Apply/v_Apply_g01_c01.avi 1\r\n",
    "lists/testlist03.txt": "Bench/v_Bench_g08_c01.avi\r\n",
}
MOMENTS = {
    "moments_categories.txt": "praying,1\nclapping,0\n",
    "trainingSet.csv": "clapping/flickr-0-0-1.mp4,clapping,5,0\n",
    "validationSet.csv": '"praying/a, b.mp4",praying,3,1\n',
}
DIVING = {
    "Diving48_vocab.json": '[["Back", "15som"], ["Forward", "25som"]]',
    "Diving48_V2_train.json": '[{"vid_name": "x_00044", "label": 1, "start_frame": 0, "end_frame": 92}]',
    "Diving48_V2_test.json": '[{"vid_name": "y_00001", "label": 0, "start_frame": 0, "end_frame": 70}]',
}


def test_kinetics_lists_find_their_files(tmp_path: Path) -> None:
    found = ("abseiling/_4YTwq0-73Y_000044_000054.mp4", "val/air_drumming/_axE99QAhe8.mkv")
    write(tmp_path, {**KINETICS, **dict.fromkeys(found, "video")})
    first, second, third = find_listing(tmp_path / "k400_val.csv").sources
    assert [first.uri, second.uri] == [str(tmp_path / name) for name in found]
    assert third.uri == str(tmp_path / "gone_000001_000011.mp4")
    assert (third.source_id, third.label, third.label_name, third.split) == (
        "gone_000001_000011", 2, "zumba", "validation",
    )  # fmt: skip


def test_a_clip_of_several_kinetics_lists_comes_once_and_is_not_trained_on_if_one_tests_it(tmp_path: Path) -> None:
    write(tmp_path / "lists", KINETICS)
    (tmp_path / "map.txt").write_text("zumba\nabseiling\nair drumming\n")
    found = find_listing(tmp_path / "lists", tmp_path, classes=tmp_path / "map.txt")
    assert sorted(told(found), key=str) == [
        ("_4YTwq0-73Y_000044_000054", 1, "abseiling", "validation"),
        ("_axE99QAhe8_000026_000036", 2, "air drumming", "validation"),
        ("gone_000001_000011", 0, "zumba", "validation"),
        ("held_000005_000015", None, None, "test"),
        ("new_000000_000010", 0, "zumba", "train"),
    ]


def test_something_something(tmp_path: Path) -> None:
    write(tmp_path, SOMETHING | {"videos/9.webm": "video"})
    found = find_listing(tmp_path)
    assert found.classes == ("Holding something next to something", "Pushing something")
    assert told(found) == [
        ("7", 1, "Pushing something", "train"),
        ("9", 0, "Holding something next to something", "validation"),
        ("11", None, None, "test"),
    ]
    assert [one.uri for one in found.sources] == [
        str(tmp_path / name) for name in ("7.webm", "videos/9.webm", "11.webm")
    ]
    alone = find_listing(tmp_path / "something-something-v2-train.json")
    assert told(alone) == told(found)[:1]
    assert alone.classes == found.classes


def test_jester(tmp_path: Path) -> None:
    found = find_listing(write(tmp_path, JESTER))
    assert found.classes == ("Swiping Left", "Drumming Fingers")
    assert sorted(told(found), key=str) == [
        ("12", None, None, "test"),
        ("34870", 1, "Drumming Fingers", "train"),
        ("9", 0, "Swiping Left", "validation"),
    ]
    assert told(find_listing(tmp_path / "jester-v1-train.csv")) == [("34870", 1, "Drumming Fingers", "train")]


def test_hmdb51_takes_one_of_its_splits_and_odd_names(tmp_path: Path) -> None:
    write(tmp_path, HMDB51 | {"clap/b!('_clap.avi": "video"})
    first = find_listing(tmp_path / "splits")
    assert first.classes == ("brush_hair", "clap")
    assert told(first) == [
        ("brush_hair/a_brush.avi", 0, "brush_hair", "test"),
        ("clap/#20_Rhythm_clap_u.avi", 1, "clap", "train"),
        ("clap/b!('_clap.avi", 1, "clap", "test"),
    ]
    assert first.sources[2].uri == str(tmp_path / "clap/b!('_clap.avi")
    assert [one.split for one in find_listing(tmp_path / "splits", fold=2).sources] == ["train", "test", "train"]


def test_ucf101_takes_one_of_its_splits_or_one_list(tmp_path: Path) -> None:
    write(tmp_path, UCF101 | {"UCF-101/Bench/v_Bench_g08_c01.avi": "video"})
    found = find_listing(tmp_path / "lists")
    assert found.classes == ("Apply", "Bench")
    assert told(found) == [
        ("Bench/v_Bench_g08_c01.avi", 1, "Bench", "train"),
        ("Apply/v_Apply_g01_c01.avi", 0, "Apply", "test"),
    ]
    assert found.sources[0].uri == str(tmp_path / "UCF-101/Bench/v_Bench_g08_c01.avi")
    assert [one.split for one in find_listing(tmp_path / "lists", fold=3).sources] == ["train", "test"]
    assert told(find_listing(tmp_path / "lists/testlist01.txt")) == told(found)[1:]


def test_moments_in_time(tmp_path: Path) -> None:
    found = find_listing(write(tmp_path, MOMENTS))
    assert found.classes == ("clapping", "praying")
    assert told(found) == [
        ("training/clapping/flickr-0-0-1.mp4", 0, "clapping", "train"),
        ("validation/praying/a, b.mp4", 1, "praying", "validation"),
    ]
    assert found.sources[0].uri == str(tmp_path / "training/clapping/flickr-0-0-1.mp4")


def test_diving48(tmp_path: Path) -> None:
    found = find_listing(write(tmp_path, DIVING | {"rgb/x_00044.mp4": "video"}))
    assert found.classes == ("Back+15som", "Forward+25som")
    assert sorted(told(found)) == [("x_00044", 1, "Forward+25som", "train"), ("y_00001", 0, "Back+15som", "test")]
    assert str(tmp_path / "rgb/x_00044.mp4") in {one.uri for one in found.sources}


WRONG = {
    "kinetics, times": (KINETICS, "k400_val.csv", "54,val", "x,val", r"k400_val\.csv, line 2: no times; expected sec"),
    "kinetics, fields": (KINETICS, "k400_val.csv", ",44,54", ",44", r"k400_val\.csv, line 2: 5 fields; expected 6"),
    "kinetics, id": (KINETICS, "k400_val.csv", "_4YTwq0-73Y", "", r"line 2: no youtube_id"),
    "something, template": (
        SOMETHING, "something-something-v2-train.json", "Pushing", "Pusing",
        r"train\.json, entry 1: template 'Pusing something' is not in the labels; did you mean 'Pushing something'",
    ),
    "something, id": (SOMETHING, "something-something-v2-test.json", "11", "", r"test\.json, entry 1: no id"),
    "something, JSON": (SOMETHING, "something-something-v2-test.json", "]", "", r"line 1: .*; expected JSON"),
    "something, kind": (SOMETHING, "something-something-v2-labels.json", "{", "[", r"labels\.json, line 1"),
    "something, numbers": (SOMETHING, "something-something-v2-labels.json", '"1"', '"3"', r"are not 0 to 1"),
    "jester, class": (
        JESTER, "jester-v1-train.csv", "Drumming", "Druming",
        r"train\.csv, line 1: class 'Druming Fingers'; expected .*; did you mean 'Drumming Fingers'",
    ),
    "jester, fields": (JESTER, "jester-v1-train.csv", "34870", ";", r"train\.csv, line 1: 3 fields"),
    "hmdb51, mark": (HMDB51, "splits/clap_test_split1.txt", "avi 2", "avi 7", r"split1\.txt, line 2: .* 7.; expected"),
    "ucf101, index": (UCF101, "lists/classInd.txt", "2 Bench", "3 Bench", r"line 2: '3 Bench'; expected `2 ClassName`"),
    "ucf101, class": (
        UCF101, "lists/trainlist01.txt", "Bench/", "Bensh/",
        r"trainlist01\.txt, line 1: class 'Bensh'; expected one of classInd\.txt; did you mean 'Bench'",
    ),
    "moments, class": (MOMENTS, "trainingSet.csv", ",clapping,", ",claping,", r"line 1: class 'claping'; expected"),
    "moments, numbers": (MOMENTS, "moments_categories.txt", ",1", ",x", r"line 1: praying,x; expected class,number"),
    "diving, label": (DIVING, "Diving48_V2_train.json", "1,", "7,", r"entry 1: label 7; .* has classes 0 to 1"),
    "diving, uncut": (DIVING, "Diving48_V2_train.json", 'frame": 0', 'frame": 9', r"entry 1: start_frame 9"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_line_is_told_with_what_was_expected(tmp_path: Path, mistake: str) -> None:
    files, name, right, wrong, message = WRONG[mistake]
    assert right in files[name]
    write(tmp_path, files | {name: files[name].replace(right, wrong, 1)})
    with pytest.raises(ClipError, match=message):
        find_listing(tmp_path / Path(name).parent)


def test_a_split_that_is_not_there_and_a_single_file_of_hmdb51_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HMDB51 | UCF101)
    with pytest.raises(ClipError, match="no files of split 3 for brush_hair, clap"):
        find_listing(tmp_path / "splits", fold=3)
    with pytest.raises(ClipError, match=r"has no trainlist02\.txt and no testlist02\.txt"):
        find_listing(tmp_path / "lists", fold=2)
    with pytest.raises(ClipError, match="give the folder that holds them all"):
        find_listing(tmp_path / "splits/clap_test_split1.txt")


def test_a_table_keeps_the_whole_label_map(tmp_path: Path) -> None:
    write(tmp_path, UCF101 | {"lists/classInd.txt": "1 Apply\n2 Bench\n3 Climb\n"})
    for name in ("Bench/v_Bench_g08_c01.avi", "Apply/v_Apply_g01_c01.avi"):
        write_video(tmp_path / "UCF-101" / name, 12, codec="mpeg4")
    words = [f"videos={tmp_path}/lists", f"table={tmp_path}/table", "workers=0", "fold=3"]
    ended = run_script("jobs/prepare_clips.py", *words)
    assert ended.returncode == 0, ended.stderr
    table = open_table(tmp_path / "table")
    assert table.class_names() == ["Apply", "Bench", "Climb"]
    assert list(zip(table.column("label"), table.column("split"), strict=True)) == [(0, "train"), (1, "test")]


@needs_annotations
@pytest.mark.parametrize("fold", [1, 2, 3])
def test_real_hmdb51_and_ucf101(fold: int) -> None:
    assert SHARED is not None
    hmdb = find_listing(SHARED / "annotations/hmdb51/testTrainMulti_7030_splits", fold=fold)
    assert Counter(one.split for one in hmdb.sources) == {"train": 3570, "test": 1530}
    assert set(Counter((one.label, one.split) for one in hmdb.sources).values()) == {70, 30}
    names = (SHARED / "annotations/label_maps/hmdb51__label_map.txt").read_text().split()
    assert list(hmdb.classes) == names
    ucf = find_listing(SHARED / "annotations/ucf101/ucfTrainTestlist", fold=fold)
    assert Counter(one.split for one in ucf.sources) == {
        "train": (9537, 9586, 9624)[fold - 1], "test": (3783, 3734, 3696)[fold - 1],
    }  # fmt: skip
    assert len(ucf.classes) == 101


@needs_annotations
def test_real_kinetics_and_something_something() -> None:
    assert SHARED is not None
    maps = SHARED / "annotations/label_maps"
    kinetics = SHARED / "annotations/kinetics400/kinetics-400_val.csv"
    found = find_listing(kinetics)
    assert len(found.sources) == 19906
    assert {one.label for one in found.sources} == set(range(400))
    for name in ("videomaev2__label_map_k400.txt", "videomaev2__label_map_k710.txt"):
        merged = find_listing(kinetics, classes=maps / name)
        names = (maps / name).read_text().splitlines()
        assert all(names[one.label or 0] == one.label_name for one in merged.sources)
        assert len({one.label for one in merged.sources}) == 400
    something = find_listing(SHARED / "annotations/ssv2/something-something-v2-validation_first1500.json")
    assert len(something.sources) == 1500
    assert list(something.classes) == (maps / "sthv2__label_map.txt").read_text().splitlines()
    assert {one.split for one in something.sources} == {"validation"}


@needs_annotations
def test_real_label_maps_of_sets_whose_lists_are_not_at_hand(tmp_path: Path) -> None:
    assert SHARED is not None
    maps = SHARED / "annotations/label_maps"
    moments = (maps / "mit__label_map.txt").read_text().splitlines()
    write(tmp_path / "m", {
        "moments_categories.txt": "".join(f"{name},{number}\n" for number, name in enumerate(moments)),
        "trainingSet.csv": "".join(f"{name}/a.mp4,{name},3,0\n" for name in moments),
    })  # fmt: skip
    found = find_listing(tmp_path / "m")
    assert list(found.classes) == moments
    assert [one.label for one in found.sources] == list(range(339))
    jester = (maps / "jester__label_map.txt").read_text()
    write(tmp_path / "j", {"jester-v1-labels.csv": jester, "jester-v1-train.csv": "1;Doing other things\n"})
    assert find_listing(tmp_path / "j").sources[0].label == jester.splitlines().index("Doing other things")
    diving = (maps / "diving48__label_map.txt").read_text().split()
    vocabulary = json.dumps([name.split("+") for name in diving])
    write(
        tmp_path / "d", {"Diving48_vocab.json": vocabulary, "Diving48_V2_test.json": '[{"vid_name": "a", "label": 47}]'}
    )
    assert find_listing(tmp_path / "d").sources[0].label_name == diving[47]


@needs_annotations
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("video_test_list.txt", 0),
        ("video_test_list_multi_label.txt", r"line 1: 3 fields; .* a row has one label"),
        ("rawframe_test_list.txt", 127),
        ("rawframe_test_list_with_offset.txt", 127),
        ("rawframe_test_list_multi_label.txt", r"line 2: 4 fields; .* a row has one label"),
        ("hvu_video_test_anno.json", r"no list in JSON that is known"),
        ("action_test_anno.json", r"no list in JSON that is known"),
    ],
)
def test_mmaction2s_lists_are_read_or_refused(name: str, outcome: str | int) -> None:
    assert SHARED is not None
    path = SHARED / "annotations/mmaction2_test_lists" / name
    if isinstance(outcome, int):
        assert [one.label for one in find_listing(path).sources] == [outcome]
    else:
        with pytest.raises(ClipError, match=outcome):
            find_listing(path)
