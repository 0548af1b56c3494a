"""Images of all types, bands and ranges of values: what training would read wrong is found, with its remedy."""

import io
import re

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.data.checks import check_labels
from tests.common import encode_png, encode_tiff
from tests.data.datasets_on_disk import make_image, make_label_map


HEIGHT, WIDTH = 12, 18


def of_bands(number: int, **settings) -> SegmenterImageProcessor:
    return SegmenterImageProcessor(
        do_convert_rgb=False, image_mean=[0.5] * number, image_std=[0.5] * number, **settings
    )


def noise(limit: int, bands: int = 1, dtype=np.uint16) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, limit, (HEIGHT, WIDTH, bands), dtype=dtype, endpoint=True)
    # The limit is among the values.
    values[0, 0] = limit
    return values


def photo(mode: str) -> Image.Image:
    return make_image(HEIGHT, WIDTH).convert(mode)


def encode(image, **settings) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **settings})
    return buffer.getvalue()


def check(images, image_processor=None, **settings):
    label_map = encode(make_label_map(height=HEIGHT, width=WIDTH))
    images = [each if isinstance(each, bytes) else encode(each) for each in images]
    rows = [
        {"image": {"bytes": each, "path": f"{index}.png"}, "annotation": {"bytes": label_map, "path": None}}
        for index, each in enumerate(images)
    ]
    split = Dataset.from_list(rows, features=Features({"image": ImageFeature(), "annotation": ImageFeature()}))
    return check_labels(split, 3, image_processor=image_processor, **settings)


