"""Checks of label maps: each trap is found, named with its file and its remedy; sound ones pass."""

import re

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf.data.checks import LabelError, check_labels, voc_palette
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.data.loading import load_segmentation_data
from tests.common import REPOSITORY
from tests.data.datasets_on_disk import make_image, make_label_map, save


SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture
def check(tmp_path):
    """Checks label maps (and images) that are stored as files."""

    def run(annotations, images=None, num_labels=3, suffix="png", **settings):
        paths = {"image": [], "annotation": []}
        for index, annotation in enumerate(annotations):
            if not isinstance(annotation, Image.Image):
                annotation = make_label_map(annotation)
            image = images[index] if images else make_image()
            exif = {"exif": image.getexif()} if image.getexif() else {}
            paths["image"].append(str(save(image, tmp_path / "images" / f"{index}.jpg", **exif)))
            paths["annotation"].append(str(save(annotation, tmp_path / "annotations" / f"{index}.{suffix}")))
        features = Features({"image": ImageFeature(), "annotation": ImageFeature()})
        return check_labels(Dataset.from_dict(paths, features=features), num_labels, **settings)

    return run


def one(report, kind, is_error=True):
    """The only finding, which is of this kind."""
    assert [(finding.kind, finding.is_error) for finding in report.findings] == [(kind, is_error)], report.findings
    return report.findings[0]


def test_sound_label_maps(check):
    palette = make_label_map()
    palette.putpalette(voc_palette().ravel().tolist())
    sixteen_bits, floats = make_label_map(dtype=np.uint16), make_label_map(dtype=np.float32)
    report = check([(0, 1, 2, 255), palette, sixteen_bits])
    assert report.findings == []
    assert report.pixel_counts.tolist() == [15 * 40 + 2 * 20 * 40] * 3
    assert report.num_ignored == 15 * 40
    assert (report.num_checked, report.num_examples) == (3, 3)
    report.raise_for_errors()
    assert check([floats], suffix="tiff").findings == []
    lines = report.format_shares({0: "sky"}).splitlines()
    assert [line.split()[0] for line in lines] == ["sky", "label", "label", "(ignored)"]
    assert lines[-1].endswith(f"{15 * 40 / (3 * 60 * 40):.3%}")


@pytest.mark.parametrize(
    ("values", "num_labels", "reduce", "problem", "remedy"),
    [
        ((0, 1, 2, 3), 3, False, "hold 3, expected labels from 0 to 2, or 255", "pass --do_reduce_labels"),
        ((0, 1, 2, 250), 3, False, "hold 250,", "If 250 means unlabelled, store 255"),
        ((0, 1, 5, 7), 3, False, "hold 5, 7,", "name all of them"),
        ((0, 1, 2, 4), 3, True, "hold 4, expected labels from 1 to 3, or 0", "name all of them"),
        (tuple(range(60)), 3, False, r"hold 3, 4, .*\.\.\. \(57 values up to 59\)", "name all of them"),
    ],
)
def test_values_out_of_range(check, values, num_labels, reduce, problem, remedy):
    finding = one(check([(0, 1, 2), values], num_labels=num_labels, do_reduce_labels=reduce), "values")
    assert [file.endswith("annotations/1.png") for file in finding.files] == [True]
    assert re.search(problem, finding.problem)
    assert remedy in finding.remedy


def test_sixteen_bits_out_of_range(check):
    finding = one(check([make_label_map((7000, 7001, 26000), dtype=np.uint16)]), "values")
    assert "hold 7000, 7001, 26000" in finding.problem
    assert "times 256 or 1000 plus one of the object" in finding.remedy


def test_negative_values(check):
    finding = one(check([make_label_map((-1, 0, 1), dtype=np.int32)], suffix="tiff"), "values")
    assert "hold -1," in finding.problem and "If -1 means unlabelled, store 255" in finding.remedy


def test_palette_converted_to_greys(check):
    palette = make_label_map((0, 1, 2))
    palette.putpalette(voc_palette().ravel().tolist())
    finding = one(check([palette.convert("L")]), "values")
    assert "hold 38, 75," in finding.problem
    assert "convert('L')" in finding.remedy and "np.asarray(Image.open(file))" in finding.remedy


def test_palette_converted_to_rgb(check):
    palette = make_label_map((0, 1, 2))
    palette.putpalette(voc_palette().ravel().tolist())
    finding = one(check([(0, 1, 2), palette.convert("RGB")]), "channels")
    assert finding.problem == "Label maps have 3 channels, the first with 3 colours."
    assert "take the original: its pixels are the labels" in finding.remedy
    assert finding.files[0].endswith("1.png")


