"""The output folder appears complete or not at all."""

import errno
import os
import re
import shutil
import signal

import pytest
import torch

from segmenter_hf import SegmenterConfig, SegmenterForSemanticSegmentation
from segmenter_hf.conversion import ConversionError, convert_checkpoint
from segmenter_hf.conversion.convert import LICENCES, load_checkpoint
from tests.common import CODE_FILES, REPOSITORY, run_in_child
from tests.conversion.original_checkpoints import make_original_checkpoint


OUTPUT_FILES = {"config.json", "model.safetensors", "preprocessor_config.json"} | CODE_FILES


@pytest.fixture
def source(tmp_path):
    return make_original_checkpoint().write(tmp_path / "source")


def names(folder) -> set[str]:
    return set(os.listdir(folder))


def test_new_folder_with_its_parents(source, tmp_path):
    output_dir = tmp_path / "models" / "segmenter"
    model = convert_checkpoint(str(source), str(output_dir))
    assert model.config.num_labels == 7 and not model.training
    assert names(output_dir) == OUTPUT_FILES
    assert names(output_dir.parent) == {"segmenter"}


def test_empty_folder_is_filled(source, tmp_path):
    output_dir = tmp_path / "output"
    output_dir.mkdir()
    convert_checkpoint(source, output_dir)
    assert names(output_dir) == OUTPUT_FILES
    assert names(tmp_path) == {"source", "output"}


def test_link_to_a_folder_is_followed(source, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    convert_checkpoint(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == OUTPUT_FILES


def test_folder_in_use_is_replaced_only_when_asked(source, tmp_path):
    output_dir = tmp_path / "output"
    convert_checkpoint(source, output_dir)
    # Conversion of a larger model, and a push, wrote these.
    stale = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "README.md", "LICENSE"}
    for name in stale:
        (output_dir / name).touch()
    shutil.copy(REPOSITORY / "model_cards" / "segmenter-encoder-vit-tiny-patch16-384.md", output_dir / "README.md")
    shutil.copy(LICENCES / "mit.txt", output_dir / "LICENSE")
    with pytest.raises(ConversionError, match=r"output is not empty.*--overwrite"):
        convert_checkpoint(source, output_dir)
    assert names(output_dir) == OUTPUT_FILES | stale
    # Earlier releases kept the windows in one of the other files.
    (output_dir / "windows_segmenter.py").unlink()
    convert_checkpoint(source, output_dir, overwrite=True)
    assert names(output_dir) == OUTPUT_FILES
    assert names(tmp_path) == {"source", "output"}


def write_file(name: str, text: str = "mine"):
    def write(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return write


def link_weights(folder):
    shutil.move(folder / "model.safetensors", folder.parent / "weights")
    (folder / "model.safetensors").symlink_to(folder.parent / "weights")


def link_photos(folder):
    (folder.parent / "photos").mkdir()
    (folder.parent / "photos" / "photo.jpg").touch()
    (folder / "photos").symlink_to(folder.parent / "photos")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_file("checkpoint-100/model.safetensors"), "checkpoint-100"),
        (write_file(".git/HEAD"), ".git"),
        (write_file("results.json"), "results.json"),
        (write_file("trainer_state.json"), "trainer_state.json"),
        (write_file("NOTES.md"), "NOTES.md"),
        (write_file("README.md", "# My thesis"), "README.md"),
        (write_file("LICENSE", "All rights reserved"), "LICENSE"),
        (write_file("mine.safetensors"), "mine.safetensors"),
        (write_file("model.safetensors.index.json/notes.txt"), "model.safetensors.index.json"),
        (write_file("config.json", '{"model_type": "vit"}'), "config.json"),
        (write_file("config.json", "half a file"), "config.json"),
        (lambda folder: (folder / "empty").mkdir(), "empty"),
        (link_weights, "model.safetensors"),
        (link_photos, "photos"),
    ],
)
@pytest.mark.parametrize("by_link", [False, True])
def test_what_conversion_has_not_written_is_never_removed(write, name, by_link, source, tmp_path, monkeypatch):
    output_dir = tmp_path / "output"
    convert_checkpoint(source, output_dir)
    write(output_dir)
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    if by_link:
        (tmp_path / "link").symlink_to(output_dir)
    monkeypatch.setattr("segmenter_hf.conversion.convert.load_checkpoint", None)
    with pytest.raises(ConversionError, match=f"output is not overwritten, .* in it: {re.escape(name)}. Choose"):
        convert_checkpoint(source, tmp_path / ("link" if by_link else "output"), overwrite=True)
    (tmp_path / "link").unlink(missing_ok=True)
    assert sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")) == before