def one(report, kind, is_error):
    assert [(finding.kind, finding.is_error) for finding in report.findings] == [(kind, is_error)], report.findings
    return report.findings[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16", "F"])
def test_sound_images(mode):
    image = encode(photo(mode), format="TIFF") if mode not in ("I;16", "F") else None
    if mode == "I;16":
        image = noise(65535)
    elif mode == "F":
        image = encode(Image.fromarray(noise(255)[..., 0].astype(np.float32)), format="TIFF")
    assert check([image, photo("RGB")]).findings == []


@pytest.mark.parametrize("limit", [255, 1023, 2047, 4095, 16383])
@pytest.mark.parametrize("kind", ["grey PNG", "grey TIFF", "RGB PNG", "RGB TIFF"])
def test_10_to_14_bits_in_16(limit, kind):
    values = noise(limit, 3 if "RGB" in kind else 1)
    encoder = encode_png if "PNG" in kind else lambda values: encode_tiff(values, 2 if "RGB" in kind else 1)
    finding = one(check([encoder(values), photo("RGB")]), "depth", False)
    assert f"hold {limit} at most, of 65535" in finding.problem
    assert f"--max_value {limit}." in finding.remedy and f"{limit.bit_length()} bits" in finding.remedy
    assert finding.files == ["row 0 of train (0.png)"]
    # The remedy is right.
    assert check([encoder(values), photo("RGB")], SegmenterImageProcessor(max_value=limit)).findings == []
    # One image of all shows that they have more bits.
    assert check([encoder(values), noise(40000)]).findings == []


def test_values_beyond_the_limit():
    finding = one(check([noise(1023), noise(5000)], SegmenterImageProcessor(max_value=1023)), "range", True)
    assert "values from 0 to 5000, expected 0 to 1023" in finding.problem and "--max_value" in finding.remedy
    assert finding.files == ["row 1 of train (1.png)"]


@pytest.mark.parametrize(("low", "high"), [(-3, 900), (0, 70000)])
def test_whole_numbers_that_16_bits_do_not_hold(low, high):
    values = noise(high, dtype=np.int32)
    values[1, 1] = low
    finding = one(check([encode(values.astype(np.int32), format="TIFF")]), "range", True)
    assert f"from {low} to {high}, expected 0 to 65535" in finding.problem
    assert "16-bit files without sign" in finding.remedy


def test_floats():
    def tiff(values):
        return encode(Image.fromarray(np.asarray(values, dtype=np.float32)), format="TIFF")

    fractions = noise(255)[..., 0] / 255
    finding = one(check([tiff(fractions), tiff(fractions)]), "range", True)
    assert "hold floats up to 1, expected 0 to 255" in finding.problem and len(finding.files) == 2
    # The code in the remedy is run as it is.
    code = re.search(r"Image\.fromarray\(.*\)(?=\.)", finding.remedy)[0]
    stored = eval(code, {"Image": Image, "np": np, "file": io.BytesIO(tiff(fractions))})
    assert np.array_equal(np.asarray(stored), noise(255)[..., 0])
    assert check([stored]).findings == []
    # A dark one among others may be right, and where nothing is rescaled it is.
    assert check([tiff(fractions), tiff(fractions * 255)]).findings == []
    as_they_are = SegmenterImageProcessor(do_rescale=False)
    assert check([tiff(fractions)], as_they_are).findings == []

    for values, settings, problem in (
        (fractions * 300, {}, "hold floats from 0 to 300, expected 0 to 255"),
        (fractions * 255 - 1, {}, "hold floats from -1 to 254, expected 0 to 255"),
        (fractions * 255, {"do_rescale": False}, "hold floats from 0 to 255, expected 0 to 1"),
    ):
        finding = one(check([tiff(values)], SegmenterImageProcessor(**settings)), "range", True)
        assert problem in re.sub(r"(?<=\d)\.\d+", "", finding.problem)
    for odd in (np.nan, np.inf):
        values = fractions * 255
        values[2, 3] = odd
        assert "NaN or infinite" in one(check([tiff(values)]), "range", True).problem


@pytest.mark.parametrize(
    "content",
    [
        encode(Image.fromarray(noise(255, 4, np.uint8))),
        encode_tiff(noise(255, 4, np.uint8), 2, (0,)),
        encode_tiff(noise(65535, 4), 2, (0,)),
        encode_png(noise(65535, 4)),
    ],
    ids=["RGBA", "8-bit TIFF", "16-bit TIFF", "16-bit PNG"],
)
def test_a_fourth_band_is_not_dropped_in_silence(content):
    finding = one(check([content, photo("RGB")]), "bands", False)
    assert "of which the last is dropped" in finding.problem and "--num_channels 4" in finding.remedy
    assert finding.files == ["row 0 of train (0.png)"]
    assert check([content], of_bands(4)).findings == []
    # Transparency that is the same everywhere hides nothing.
    assert check([photo("RGBA"), photo("LA")]).findings == []


def test_transparency_says_nothing_of_the_bits_of_colours():
    values = np.concatenate([noise(4095, 3), np.full((HEIGHT, WIDTH, 1), 65535, dtype=np.uint16)], axis=-1)
    assert "--max_value 4095" in one(check([encode_png(values)]), "depth", False).remedy
    processor = SegmenterImageProcessor(max_value=4095, do_resize=False, do_normalize=False)
    assert check([encode_png(values)], processor).findings == []
    assert processor(values)["pixel_values"][0].max() == 1
    cut = (values >> 8).astype(np.uint8)
    assert "hold 15 at most" in one(check([cut]), "dark", False).problem


def test_bands_that_are_not_those_of_the_model():
    for image, expected, got in (
        (photo("RGB"), 4, "3 bands (RGB), expected 4"),
        (photo("RGB"), 1, "3 bands (RGB), expected 1"),
        (photo("L"), 4, "1 band (L), expected 4"),
        (noise(65535, 1), 3, "1 band (I;16), expected 3"),
    ):
        finding = one(check([image], of_bands(expected)), "bands", True)
        assert got in finding.problem and "--num_channels" in finding.remedy
    finding = one(check([photo("P")], of_bands(1)), "bands", True)
    assert "convert('L')" in finding.remedy
    for mode, number in (("L", 1), ("1", 1), ("RGBA", 4), ("LA", 2)):
        assert check([photo(mode)], of_bands(number)).findings == []
    assert check([encode(photo("CMYK"), format="TIFF")], of_bands(4)).findings == []


def test_two_bands_are_neither_grey_nor_rgb():
    pytest.importorskip("tifffile")
    content = encode_tiff(noise(65535, 2), 1, (0,))
    assert "--num_channels 2" in one(check([content]), "bands", True).remedy
    assert check([content], of_bands(2)).findings == []


def test_more_bands_than_a_photo_has():
    pytest.importorskip("tifffile")
    content = encode_tiff(noise(4095, 6), 1, (0,) * 5)
    findings = {finding.kind: finding for finding in check([content]).findings}
    assert findings["bands"].is_error and "--num_channels 6" in findings["bands"].remedy
    assert "--max_value 4095" in findings["depth"].remedy
    assert check([content], of_bands(6, max_value=4095)).findings == []


def test_floats_of_several_bands():
    tifffile = pytest.importorskip("tifffile")
    fractions = (noise(65535, 5) / 65535).astype(np.float32)
    finding = one(check([encode_tiff(fractions, 1, (0,) * 4)], of_bands(5)), "range", True)
    code = re.search(r"tifffile\.imwrite\(.*\)(?=\.)", finding.remedy)[0].replace("tifffile.imread(file)", "fractions")
    file = io.BytesIO()
    eval(code, {"tifffile": tifffile, "np": np, "file": file, "fractions": fractions})
    assert check([file.getvalue()], of_bands(5)).findings == []
    assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), noise(65535, 5))


def test_pages_may_be_bands():
    pages = [Image.fromarray(noise(65535)[..., 0]) for _ in range(3)]
    content = encode(pages[0], format="TIFF", save_all=True, append_images=pages[1:])
    finding = one(check([content]), "frames", False)
    assert "have 3 frames, of which only the first is read" in finding.problem
    tifffile = pytest.importorskip("tifffile")
    code = re.search(r"tifffile\.imwrite\(.*\)(?=\.)", finding.remedy)[0]
    file = io.BytesIO()
    eval(code, {"tifffile": tifffile, "np": np, "file": file, "old": io.BytesIO(content)})
    assert check([file.getvalue()], of_bands(3)).findings == []


def test_images_of_which_only_the_upper_bits_are_left():
    cut = (noise(4095, 3) >> 8).astype(np.uint8)
    finding = one(check([cut, cut]), "dark", False)
    assert "hold 15 at most, of 255" in finding.problem and "--max_value" in finding.remedy
    # One dark image among others may be a photo at night.
    assert check([cut, photo("RGB")]).findings == []