def test_colours_quantised_to_a_palette(check):
    colours = make_label_map((0, 90, 200)).convert("RGB").convert("P")
    finding = one(check([colours]), "values")
    assert "have a palette" in finding.remedy and "quantised" in finding.remedy


@pytest.mark.parametrize(
    ("mode", "remedy"), [("RGB", "convert('L')"), ("RGBA", "convert('L')"), ("LA", "convert('L')")]
)
def test_greys_in_several_channels(check, mode, remedy):
    assert remedy in one(check([make_label_map().convert(mode)]), "channels").remedy


def test_labels_in_the_red_channel(check):
    values = np.zeros((40, 60, 3), dtype=np.uint8)
    values[..., 0] = np.asarray(make_label_map())
    assert "getchannel('R')" in one(check([Image.fromarray(values)]), "channels").remedy


def test_binary_masks(check):
    finding = one(check([(0, 255), (255,), (0,)], num_labels=2), "binary")
    assert "0 and 255 only" in finding.problem and "store 1 in its place" in finding.remedy
    # One label map of that kind is usual: a class and what is ignored.
    assert check([(0, 255), (0, 1)], num_labels=2).findings == []
    # As are these two where nothing is ignored by 255.
    assert one(check([(0, 255)], num_labels=2, ignore_index=254), "values")
    # Binary images of one bit are labels 0 and 1.
    assert check([make_label_map((0, 1)).point(lambda value: 255 * value).convert("1")], num_labels=2).findings == []


def test_sizes_that_differ(check):
    finding = one(check([(0, 1, 2), make_label_map(width=30, height=20)]), "size")
    assert finding.problem == "Sizes differ, of the first the label map is 30x20 and its image 60x40."
    assert finding.files[0].endswith("annotations/1.png") and "nearest" in finding.remedy
    assert "transpose" in one(check([make_label_map(width=40, height=60)]), "size").remedy


def with_orientation(orientation: int, **size) -> Image.Image:
    image = make_image(**size)
    image.getexif()[0x0112] = orientation
    return image


def test_exif_orientation(check):
    """Images are turned when they are read, label maps made of their stored pixels are not."""
    finding = one(check([(0, 1, 2)], [with_orientation(6)]), "size")
    assert "label map is 60x40 and its image 40x60" in finding.problem
    assert "EXIF orientation" in finding.remedy
    assert check([make_label_map(width=40, height=60)], [with_orientation(6)]).findings == []
    assert check([(0, 1, 2)], [with_orientation(1)]).findings == []
    for image in (with_orientation(3), with_orientation(6, width=40)):
        finding = one(check([make_label_map(width=image.width)], [image]), "exif", is_error=False)
        assert "turned or mirrored" in finding.problem


def test_the_loader_turns_images_as_the_check_says(tmp_path, check):
    check([(0, 1, 2)], [with_orientation(6)])
    data = load_segmentation_data(tmp_path, labels="camvid")
    assert data.splits["train"][0]["image"].size == (40, 60)


