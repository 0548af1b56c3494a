"""
A model that was fine-tuned is as complete on the Hub as the one that it started from: code, both image processors,
labels, normalisation and windows. With the package, and where nobody has it.
"""

import json

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessorPil
from tests.common import CODE_FILES, run_python, tiny_config
from tests.hub.hub_server import HubServer, client_environment


SOURCE, TARGET = "lab/released", "lab/fine-tuned"
PROCESSOR_SETTINGS = {
    "do_split_image": True,
    "size": {"shortest_edge": 40, "longest_edge": 160},
    "crop_size": {"height": 32, "width": 40},
    "window_stride": {"height": 24, "width": 20},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "antialias": False,
    "patch_size": 8,
}

UPLOAD = """
import sys, huggingface_hub
repo_id, folder = sys.argv[1:]
huggingface_hub.create_repo(repo_id)
huggingface_hub.upload_folder(repo_id=repo_id, folder_path=folder)
"""

FINE_TUNE = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
source, target, output, *settings = sys.argv[1:]
if "with_package" in settings:
    import segmenter_hf
    settings = {}
else:
    settings = {"trust_remote_code": True}
model = AutoModelForSemanticSegmentation.from_pretrained(
    source, num_labels=2, id2label={0: "road", 1: "sky"}, ignore_mismatched_sizes=True, **settings
).train()
image_processor = AutoImageProcessor.from_pretrained(source, **settings)
images = torch.arange(3 * 50 * 70, dtype=torch.uint8).view(3, 50, 70)
inputs = image_processor(images, segmentation_maps=(images[0] > 99).long(), return_tensors="pt")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(**inputs).loss.backward()
optimizer.step()
model.push_to_hub(target)
image_processor.push_to_hub(target)
with torch.no_grad():
    torch.save(model.eval()(**image_processor(images, return_tensors="pt")).logits, output)
"""

RELOAD = """
import sys, torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline
target, output = sys.argv[1:]
settings = {"trust_remote_code": True}
model = AutoModelForSemanticSegmentation.from_pretrained(target, **settings)
AutoModel.from_pretrained(target, **settings)
images = torch.arange(3 * 50 * 70, dtype=torch.uint8).view(3, 50, 70)
logits = {}
for backend in ("torchvision", "pil"):
    image_processor = AutoImageProcessor.from_pretrained(target, backend=backend, **settings)
    assert image_processor.backend == backend, image_processor
    with torch.no_grad():
        logits[backend] = model(**image_processor(images, return_tensors="pt")).logits
segmenter = pipeline("image-segmentation", model=target, **settings)
assert set(segmenter.model.config.label2id) == {"road", "sky"}
torch.save(logits, output)
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    torch.manual_seed(0)
    folder = tmp_path / "released"
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(folder)
    SegmenterImageProcessorPil(**PROCESSOR_SETTINGS).save_pretrained(folder)
    with HubServer(organizations=("lab",)) as server:
        environment = client_environment(server.endpoint, "hf_write", tmp_path / "hf_home")
        run_python(UPLOAD, SOURCE, folder, cwd=tmp_path, environment=environment)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("with_package", [True, False])
def test_fine_tuned_model_is_complete_on_the_hub(with_package, server, tmp_path):
    environment = client_environment(server.endpoint, "hf_write", tmp_path / "hf_home")
    arguments = (SOURCE, TARGET, tmp_path / "trained.pt", *(["with_package"] if with_package else []))
    run_python(FINE_TUNE, *arguments, cwd=tmp_path, with_package=with_package, environment=environment)

    files = server.files(TARGET)
    assert files.keys() >= CODE_FILES | {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in CODE_FILES:
        assert files[name] == server.files(SOURCE)[name]
    config = json.loads(files["config.json"])
    assert config["id2label"] == {"0": "road", "1": "sky"}
    assert config["auto_map"].keys() == {"AutoConfig", "AutoModel", "AutoModelForSemanticSegmentation"}
    settings = json.loads(files["preprocessor_config.json"])
    assert {name: settings[name] for name in PROCESSOR_SETTINGS} == PROCESSOR_SETTINGS
    assert settings["auto_map"]["AutoImageProcessor"] == {
        "torchvision": "image_processing_segmenter.SegmenterImageProcessor",
        "pil": "image_processing_pil_segmenter.SegmenterImageProcessorPil",
    }

    # Somebody else's machine, then without a network.
    environment = client_environment(server.endpoint, None, tmp_path / "other_home")
    for name, setting in (("online", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
        number = len(server.requests)
        run_python(
            RELOAD,
            TARGET,
            tmp_path / f"{name}.pt",
            cwd=tmp_path,
            with_package=False,
            environment=environment | setting,
        )
        assert (len(server.requests) > number) == (name == "online")
    trained, online, offline = (torch.load(tmp_path / f"{name}.pt") for name in ("trained", "online", "offline"))
    for backend in ("torchvision", "pil"):
        torch.testing.assert_close(online[backend], trained, atol=1e-5, rtol=0)
        assert torch.equal(online[backend], offline[backend])