def test_only_models_are_overwritten(source, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").touch()
    with pytest.raises(ConversionError, match=r"weights holds no config\.json"):
        convert_checkpoint(source, tmp_path / "weights", overwrite=True)
    (source / "config.json").touch()
    for output_dir in (source, source / "checkpoint.pth"):
        with pytest.raises(ConversionError, match=r"contains the source|is a file"):
            convert_checkpoint(source / "checkpoint.pth", output_dir, overwrite=True)
    assert names(source) == {"checkpoint.pth", "variant.yml", "config.json"}
    assert names(tmp_path / "weights") == {"model.safetensors"}


def test_a_killed_conversion_leaves_a_folder_that_the_next_clears(source, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(
            "segmenter_hf.conversion.convert.save_checkpoint", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        )
        assert run_in_child(lambda: convert_checkpoint(source, tmp_path / "output")) == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 and not (tmp_path / "output").exists()
    convert_checkpoint(source, tmp_path / "other")
    assert names(tmp_path) == {"source", "other"}


def test_failure_leaves_nothing_and_what_was_there(source, tmp_path):
    output_dir = tmp_path / "output"
    convert_checkpoint(source, output_dir)
    before = {name: (output_dir / name).read_bytes() for name in names(output_dir)}
    broken = make_original_checkpoint()
    del broken.state_dict["encoder.cls_token"]
    broken.write(tmp_path / "broken")
    for existing in (output_dir, tmp_path / "other"):
        with pytest.raises(ConversionError):
            convert_checkpoint(tmp_path / "broken", existing, overwrite=True)
    assert {name: (output_dir / name).read_bytes() for name in names(output_dir)} == before
    assert names(tmp_path) == {"source", "broken", "output"}


def test_failure_while_writing_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(self, folder):
        (folder / "preprocessor_config.json").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr("segmenter_hf.image_processing_pil_segmenter.SegmenterImageProcessorPil.save_pretrained", fail)
    with pytest.raises(ConversionError, match="output cannot be written: No space left on device. .+ make room"):
        convert_checkpoint(source, tmp_path / "output")
    assert names(tmp_path) == {"source"}


def test_folder_filled_meanwhile_is_kept(source, tmp_path, monkeypatch):
    def fill(*arguments):
        (tmp_path / "output").mkdir()
        (tmp_path / "output" / "notes.txt").touch()
        return load_checkpoint(*arguments)

    monkeypatch.setattr("segmenter_hf.conversion.convert.load_checkpoint", fill)
    with pytest.raises(ConversionError, match="output is not empty"):
        convert_checkpoint(source, tmp_path / "output")
    assert names(tmp_path) == {"source", "output"}
    assert names(tmp_path / "output") == {"notes.txt"}


def test_output_that_cannot_be_written_costs_no_conversion(source, tmp_path, monkeypatch):
    monkeypatch.setattr("segmenter_hf.conversion.convert.load_checkpoint", None)

    def fail(**settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with pytest.raises(ConversionError, match="output cannot be written: Permission denied"):
        convert_checkpoint(source, tmp_path / "a" / "output")
    assert names(tmp_path) == {"source"}


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "/".join(["a" * 100] * 60), "circle", "circle/a", "file/a"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_paths_that_cannot_be(path, overwrite, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match="cannot be written"):
        convert_checkpoint(source, path, overwrite=overwrite)
    assert names(tmp_path) == {"source", "circle", "file"}


def test_names_that_are_not_utf_8(source, tmp_path):
    renamed = tmp_path / os.fsdecode(b"source-\xff")
    shutil.copytree(source, renamed)
    (renamed / "checkpoint.pth").rename(renamed / os.fsdecode(b"\xfe.pth"))
    output = tmp_path / os.fsdecode(b"output-\xff")
    model = convert_checkpoint(renamed, output)
    assert list(SegmenterConfig.from_pretrained(output).source_sha256) == ["\udcfe.pth"]
    (output / os.fsdecode(b"mine-\xff")).touch()
    with pytest.raises(ConversionError, match=r": mine-\\udcff\. Choose another folder"):
        convert_checkpoint(renamed, output, overwrite=True)
    # transformers, and safetensors, load from no such folder.
    loaded = SegmenterForSemanticSegmentation.from_pretrained(output.rename(tmp_path / "output"))
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


def test_warnings_follow_success_only(tmp_path, caplog, monkeypatch):
    source = make_original_checkpoint(dataset="mine").write(tmp_path / "source")
    convert_checkpoint(source, tmp_path / "output")
    assert [message for message in caplog.messages if "LABEL_6" in message] == caplog.messages != []
    caplog.clear()

    def fail(self, folder):
        raise OSError("No space left on device")

    monkeypatch.setattr("segmenter_hf.image_processing_pil_segmenter.SegmenterImageProcessorPil.save_pretrained", fail)
    with pytest.raises(ConversionError, match="No space left"):
        convert_checkpoint(source, tmp_path / "other")
    assert caplog.messages == []