def test_fractions_and_files_that_are_broken(check, tmp_path):
    fractions = Image.fromarray(np.full((40, 60), 0.5, dtype=np.float32))
    assert "whole numbers" in one(check([fractions], suffix="tiff"), "fractions").remedy
    features = Features({"image": ImageFeature(), "annotation": ImageFeature()})
    image = str(save(make_image(), tmp_path / "image.png"))
    complete = save(make_label_map(range(40)), tmp_path / "complete.png").read_bytes()
    for content in (b"", b"text", complete[: len(complete) // 2]):
        broken = tmp_path / "broken.png"
        broken.write_bytes(content)
        dataset = Dataset.from_dict({"image": [image], "annotation": [str(broken)]}, features=features)
        assert one(check_labels(dataset, 40), "unreadable").files == [str(broken)]
    dataset = Dataset.from_dict({"image": [str(tmp_path / "gone.png")], "annotation": [image]}, features=features)
    assert {finding.kind for finding in check_labels(dataset, 3).errors} == {"unreadable", "channels"}
    dataset = Dataset.from_dict({"image": [image], "annotation": [None]}, features=features)
    assert one(check_labels(dataset, 3), "unreadable").files == ["row 0 of train"]


def test_jpeg_label_maps(check):
    report = check([(0, 1, 2)], suffix="jpg")
    assert "jpeg" in {finding.kind for finding in report.warnings}
    assert "PNG" in next(str(finding) for finding in report.warnings if finding.kind == "jpeg")


def test_only_ignored(check):
    finding = one(check([(0, 1, 2), (255,)]), "only_ignored", is_error=False)
    assert finding.files[0].endswith("1.png")


def test_classes_never_seen(check, caplog):
    report = check([(0, 1)], num_labels=4, id2label={2: "car", 3: "bus"})
    finding = one(report, "never_seen", is_error=False)
    assert finding.problem == "2 of 4 labels are never seen: 2 (car), 3 (bus)."
    assert "--check_all_labels" not in finding.remedy
    report.raise_for_errors()
    assert "train split: 2 of 4 labels are never seen" in caplog.text
    finding = one(check([(0, 1)] * 5, num_labels=4, sample_size=3), "never_seen", is_error=False)
    assert "in 3 of 5 label maps; --check_all_labels" in finding.remedy


def test_reduction_hints(check):
    """Off by one in either direction is in range, and found by what is missing."""
    finding = one(check([(0, 1, 2)], do_reduce_labels=True), "never_seen", is_error=False)
    assert "0 is ignored (33.3% of the pixels): leave the flag out if 0 is a class" in finding.remedy
    finding = one(check([(1, 2)]), "never_seen", is_error=False)
    assert "pass --do_reduce_labels" in finding.remedy
    assert check([(0, 1, 2, 3)], do_reduce_labels=True).findings == []
    finding = one(check([(0, 1, 2, 3, 255)], do_reduce_labels=True), "reduction", is_error=False)
    assert "it would be done twice" in finding.remedy


@pytest.mark.parametrize("name", ["ade20k", "pascal_context_59"])
def test_label_maps_as_published_with_known_names(check, name):
    id2label = load_label_set(name).id2label
    report = check([(0, 1, 2)], num_labels=len(id2label), id2label=id2label)
    assert [finding.kind for finding in report.findings] == ["reduction", "never_seen"]
    assert f"those of {name}" in report.findings[0].problem
    assert "pass --do_reduce_labels" in report.findings[0].remedy
    # Reduced ones have 255 in place of 0.
    for values, reduce in (((0, 1, 255), False), ((0, 1, 2), True)):
        report = check([values], num_labels=len(id2label), id2label=id2label, do_reduce_labels=reduce)
        assert [finding.kind for finding in report.findings] == ["never_seen"]


def test_reduction_is_that_of_the_image_processor(check):
    assert check([(0, 1, 2, 3, 255)], do_reduce_labels=True).pixel_counts.tolist() == [12 * 40] * 3


def test_sample_is_the_same_each_time(check):
    maps = [(0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,)]
    counts = [check(maps, sample_size=3, seed=seed).pixel_counts.tolist() for seed in (0, 0, 1, 2, 3)]
    assert counts[0] == counts[1]
    assert len({tuple(count) for count in counts}) > 1
    everything = check(maps, sample_size=None)
    assert (everything.num_checked, everything.num_examples) == (7, 7)


def test_errors_are_raised_together_and_name_files(check):
    report = check([(0, 1, 9), make_label_map(width=30), make_label_map().convert("RGB")], split="validation")
    with pytest.raises(LabelError) as error:
        report.raise_for_errors()
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("validation split: ") for line in lines)
    assert all(any(f"annotations/{index}.png" in line for line in lines) for index in range(3))


def test_many_files_are_counted_and_the_first_named(check):
    finding = one(check([(0, 1, 9)] * 8), "values")
    assert len(finding.files) == 8
    assert "In 8 of the label maps: " in str(finding) and "and 3 more" in str(finding)


def test_embedded_files_are_named_by_row(tmp_path):
    images = [make_image() for _ in range(2)]
    maps = [make_label_map(), make_label_map((0, 1, 9))]
    features = Features({"img": ImageFeature(), "mask": ImageFeature()})
    dataset = Dataset.from_dict({"img": images, "mask": maps}, features=features)
    report = check_labels(dataset, 3, image_column="img", annotation_column="mask", split="validation")
    assert one(report, "values").files == ["row 1 of validation"]
    # The transform of training is not run.
    dataset = dataset.with_transform(lambda batch: 1 / 0)
    assert one(check_labels(dataset, 3, image_column="img", annotation_column="mask"), "values")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no samples")
def test_samples(tmp_path):
    data = load_segmentation_data(SHARED_DATA / "camvid", cache_dir=tmp_path)
    for name, split in data.splits.items():
        assert check_labels(split, data.num_labels, sample_size=None, split=name).findings == []
    data = load_segmentation_data(SHARED_DATA / "ADEChallengeData2016", labels="ade20k")
    split = data.splits["validation"]
    report = check_labels(split, 150, id2label=data.id2label, do_reduce_labels=True)
    assert [finding.kind for finding in report.findings] == ["never_seen"]
    report = check_labels(split, 150, id2label=data.id2label)
    assert [finding.kind for finding in report.findings] == ["reduction", "never_seen"]
