"""Label maps as users have them: each trap is found, named with its file and its remedy; sound ones pass."""

import re

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf.data.checks import check_labels
from segmenter_hf.data.findings import voc_palette
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.data.loading import load_segmentation_data
from tests.common import REPOSITORY
from tests.data.datasets_on_disk import make_image, make_label_map, save


SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[0x0112] = orientation
    return image


def with_palette(image: Image.Image, palette: np.ndarray) -> Image.Image:
    image.putpalette(np.asarray(palette, dtype=np.uint8).ravel().tolist())
    return image


def channels(*values) -> Image.Image:
    return Image.fromarray(np.stack(values, axis=-1))


@pytest.fixture
def check(tmp_path):
    """Checks label maps (and images) that are stored as files; bytes are what is in one."""

    def store(image, path, **settings):
        if isinstance(image, bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        else:
            exif = {"exif": image.getexif()} if image.getexif() else {}
            save(image, path, **exif, **settings)
        return str(path)

    def run(annotations, images=None, num_labels=3, suffix="png", image_suffix="jpg", **settings):
        paths = {"image": [], "annotation": []}
        for index, annotation in enumerate(annotations):
            if not isinstance(annotation, (Image.Image, bytes)):
                annotation = make_label_map(annotation)
            image = images[index] if images else make_image()
            paths["image"].append(store(image, tmp_path / "images" / f"{index}.{image_suffix}"))
            paths["annotation"].append(store(annotation, tmp_path / "annotations" / f"{index}.{suffix}"))
        features = Features({"image": ImageFeature(), "annotation": ImageFeature()})
        return check_labels(Dataset.from_dict(paths, features=features), num_labels, **settings)

    return run


def one(report, kind, is_error=True):
    """The only finding, which is of this kind."""
    assert [(finding.kind, finding.is_error) for finding in report.findings] == [(kind, is_error)], report.findings
    return report.findings[0]


def do_as_told(remedy: str, file) -> np.ndarray:
    """What the code in a remedy makes of a file."""
    code = re.search(r"Image\.(open|fromarray)\(.*\)", remedy)[0]
    return np.asarray(eval(code, {"Image": Image, "np": np, "file": file}))


def test_sound_label_maps(check):
    palette = with_palette(make_label_map(), voc_palette())
    report = check([(0, 1, 2, 255), palette, make_label_map(dtype=np.uint16)])
    assert report.findings == []
    assert report.pixel_counts.tolist() == [15 * 40 + 2 * 20 * 40] * 3
    assert report.num_ignored == 15 * 40
    assert check([make_label_map(dtype=np.float32), make_label_map(dtype=np.int32)], suffix="tiff").findings == []
    for suffix in ("bmp", "gif", "tif"):
        assert check([(0, 1, 2)], suffix=suffix).findings == []
    # Transparency is a matter of colours.
    transparent = with_palette(make_label_map(), voc_palette())
    transparent.info["transparency"] = b"\0\x80\xff"
    assert check([transparent]).findings == []
    one_bit = make_label_map((0, 255)).convert("1")
    assert check([one_bit], num_labels=2).pixel_counts.tolist() == [1200, 1200]
    assert check([make_label_map((1,), height=1, width=1)], [make_image(1, 1)], num_labels=2).errors == []


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


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.int32, "tiff"), (np.float32, "tiff")])
def test_numbers_of_objects(check, dtype, suffix):
    finding = one(check([make_label_map((7000, 7001, 26000), dtype=dtype)], suffix=suffix), "values")
    assert "hold 7000, 7001, 26000" in finding.problem
    assert "times 256 or 1000 plus one of the object" in finding.remedy


def test_negative_values(check):
    finding = one(check([make_label_map((-1, 0, 1), dtype=np.int32)], suffix="tiff"), "values")
    assert "hold -1," in finding.problem and "If -1 means unlabelled, store 255" in finding.remedy


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, -np.inf, 1e30])
def test_floats_that_are_no_labels(check, odd):
    values = np.array(make_label_map(), dtype=np.float32)
    values[:, 30] = odd
    finding = one(check([Image.fromarray(values)], suffix="tiff"), "fractions")
    assert f"hold {np.float32(odd):g}, expected whole numbers" in finding.problem
    assert "as 8-bit PNG" in finding.remedy


def test_palette_converted_to_greys(check):
    finding = one(check([with_palette(make_label_map(), voc_palette()).convert("L")]), "values")
    assert "hold 38, 75," in finding.problem
    assert "convert('L')" in finding.remedy and "np.asarray(Image.open(file))" in finding.remedy


