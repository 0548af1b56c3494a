"""Auto classes and saved folders, in fresh interpreters: with the package, and with only the code in the folder."""

import importlib
import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_imports

import segmenter_hf
from segmenter_hf import (
    SegmenterForSemanticSegmentation,
    SegmenterImageProcessor,
    SegmenterImageProcessorPil,
    SegmenterModel,
)

from .common import CODE_FILES, REPOSITORY, random_pixel_values, run_python, tiny_config


AUTO_MAP = {
    "AutoConfig": "configuration_segmenter.SegmenterConfig",
    "AutoModel": "modeling_segmenter.SegmenterModel",
    "AutoModelForSemanticSegmentation": "modeling_segmenter.SegmenterForSemanticSegmentation",
}
IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": {
        "torchvision": "image_processing_segmenter.SegmenterImageProcessor",
        "pil": "image_processing_pil_segmenter.SegmenterImageProcessorPil",
    }
}
MODEL_FILES = {"configuration_segmenter.py", "modeling_segmenter.py"}


def auto_map(folder, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegmenterForSemanticSegmentation(tiny_config(initializer_range=0.2)).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    SegmenterImageProcessor(size={"height": 40, "width": 48}, patch_size=8).save_pretrained(folder)
    return folder


# Loads everything that has an Auto class from the folder given, and reports what came.
LOAD = """
import json, sys
import torch
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline
)

folder, trusted = sys.argv[1], {"trust_remote_code": True} if "remote" in sys.argv else {}
model = AutoModelForSemanticSegmentation.from_pretrained(folder, **trusted)
processors = {
    backend: AutoImageProcessor.from_pretrained(folder, backend=backend, **trusted)
    for backend in ("torchvision", "pil")
}
pipe = pipeline("image-segmentation", model=folder, **trusted)
pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
report = {
    "config": type(AutoConfig.from_pretrained(folder, **trusted)).__name__,
    "encoder": type(AutoModel.from_pretrained(folder, **trusted)).__name__,
    "model": type(model).__name__,
    "processors": {backend: type(processor).__name__ for backend, processor in processors.items()},
    "sizes": [dict(processor.size) for processor in processors.values()],
    "default_processor": type(AutoImageProcessor.from_pretrained(folder, **trusted)).__name__,
    "pipeline": [type(pipe.model).__name__, type(pipe.image_processor).__name__],
    "module": type(model).__module__.partition(".")[0],
    "logits": model(pixel_values).logits.tolist(),
}
"""
EXPECTED = {
    "config": "SegmenterConfig",
    "encoder": "SegmenterModel",
    "model": "SegmenterForSemanticSegmentation",
    "processors": {"torchvision": "SegmenterImageProcessor", "pil": "SegmenterImageProcessorPil"},
    "sizes": [{"height": 40, "width": 48}] * 2,
    "default_processor": "SegmenterImageProcessor",
    "pipeline": ["SegmenterForSemanticSegmentation", "SegmenterImageProcessor"],
}


def check_report(report: dict, model: SegmenterForSemanticSegmentation):
    logits = torch.tensor(report.pop("logits"))
    with torch.no_grad():
        torch.testing.assert_close(logits, model(random_pixel_values()).logits)
    assert report == EXPECTED


def test_importing_the_package_is_all_that_auto_classes_need(model, folder, tmp_path):
    result = run_python("import segmenter_hf\n" + LOAD + "print(json.dumps(report))", folder, cwd=tmp_path)
    report = json.loads(result.stdout)
    assert report.pop("module") == "segmenter_hf"
    check_report(report, model)
    # Registered models are missing in the table that the pipeline checks, and it says so as an error, then works.
    assert "not supported" not in result.stderr


def test_importing_the_package_loads_none_of_the_optional_ones(tmp_path):
    code = "import sys; import segmenter_hf; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run_python(code, cwd=tmp_path).stdout.split())
    assert "segmenter_hf" in loaded and "transformers" in loaded
    assert not loaded & {"datasets", "evaluate", "matplotlib", "pandas", "peft", "timm"}


def test_importing_twice_registers_twice():
    importlib.reload(segmenter_hf)


def test_saved_folder_holds_its_code(folder):
    assert {path.name for path in folder.glob("*.py")} == CODE_FILES
    for name in CODE_FILES:
        assert (folder / name).read_bytes() == (REPOSITORY / "segmenter_hf" / name).read_bytes()
    assert auto_map(folder, "config.json") == AUTO_MAP
    assert auto_map(folder, "preprocessor_config.json") == IMAGE_PROCESSOR_AUTO_MAP


@pytest.mark.parametrize("processor_class", [SegmenterImageProcessor, SegmenterImageProcessorPil])
def test_either_image_processor_saves_both(processor_class, tmp_path):
    processor_class().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE_FILES - MODEL_FILES
    assert auto_map(tmp_path, "preprocessor_config.json") == IMAGE_PROCESSOR_AUTO_MAP
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert settings["image_processor_type"] == "SegmenterImageProcessor"


@pytest.mark.parametrize("model_class", [SegmenterModel, SegmenterForSemanticSegmentation])
def test_either_model_saves_what_it_needs(model_class, tmp_path):
    model_class(tiny_config()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == MODEL_FILES
    assert auto_map(tmp_path, "config.json") == AUTO_MAP


@pytest.mark.parametrize("name", sorted(CODE_FILES))
def test_code_imports_only_what_a_model_repository_may(name):
    """As the library sees it, which asks users to install what else there is."""
    needed = {name.partition(".")[0] for name in get_imports(REPOSITORY / "segmenter_hf" / name)}
    assert needed - set(sys.stdlib_module_names) <= {"PIL", "huggingface_hub", "numpy", "torch", "transformers"}


def test_subclasses_point_to_themselves(tmp_path, monkeypatch):
    (tmp_path / "modeling_mine.py").write_text(
        "from segmenter_hf import SegmenterForSemanticSegmentation\n\n\n"
        "class MySegmenter(SegmenterForSemanticSegmentation):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    my_class = importlib.import_module("modeling_mine").MySegmenter
    my_class(tiny_config()).save_pretrained(tmp_path / "saved")
    assert auto_map(tmp_path / "saved", "config.json") == {
        "AutoConfig": AUTO_MAP["AutoConfig"],
        "AutoModelForSemanticSegmentation": "modeling_mine.MySegmenter",
    }
    for processor_class in (SegmenterImageProcessor, SegmenterImageProcessorPil):
        subclass = type("MyImageProcessor", (processor_class,), {"__module__": "my_module"})
        assert subclass().to_dict().get("auto_map") != IMAGE_PROCESSOR_AUTO_MAP


def test_references_to_a_hub_repository_become_local_where_the_code_is_saved(tmp_path):
    config = tiny_config()
    config.auto_map = {name: f"someone/segmenter--{reference}" for name, reference in AUTO_MAP.items()}
    assert config.to_dict()["auto_map"] == config.auto_map
    SegmenterForSemanticSegmentation(config).save_pretrained(tmp_path)
    assert auto_map(tmp_path, "config.json") == AUTO_MAP


@pytest.mark.slow
def test_folder_works_without_the_package_and_so_does_its_copy(model, folder, tmp_path):
    # The copy is saved by that interpreter, once from each backend, the way people fine-tune remote code.
    save = """
for backend, processor in processors.items():
    model.save_pretrained(f"copy_{backend}")
    processor.save_pretrained(f"copy_{backend}")
print(json.dumps(report))
"""
    result = run_python(LOAD + save, folder, "remote", cwd=tmp_path, with_package=False)
    report = json.loads(result.stdout)
    assert report.pop("module") == "transformers_modules"
    check_report(report, model)
    assert "not supported" not in result.stderr

    for backend in ("torchvision", "pil"):
        copy = tmp_path / f"copy_{backend}"
        assert {path.name for path in copy.glob("*.py")} == CODE_FILES
        assert auto_map(copy, "config.json") == AUTO_MAP
        assert auto_map(copy, "preprocessor_config.json") == IMAGE_PROCESSOR_AUTO_MAP
        saved, original = load_file(copy / "model.safetensors"), load_file(folder / "model.safetensors")
        assert saved.keys() == original.keys()
        assert all(torch.equal(saved[name], original[name]) for name in saved)
        result = run_python(LOAD + "print(json.dumps(report))", copy, "remote", cwd=tmp_path, with_package=False)
        report = json.loads(result.stdout)
        assert report.pop("module") == "transformers_modules"
        check_report(report, model)


@pytest.mark.slow
def test_code_of_a_folder_only_runs_when_it_is_trusted(folder, tmp_path):
    run_python(
        """
import sys
from transformers import AutoModelForSemanticSegmentation
try:
    AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise AssertionError("loaded")
assert not [name for name in sys.modules if name.startswith(("segmenter_hf", "transformers_modules."))]
""",
        folder,
        cwd=tmp_path,
        with_package=False,
    )


@pytest.mark.slow
def test_encoder_folder_becomes_a_segmentation_model_without_the_package(tmp_path):
    SegmenterModel(tiny_config()).save_pretrained(tmp_path / "encoder")
    run_python(
        """
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained("encoder", num_labels=3, trust_remote_code=True)
assert type(model).__name__ == "SegmenterForSemanticSegmentation"
assert model.config.num_labels == 3
""",
        cwd=tmp_path,
        with_package=False,
    )
