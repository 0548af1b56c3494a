"""The table of released checkpoints: what it says is right, and what it names can be downloaded and converted."""

import dataclasses
import json
import re
import shutil

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.utils import validate_repo_id

from segmenter_hf import SegmenterConfig
from segmenter_hf.conversion import ConversionError, EncoderOptions, convert_checkpoint, original
from segmenter_hf.conversion.released import (
    ARCHITECTURES,
    RELEASED,
    ReleasedCheckpoint,
    apply_protocol,
    fetch_released,
    find_released,
    format_table,
    is_released,
    read_row,
)
from segmenter_hf.conversion.sources import read_source
from tests.conversion.flaky_server import Fault, FlakyServer
from tests.conversion.original_checkpoints import make_original_checkpoint


ROWS = list(RELEASED.values())
MODELS = [row for row in ROWS if not row.is_encoder]


def each(rows: list[ReleasedCheckpoint]):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def count_parameters(row: ReleasedCheckpoint, **changes) -> int:
    config = row.config
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in row.model_class(config).parameters())


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """As far as the loopback interface."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def at(server: FlakyServer, row: ReleasedCheckpoint) -> ReleasedCheckpoint:
    """The row with the same paths on `server`."""
    files = (dataclasses.replace(file, url=server.url(path_of(file.url))) for file in row.files)
    return dataclasses.replace(row, files=tuple(files))


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


class TestTable:
    def test_number_of_rows(self):
        sources = [row.source for row in ROWS]
        assert {source: sources.count(source) for source in sources} == {
            "original": 10,
            "mmsegmentation": 6,
            "augreg": 4,
            "mmsegmentation-encoder": 4,
        }

    def test_every_name_names_one_row(self):
        names = [name for row in ROWS for name in (row.name, row.repo_name)]
        assert len(set(names)) == len(names) == 2 * len(ROWS)
        for row in ROWS:
            assert find_released(row.name) is find_released(row.repo_name) is row

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"crop": 512}, "no field 'crop'; its fields are name, source"),
            ({"crop_size": "512"}, "`crop_size` must be int, got '512'"),
            ({"published_fps": "fast"}, "`published_fps` must be float | int | None, got 'fast'"),
            ({"protocol": {"window_size": 512}}, "A protocol lacks fields: .*'window_stride'"),
            ({"files": [{"name": "a.pth", "sha": "b"}]}, "unexpected keyword argument 'sha'"),
            ({"source": "flax"}, "'flax'"),
        ],
    )
    def test_a_row_needs_no_code_and_is_checked(self, changes, message):
        values = {
            "name": "segmenter_new",
            "source": "mmsegmentation",
            "backbone": "vit_tiny_patch16_384",
            "files": [{"name": "new.pth"}],
            "decoder_type": "linear",
            "crop_size": 512,
            "num_parameters": 1,
        }
        row = read_row(values)
        assert row.files[0].url.endswith("/mmsegmentation/v0.5/segmenter/segmenter_new/new.pth")
        assert (row.licence, row.config.layer_norm_eps, row.protocol) == ("apache-2.0", 1e-6, None)
        with pytest.raises(ValueError, match=f"The released checkpoint 'segmenter_new' of released.yaml: .*{message}"):
            read_row(values | changes)

    @each(ROWS)
    def test_repository_names(self, row):
        validate_repo_id(f"organisation/{row.repo_name}")
        assert re.fullmatch(r"segmenter(-[a-z0-9]+)+", row.repo_name)
        assert str(row.crop_size) in row.repo_name.split("-")

    def test_some_repository_names(self):
        names = {
            "ade20k/seg_tiny_mask": "segmenter-vit-tiny-patch16-mask-ade20k-512",
            "ade20k/seg_base_deit_linear": "segmenter-deit-base-distilled-patch16-linear-ade20k-512",
            "pascal_context/seg_large_mask": "segmenter-vit-large-patch16-mask-pascal-context-480",
            "segmenter_vit-l_mask_8x1_640x640_160k_ade20k": "segmenter-vit-large-patch16-mask-ade20k-640-mmseg",
            "segmenter_vit-l_mask_8x1_512x512_160k_ade20k": (
                "segmenter-vit-large-patch16-mask-ade20k-640-mmseg-20220105"
            ),
            "vit_tiny_patch16_384": "segmenter-encoder-vit-tiny-patch16-384",
            "vit_tiny_p16_384": "segmenter-encoder-vit-tiny-patch16-384-mmseg",
        }
        assert {name: find_released(name).repo_name for name in names} == names

    @pytest.mark.parametrize(
        "name, close",
        [
            ("ade20k/seg_tiny_msk", "ade20k/seg_tiny_mask"),
            ("VIT_TINY_PATCH16_384", "vit_tiny_patch16_384"),
            ("segmenter-vit-tiny-patch16-mask-ade20k", "segmenter-vit-tiny-patch16-mask-ade20k-512"),
        ],
    )
    def test_unknown_name_with_close_ones(self, name, close):
        with pytest.raises(ConversionError, match=f"{re.escape(repr(name))}.*Did you mean.* {close}[ ?].*--list_rel"):
            find_released(name)

    def test_unknown_name_without_close_ones(self):
        with pytest.raises(ConversionError, match=r"no released checkpoint 'xyz'\. --list_released lists them all"):
            find_released("xyz")

    @each(ROWS)
    def test_files(self, row):
        assert len({file.name for file in row.files}) == len(row.files) == (2 if row.source == "original" else 1)
        for file in row.files:
            assert file.url.startswith("https://") and file.url.endswith(f"/{file.name}")
            assert file.name == file.name.strip("/. ") and "/" not in file.name
            if row.source.startswith("mmsegmentation"):
                # MMSegmentation names its files after the first eight digits.
                assert file.name.endswith(f"-{file.sha256_prefix}.pth")
                assert re.fullmatch("[0-9a-f]{8}", file.sha256_prefix)
        assert row.licence == ("mit" if row.source == "original" else "apache-2.0")

    def test_addresses(self):
        addresses = {
            "cityscapes/seg_large_linear": "https://www.rocq.inria.fr/cluster-willow/rstrudel/segmenter/checkpoints/"
            "cityscapes/seg_large_linear/checkpoint.pth",
            "segmenter_vit-s_linear_8x1_512x512_160k_ade20k": "https://download.openmmlab.com/mmsegmentation/v0.5/"
            "segmenter/segmenter_vit-s_linear_8x1_512x512_160k_ade20k/"
            "segmenter_vit-s_linear_8x1_512x512_160k_ade20k_20220105_151713-39658c46.pth",
            "segmenter_vit-l_mask_8x1_640x640_160k_ade20k": "https://download.openmmlab.com/mmsegmentation/v0.5/"
            "segmenter/segmenter_vit-l_mask_8x1_640x640_160k_ade20k/"
            "segmenter_vit-l_mask_8x1_640x640_160k_ade20k_20220614_024513-4783a347.pth",
            "vit_large_patch16_384": "https://storage.googleapis.com/vit_models/augreg/L_16-i21k-300ep-lr_0.001-"
            "aug_medium1-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.01-res_384.npz",
            "vit_large_p16_384": "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/"
            "vit_large_p16_384_20220308-d4efb41d.pth",
        }
        assert {name: find_released(name).files[-1].url for name in addresses} == addresses

    def test_table_as_text(self):
        lines = format_table().splitlines()
        assert max(map(len, lines[: len(ROWS) + 1])) <= 200
        for line, row in zip(lines[1:], ROWS, strict=False):
            assert line.split()[0] == row.name and line.split()[-1] == row.repo_name
        assert "48.5 / 50.0" in lines[3] and "102.5M (106M)" in lines[3]
        notes = "\n".join(lines[len(ROWS) + 1 :])
        for row in MODELS:
            assert row.notes in notes


def test_released_checkpoints_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("vit_tiny_p16_384", "segmenter-vit-large-patch16-mask-ade20k-640-mmseg-20220105"):
        assert is_released(name)
        (tmp_path / name).mkdir()
        assert not is_released(name)
    assert not is_released("someone/vit_tiny_p16_384")


class TestProtocols:
    @each(MODELS)
    def test_windows(self, row):
        protocol = row.protocol
        assert protocol.window_size == row.crop_size and protocol.window_stride == row.crop_size - 32
        assert row.training_window_stride <= row.crop_size
        if row.source == "mmsegmentation":
            assert row.training_window_stride == protocol.window_stride

    def test_sizes(self):
        def facts(name):
            protocol = find_released(name).protocol
            return protocol.shortest_edge, protocol.longest_edge, protocol.window_stride

        assert facts("ade20k/seg_base_mask") == (512, 2048, 480)
        assert facts("ade20k/seg_large_mask_640") == (512, 2048, 608)
        assert facts("pascal_context/seg_large_mask") == (520, 4160, 448)
        assert facts("cityscapes/seg_large_linear") == (1024, 2048, 736)
        assert facts("segmenter_vit-b_mask_8x1_512x512_160k_ade20k") == (512, 2048, 480)
        assert facts("segmenter_vit-l_mask_8x1_640x640_160k_ade20k") == (640, 2560, 608)
        # Its config is of release 0.21, which has another `img_scale`.
        assert facts("segmenter_vit-l_mask_8x1_512x512_160k_ade20k") == (640, 2048, 608)

    def test_two_trainings_of_one_model_name_each_other(self):
        later, earlier = MODELS[-2:]
        assert later.files[0].name.endswith("_20220614_024513-4783a347.pth")
        assert earlier.files[0].name.endswith("_20220105_162750-7ef345be.pth")
        for row, other in ((later, earlier), (earlier, later)):
            assert re.search(rf"{other.repo_name}(?!-)", row.notes)

    @each([row for row in ROWS if row.is_encoder])
    def test_encoders_have_none(self, row):
        assert row.protocol is row.training_window_stride is row.published_miou_percent_ss is None


class TestModels:
    @each(ROWS)
    def test_number_of_parameters(self, row):
        assert count_parameters(row) == row.num_parameters

    @each(ROWS)
    def test_dropped_classifiers(self, row):
        # One row of weights and a bias for each class of ImageNet; distilled encoders have two such classifiers.
        has_classifiers = not row.source.startswith("mmsegmentation")
        number = has_classifiers * (2 if row.config.use_distillation_token else 1)
        assert row.num_dropped_parameters == number * 1000 * (row.config.hidden_size + 1)

    def test_published_numbers_that_are_not_explained(self):
        published = [row for row in ROWS if row.published_num_parameters_millions is not None]
        assert [row.published_num_parameters_millions for row in published] == [
            *(7, 27, 106, 89, 334, 87, 106, 334, 322),
        ]
        unexplained = {row.name for row in published if not row.is_published_count_explained}
        assert unexplained == {
            "ade20k/seg_small_mask",
            "ade20k/seg_base_mask",
            "ade20k/seg_base_deit_mask",
            "pascal_context/seg_large_mask",
            "cityscapes/seg_large_mask",
        }
        for row in published:
            assert ("do not explain" in row.describe_parameters()) == (row.name in unexplained)

    def test_description_of_parameters(self):
        assert find_released("ade20k/seg_base_mask").describe_parameters() == (
            "102,497,580 parameters (103,266,580 with the ImageNet classifiers that the files hold and conversion "
            "drops); published: 106M, which the known contents of the files do not explain."
        )
        assert find_released("vit_tiny_p16_384").describe_parameters() == (
            "5,597,376 parameters; no number was published."
        )

    def test_cityscapes_with_one_decoder_layer_is_as_large_as_published(self):
        row = find_released("cityscapes/seg_large_mask")
        one_layer = count_parameters(row, decoder_num_hidden_layers=1)
        with_classifier = one_layer + row.num_dropped_parameters
        assert f"{one_layer:,}, or {with_classifier:,} with the classifier" in row.notes
        assert round(with_classifier / 1e6) == row.published_num_parameters_millions

    @each(MODELS)
    def test_configs_of_models(self, row):
        config = row.config
        num_labels = {"ade20k": 150, "pascal_context": 60, "cityscapes": 19}[row.dataset]
        assert config.num_labels == num_labels and "LABEL_0" not in config.label2id
        assert config.image_size == row.crop_size and config.decoder_type == row.decoder_type
        assert config.decoder_layer_norm_eps == 1e-5
        assert (config.layer_norm_eps, config.position_embedding_interpolation) == (
            (1e-5, "bilinear") if row.source == "original" else (1e-6, "bicubic")
        )
        assert (config.decoder_dropout_prob, config.decoder_drop_path_rate) == (
            (0.1, 0.0) if row.source == "original" else (0.0, 0.1)
        )

    @each([row for row in ROWS if row.is_encoder])
    def test_configs_of_encoders(self, row):
        config = row.config
        assert (config.image_size, config.patch_size, config.layer_norm_eps) == (384, 16, 1e-6)
        bilinear = row.source == "augreg"
        assert config.position_embedding_interpolation == ("bilinear" if bilinear else "bicubic")

    def test_architectures(self):
        assert len(ARCHITECTURES) == 12
        for name, architecture in ARCHITECTURES.items():
            assert f"patch{architecture.patch_size}_" in name
            assert architecture.use_distillation_token == ("distilled" in name)
            assert architecture.hidden_size == 64 * architecture.num_attention_heads
            width = {"tiny": 192, "small": 384, "base": 768, "large": 1024}[name.split("_")[1]]
            layers = 24 if "large" in name else 12
            assert (architecture.hidden_size, architecture.num_hidden_layers) == (width, layers)

    def test_config_is_the_callers(self):
        row = find_released("ade20k/seg_tiny_mask")
        row.config.id2label[0] = "changed"
        assert isinstance(row.config, SegmenterConfig) and row.config.id2label[0] == "wall"


class TestFetch:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        return make_original_checkpoint(window_stride=64).write(tmp_path / "published")

    @pytest.fixture
    def served(self, checkpoint):
        row = find_released("ade20k/seg_tiny_mask")
        return {path_of(file.url): (checkpoint / file.name).read_bytes() for file in row.files}

    def test_original_from_server_to_model(self, checkpoint, served, tmp_path, monkeypatch):
        row = find_released("ade20k/seg_tiny_mask")
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        with FlakyServer(served, Fault(), Fault(cut_after=5000)) as server:
            source = fetch_released(at(server, row), tmp_path / "cache")
            assert server.ranges == [None, None, "bytes=5000-"]
            assert source == tmp_path / "cache" / "segmenter-vit-tiny-patch16-mask-ade20k-512"
            for name in ("checkpoint.pth", "variant.yml"):
                assert (source / name).read_bytes() == (checkpoint / name).read_bytes()
            assert fetch_released(at(server, row), tmp_path / "cache") == source
            assert len(server.requests) == 3

        model, image_processor = original.load(read_source(source))
        assert model.config.num_labels == 7
        assert image_processor.window_stride == 64
        evaluated = apply_protocol(image_processor, row)
        evaluated.save_pretrained(tmp_path / "saved")
        settings = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
        assert settings["window_stride"] == 480
        assert settings["crop_size"] == {"height": 512, "width": 512}
        assert settings["size"] == {"shortest_edge": 512, "longest_edge": 2048}
        image_processor.save_pretrained(tmp_path / "as_trained")
        trained = json.loads((tmp_path / "as_trained" / "preprocessor_config.json").read_text())
        changed = {name for name in settings | trained if settings.get(name) != trained.get(name)}
        assert changed == {"window_stride", "crop_size", "size"}

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            ("ade20k/seg_tiny_mask", {"encoder_options": EncoderOptions(image_size=96)}, "options are for encoders"),
            ("ade20k/seg_tiny_mask", {"format": "timm"}, "is of the format original, not timm"),
            ("vit_tiny_p16_384", {"format": "original"}, "is of the format mmsegmentation-encoder, not original"),
        ],
    )
    def test_what_does_not_fit_a_row_costs_no_download(self, name, settings, message, tmp_path, monkeypatch):
        with FlakyServer({}) as server:
            monkeypatch.setitem(RELEASED, name, at(server, find_released(name)))
            with pytest.raises(ConversionError, match=message):
                convert_checkpoint(name, tmp_path / "a" / "output", cache_dir=tmp_path / "cache", **settings)
            assert server.requests == []
        assert not list(tmp_path.iterdir())

    def test_every_row_is_downloaded_to_its_own_folder(self, tmp_path):
        files = {path_of(file.url): file.url.encode() for row in ROWS for file in row.files}
        with FlakyServer(files) as server:
            for row in ROWS:
                without_checksum = dataclasses.replace(
                    row, files=tuple(dataclasses.replace(file, sha256_prefix=None) for file in row.files)
                )
                source = fetch_released(at(server, without_checksum), tmp_path)
                assert source.is_dir() == (row.source == "original")
                for file in row.files:
                    path = source / file.name if source.is_dir() else source
                    assert path == tmp_path / row.repo_name / file.name
                    assert path.read_bytes() == file.url.encode()

    def test_checksum_of_the_table_is_checked(self, tmp_path):
        row = find_released("vit_tiny_p16_384")
        with FlakyServer({path_of(row.files[0].url): b"something else"}) as server:
            with pytest.raises(ConversionError, match="begins with cce8c795, got"):
                fetch_released(at(server, row), tmp_path)
        assert not (tmp_path / row.repo_name / row.files[0].name).exists()

    def test_second_file_missing(self, served, tmp_path):
        row = find_released("ade20k/seg_tiny_mask")
        with FlakyServer({path: content for path, content in served.items() if path.endswith("yml")}) as server:
            with pytest.raises(ConversionError, match=r"checkpoint\.pth cannot be downloaded.*404"):
                fetch_released(at(server, row), tmp_path)

    def test_default_cache_is_that_of_the_moment(self, checkpoint, tmp_path, monkeypatch):
        row = find_released("ade20k/seg_tiny_mask")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
        folder = tmp_path / "home" / "segmenter_hf" / row.repo_name
        shutil.copytree(checkpoint, folder)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert fetch_released(row) == folder

    def test_protocol_of_encoders(self, checkpoint):
        _, image_processor = original.load(read_source(checkpoint))
        assert apply_protocol(image_processor, find_released("vit_tiny_p16_384")) is image_processor