def test_palette_converted_to_rgb(check):
    finding = one(check([(0, 1, 2), with_palette(make_label_map(), voc_palette()).convert("RGB")]), "channels")
    assert "3 channels (RGB), expected one, which holds the labels; the first has 3 colours" in finding.problem
    assert "take the original: its pixels are the labels" in finding.remedy
    assert finding.files[0].endswith("1.png")


def test_colours_quantised_to_a_palette(check):
    colours = make_label_map((0, 90, 200)).convert("RGB").convert("P")
    finding = one(check([colours]), "values")
    assert "have a palette" in finding.remedy and "quantised" in finding.remedy


def test_palettes_that_disagree(check):
    """It is so when each file was quantised by itself: all values are in range, and mean nothing."""
    red, green, black = (200, 0, 0), (0, 200, 0), (0, 0, 0)
    first, second = (with_palette(make_label_map(), each) for each in ([black, red, green], [black, green, red]))
    finding = one(check([first, first, second]), "palette", is_error=False)
    assert re.search(r"on 1, which is \(200, 0, 0\) in .*0\.png and \(0, 200, 0\) in .*2\.png", finding.problem)
    assert "index of its class" in finding.remedy and finding.files[0].endswith("2.png")
    # A palette may have any colours for labels that its file does not have.
    third = with_palette(make_label_map((0, 1)), [black, red, red])
    assert check([first, third]).findings == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_labels_in_the_first_of_several_channels(check, tmp_path, mode):
    labels = np.asarray(make_label_map())
    values = np.stack([labels] * len(Image.new(mode, (1, 1)).getbands()), axis=-1)
    finding = one(check([Image.frombytes(mode, (60, 40), values.tobytes())], suffix="tiff"), "channels")
    np.testing.assert_array_equal(do_as_told(finding.remedy, tmp_path / "annotations" / "0.tiff"), labels)


def test_labels_in_the_red_channel(check, tmp_path):
    labels = np.asarray(make_label_map())
    finding = one(check([channels(labels, 0 * labels, 0 * labels)]), "channels")
    np.testing.assert_array_equal(do_as_told(finding.remedy, tmp_path / "annotations" / "0.png"), labels)


def test_what_else_is_wrong_in_the_first_channel(check):
    report = check([make_label_map((0, 255)).convert("RGB")], num_labels=2)
    assert [finding.kind for finding in report.errors] == ["channels", "binary"]


def test_photographs_in_place_of_label_maps(check):
    finding = one(check([make_image()]), "channels")
    assert "more than 1000 colours" in finding.problem and "--annotation_column_name" in finding.remedy


def test_binary_masks(check, tmp_path):
    finding = one(check([(0, 255), (255,), (0,)], num_labels=2), "binary")
    assert "0 and 255 only" in finding.problem and finding.files[0].endswith("annotations/0.png")
    assert np.unique(do_as_told(finding.remedy, tmp_path / "annotations" / "0.png")).tolist() == [0, 1]
    # Each of these has one of the two values.
    assert one(check([(255,), (0,)], num_labels=2), "binary").files[0].endswith("annotations/0.png")
    # One label map of that kind is usual: a class and what is ignored.
    assert check([(0, 255), (0, 1)], num_labels=2).findings == []
    # It is not usual for most of them: the foreground would be lost.
    finding = one(check([(0, 255), (0, 255), (0, 1)], num_labels=2), "binary", is_error=False)
    assert "2 of 3" in finding.problem and len(finding.files) == 2
    # The value 255 is out of range where it is not ignored.
    assert one(check([(0, 255)], num_labels=2, ignore_index=254), "values")
    # A binary model has two labels, too.
    assert one(check([(0, 255)], num_labels=1), "binary")
    assert check([(0, 1)], num_labels=1).findings == []


