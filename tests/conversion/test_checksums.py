"""Files that are not what was written any more are refused, before anything in them is used."""

import hashlib
import json
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterModel
from segmenter_hf.conversion import ConversionError, convert_checkpoint
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.safe_loading import load_torch_file, load_weights
from tests.common import REPOSITORY
from tests.conversion.original_checkpoints import make_original_checkpoint


FIXTURES = REPOSITORY / "tests" / "fixtures"
ARCHIVES = [
    "original/mask_patch16/checkpoint.pth",
    "original/mask_distilled/checkpoint.pth",
    "mmseg/mask_v1/checkpoint.pth",
    "augreg/vit_patch16/mmseg_vit.pth",
    "augreg/vit_patch16/checkpoint.npz",
]


def list_records(path: Path) -> list[tuple[int, int]]:
    """Where the contents of each record that is not empty begin, and how many bytes they have."""
    data, places = path.read_bytes(), []
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            name_length, extra_length = struct.unpack_from("<HH", data, record.header_offset + 26)
            places.append((record.header_offset + 30 + name_length + extra_length, record.file_size))
    return [(start, size) for start, size in places if size]


def flip_bit(path: Path, position: int, bit: int = 0):
    with path.open("rb+") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def save_without_checksums(contents, path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(contents, path)
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("name", ARCHIVES)
def test_any_flipped_bit_is_refused(name, tmp_path):
    """At the beginning, inside and at the end of records: weights, and what is beside them."""
    shutil.copytree((FIXTURES / name).parent, tmp_path / "source")
    path = tmp_path / "source" / Path(name).name
    generator = np.random.default_rng(0)
    records = list_records(path)
    for index in generator.choice(len(records), 12, replace=False):
        start, size = records[index]
        position, bit = start + int(generator.choice([0, size // 2, size - 1])), int(generator.integers(8))
        flip_bit(path, position, bit)
        with pytest.raises(ConversionError, match="is damaged: what it holds does not fit its checksums, in .*again"):
            load_checkpoint(path)
        flip_bit(path, position, bit)
    load_checkpoint(path)


def test_no_bit_outside_the_records_changes_weights(tmp_path):
    """With a bit of headers or padding changed, either the file is refused, or it holds what it held."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"weight": torch.arange(6.0)}, "epoch": 3}, path)
    generator = np.random.default_rng(0)
    outcomes = set()
    for position in generator.choice(path.stat().st_size, 300, replace=False).tolist():
        flip_bit(path, position, position % 8)
        try:
            loaded = load_torch_file(path)
            outcomes.add("loaded")
            assert torch.equal(loaded["model"]["weight"], torch.arange(6.0)) and loaded["epoch"] == 3
        except ConversionError:
            outcomes.add("refused")
        flip_bit(path, position, position % 8)
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shards"])
def test_folders_of_transformers_are_checked(name, tmp_path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    state_dict = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    if name == "shards":
        name = "second.bin"
        files = {key: ("first.bin", name)[index % 2] for index, key in enumerate(state_dict)}
        for file in ("first.bin", name):
            torch.save({key: state_dict[key] for key in state_dict if files[key] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
        expected = {file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for file in ("first.bin", name)}
    else:
        torch.save(state_dict, tmp_path / name)
        expected = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
    assert load_checkpoint(tmp_path)[0].config.source_sha256 == expected
    flip_bit(tmp_path / name, list_records(tmp_path / name)[-3][0])
    with pytest.raises(ConversionError, match=f"{name} is damaged"):
        load_checkpoint(tmp_path)


def test_files_without_checksums_are_taken_when_asked_only(tmp_path):
    folder = make_original_checkpoint().write(tmp_path / "source")
    contents = torch.load(folder / "checkpoint.pth")
    save_without_checksums(contents, folder / "checkpoint.pth")
    with pytest.raises(ConversionError, match=r"without checksums \(torch.*--allow_missing_checksums"):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    model = convert_checkpoint(folder, tmp_path / "converted", allow_missing_checksums=True)
    assert torch.equal(model.segmenter.embeddings.cls_token, contents["model"]["encoder.cls_token"])

    # That is no leave for damage, which checksums show.
    torch.save(contents, folder / "checkpoint.pth")
    flip_bit(folder / "checkpoint.pth", list_records(folder / "checkpoint.pth")[5][0])
    with pytest.raises(ConversionError, match="is damaged"):
        load_checkpoint(folder, allow_missing_checksums=True)


def test_single_checksum_that_is_0_is_damage(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"weight": torch.arange(6.0)}, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (checksum,) = (record.CRC for record in archive.infolist() if record.filename.endswith("/data/0"))
    path.write_bytes(data.replace(struct.pack("<I", checksum), bytes(4)))
    with pytest.raises(ConversionError, match="is damaged: .* in checkpoint/data/0"):
        load_torch_file(path, allow_missing_checksums=True)


def test_records_over_each_other_are_refused(tmp_path):
    """A few bytes in the list of records for each claim to hold the whole file: reading them all takes forever."""
    path = tmp_path / "checkpoint.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint/data.pkl", bytes(10**6))
        record = archive.infolist()[0]
        archive.filelist += [record] * 20000
    with pytest.raises(ConversionError, match="are compressed or overlap"):
        load_torch_file(path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"weight": torch.zeros(2**23)}, path)  # 32 MiB
    tracemalloc.start()
    try:
        load_weights(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize("name", [*ARCHIVES, "augreg/vit_patch16/timm.safetensors"])
def test_sha256_of_the_source_is_kept(name, tmp_path):
    path = FIXTURES / name
    convert_checkpoint(path, tmp_path / "converted")
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    is_encoder = name.startswith("augreg")
    model = (SegmenterModel if is_encoder else SegmenterForSemanticSegmentation).from_pretrained(
        tmp_path / "converted"
    )
    model.save_pretrained(tmp_path / "again")
    for folder in ("converted", "again"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["source_sha256"] == expected


@pytest.mark.parametrize("kind", ["safetensors", "legacy"])
def test_files_of_formats_without_checksums_differ_in_their_sha256(kind, tmp_path):
    state_dict = load_file(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors")
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization=False)
    intact, _ = load_checkpoint(path)
    expected = intact.embeddings.position_embeddings.clone()
    flip_bit(path, path.read_bytes().index(state_dict["pos_embed"].numpy().tobytes()))
    changed, _ = load_checkpoint(path)
    assert changed.config.source_sha256 != intact.config.source_sha256
    assert not torch.equal(changed.embeddings.position_embeddings, expected)