@pytest.mark.parametrize(
    ("foreground", "dtype"), [(254, np.uint8), (100, np.uint8), (2, np.uint8), (65535, np.uint16)]
)
def test_masks_with_another_foreground(check, tmp_path, foreground, dtype):
    finding = one(check([make_label_map((0, foreground), dtype=dtype)], num_labels=2), "values")
    assert f"masks from 0 to {foreground}" in finding.remedy
    stored = do_as_told(finding.remedy, tmp_path / "annotations" / "0.png")
    np.testing.assert_array_equal(stored, np.asarray(make_label_map((0, 1))))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_smoothed_masks(check, tmp_path, suffix):
    """Resized ones, and JPEG files, have values between."""
    mask = make_label_map((0, 255)).resize((600, 400), Image.Resampling.BILINEAR)
    report = check([mask], [make_image(400, 600)], num_labels=2, suffix=suffix)
    finding = report.errors[0]
    assert "masks from 0 to" in finding.remedy
    stored = do_as_told(finding.remedy, tmp_path / "annotations" / f"0.{suffix}")
    expected = np.asarray(make_label_map((0, 1), height=400, width=600))
    assert (stored != expected).mean() < 0.01


def test_jpeg_label_maps(check):
    report = check([(0, 1, 2)], suffix="jpg")
    assert "PNG" in one(report, "jpeg", is_error=False).remedy
    finding = check([(0, 100, 200)], num_labels=3, suffix="jpg").errors[0]
    assert finding.kind == "values" and "compression" in finding.remedy


def test_sizes_that_differ(check):
    finding = one(check([(0, 1, 2), make_label_map(width=30, height=20)]), "size")
    assert "the first is 20 high and 30 wide, its image 40 high and 60 wide" in finding.problem
    assert finding.files[0].endswith("annotations/1.png") and "nearest" in finding.remedy
    assert "transpose" in one(check([make_label_map(width=40, height=60)]), "size").remedy
    assert "nearest" in one(check([make_label_map((1,), width=1, height=1)]), "size").remedy


@pytest.mark.parametrize("image_suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_of_images(check, image_suffix):
    """Images are turned when they are read, label maps made of their stored pixels are not."""

    def run(annotation, image):
        return check([annotation], [image], image_suffix=image_suffix)

    finding = one(run((0, 1, 2), with_orientation(make_image(), 6)), "size")
    assert "the first is 40 high and 60 wide, its image 60 high and 40 wide" in finding.problem
    assert "images have an EXIF orientation" in finding.remedy
    upright = make_label_map(width=40, height=60)
    assert run(upright, with_orientation(make_image(), 6)).findings == []
    assert run((0, 1, 2), with_orientation(make_image(), 1)).findings == []
    for orientation, width in ((3, 60), (6, 40)):
        image = with_orientation(make_image(width=width), orientation)
        finding = one(run(make_label_map(width=width), image), "exif", is_error=False)
        assert f"orientation {orientation} of the first image, 1 of its label map" in finding.problem


def test_exif_orientation_of_label_maps(check):
    """They are turned, too."""
    for orientation in (3, 6):
        both = [with_orientation(make_label_map(), orientation)], [with_orientation(make_image(), orientation)]
        assert check(*both).findings == []
    finding = one(check([with_orientation(make_label_map(), 6)]), "size")
    assert "label maps have an EXIF orientation" in finding.remedy
    finding = one(check([with_orientation(make_label_map(), 3)]), "exif", is_error=False)
    assert "orientation 1 of the first image, 3 of its label map" in finding.problem
    report = check([with_orientation(make_label_map(), 8)], [with_orientation(make_image(), 6)])
    assert "orientation 6 of the first image, 8" in one(report, "exif", is_error=False).problem


def test_the_loader_turns_files_as_the_check_says(tmp_path, check):
    check([with_orientation(make_label_map(), 6)], [with_orientation(make_image(), 6)])
    data = load_segmentation_data(tmp_path, labels="camvid")
    example = data.splits["train"][0]
    assert example["image"].size == example["annotation"].size == (40, 60)


def test_files_that_cannot_be_read(check, tmp_path):
    complete = save(make_label_map(range(40)), tmp_path / "complete.png").read_bytes()
    for content, reason in ((b"", "empty"), (b"text", "no image"), (complete[: len(complete) // 2], "truncated")):
        finding = one(check([(0, 1, 2), content], num_labels=40), "unreadable")
        assert len(finding.files) == 1 and re.search(rf"annotations/1\.png \(.*{reason}.*\)", finding.files[0])
    finding = one(check([(0, 1, 2)], [b""]), "unreadable")
    assert finding.problem == "Images cannot be read." and "images/0.jpg (it is empty)" in finding.files[0]


def test_files_that_are_missing(tmp_path):
    features = Features({"image": ImageFeature(), "annotation": ImageFeature()})
    there = str(save(make_label_map(), tmp_path / "there.png"))
    image_there = str(save(make_image(), tmp_path / "image.png"))

    def find(image, annotation):
        rows = {"image": [image], "annotation": [annotation]}
        return one(check_labels(Dataset.from_dict(rows, features=features), 3), "unreadable")

    gone = str(tmp_path / "gone.png")
    assert str(find(gone, there)) == (
        f"Images cannot be read. Found in 1 file: {gone} (there is no such file). Replace or remove them; training "
        "leaves them out with --skip_unreadable."
    )
    assert find(image_there, gone).problem == "Label maps cannot be read."
    assert find(image_there, None).files == ["row 0 of train (there is none)"]


@pytest.mark.parametrize("suffix", ["gif", "tiff"])
def test_several_frames(check, tmp_path, suffix):
    frames = [make_label_map(values) for values in ((0, 1, 2), (1, 2, 0), (2, 1, 0))]
    file = save(frames[0], tmp_path / f"frames.{suffix}", save_all=True, append_images=frames[1:])
    finding = one(check([file.read_bytes()], suffix=suffix), "frames", is_error=False)
    assert "3 frames, of which only the first is read" in finding.problem


def test_only_ignored(check):
    finding = one(check([(0, 1, 2), (255,)]), "only_ignored", is_error=False)
    assert finding.files[0].endswith("1.png")
    # There is nothing to learn at all.
    assert [finding.kind for finding in check([(255,), (255,)]).errors] == ["only_ignored"]
    assert [finding.kind for finding in check([(0,)], do_reduce_labels=True).errors] == ["only_ignored"]


def test_classes_never_seen(check):
    finding = one(check([(0, 1)], num_labels=4, id2label={2: "car", 3: "bus"}), "never_seen", is_error=False)
    assert finding.problem == "2 of 4 labels are never seen: 2 (car), 3 (bus)."
    assert "--check_all_examples" not in finding.remedy
    finding = one(check([(0, 1)] * 5, num_labels=4, sample_size=3), "never_seen", is_error=False)
    assert "in 3 of 5 label maps; --check_all_examples" in finding.remedy


def test_ignore_index_that_is_a_label(check):
    finding = one(check([(0, 1, 2)], ignore_index=0, id2label={0: "sky"}), "ignored_label", is_error=False)
    assert "Pixels of the label 0 (sky) are ignored" in finding.problem
    assert check([(0, 1, 2, 19)], ignore_index=19).findings == []
    finding = one(check([(0, 1, 2, 255)], ignore_index=-100), "values")
    assert "hold 255, expected labels from 0 to 2, or -100" in finding.problem


def test_reduction_hints(check):
    """Off by one in either direction is in range, and found by what is missing."""
    finding = one(check([(0, 1, 2)], do_reduce_labels=True), "never_seen", is_error=False)
    assert "0 is ignored (33.3% of the pixels): leave the flag out if 0 is a class" in finding.remedy
    for num_labels in (3, 30):
        finding = one(check([(1, 2)], num_labels=num_labels), "never_seen", is_error=False)
        assert "pass --do_reduce_labels" in finding.remedy
    assert "--do_reduce_labels" not in one(check([(0, 1)]), "never_seen", is_error=False).remedy
    assert check([(0, 1, 2, 3)], do_reduce_labels=True).findings == []
    assert check([(1, 2, 3)], do_reduce_labels=True).findings == []
    finding = one(check([(0, 1, 2, 3, 255)], do_reduce_labels=True), "reduction", is_error=False)
    assert "it would be done twice" in finding.remedy


@pytest.mark.parametrize("name", ["ade20k", "pascal_context_59"])
def test_label_maps_as_published_with_known_names(check, name):
    id2label = load_label_set(name).id2label
    report = check([(0, 1, 2)], num_labels=len(id2label), id2label=id2label)
    assert [finding.kind for finding in report.findings] == ["reduction", "never_seen"]
    assert f"those of {name}" in report.findings[0].problem
    assert "pass --do_reduce_labels" in report.findings[0].remedy
    # Label maps that are reduced have 255 in place of 0.
    for values, reduce in (((0, 1, 255), False), ((0, 1, 2), True)):
        report = check([values], num_labels=len(id2label), id2label=id2label, do_reduce_labels=reduce)
        assert [finding.kind for finding in report.findings] == ["never_seen"]


def test_many_files_are_counted_and_the_first_named(check):
    finding = one(check([(0, 1, 9)] * 8), "values")
    assert len(finding.files) == 8
    assert "Found in 8 files: " in str(finding) and "and 3 more" in str(finding)


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
