"""Installs `segmenter_hf`. Lower bounds of what it computes with are the oldest releases that were tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).resolve().parent

# The version is read, not imported: importing the package takes torch and transformers, which are not there yet.
source = (ROOT / "segmenter_hf" / "__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"$', source, flags=re.MULTILINE)[1]

extras = {
    # `Trainer` halves gradients before 5.6.0 when it accumulates two batches, and accelerate knows trackio from 1.9.0
    # on. Weights to start from are read as in conversion.
    "train": ["accelerate>=1.9.0", "datasets>=4.0.0", "filelock>=3.12", "transformers>=5.6.0"],
    # peft makes low-rank adapters.
    "peft": ["peft>=0.18.0"],
    # These track training.
    "track": ["tensorboard>=2.19", "trackio>=0.40.0"],
    # It draws the curves of training.
    "plot": ["matplotlib>=3.9"],
    # These read images of more bands than Pillow does, with the compressions that programs for maps use.
    "tiff": ["imagecodecs>=2024.9.22", "tifffile>=2024.8.30"],
    # Evaluation, by the protocols of the published figures, needs these.
    "evaluate": ["accelerate>=1.9.0", "datasets>=4.0.0", "evaluate>=0.4.6"],
    # Conversion locks what it downloads.
    "convert": ["filelock>=3.12"],
}
extras["all"] = sorted({requirement for requirements in extras.values() for requirement in requirements})
extras["test"] = [
    *extras["all"],
    "parameterized>=0.9",
    "pytest>=8.4",
    "pytest-xdist>=3.6",
    "ruff>=0.17,<0.18",
    "setuptools>=77",
    # Encoders of timm are converted by it; conversion asks for it only where it downloads one by name.
    "timm>=1.0.31",
]

setup(
    name="segmenter_hf",
    version=version,
    description="Segmenter, a transformer for semantic segmentation (ICCV 2021), for Hugging Face transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    # This is the licence of the code. The weights that come along have terms of their own: see the NOTICE beside them.
    license_expression="Apache-2.0",
    license_files=["LICENSE", "segmenter_hf/checkpoints/*/NOTICE"],
    keywords=["semantic segmentation", "vision transformer", "segmenter", "transformers", "pytorch"],
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["segmenter_hf", "segmenter_hf.*"]),
    package_data={
        "segmenter_hf": [
            "conversion/licences/*.txt",
            "conversion/released.yaml",
            "data/label_sets/*.json",
            *("hub/facts/*.bib", "hub/facts/*.yaml", "hub/templates/*.jinja"),
            *(f"checkpoints/*/{name}" for name in ("*.json", "*.md", "*.safetensors", "NOTICE")),
        ]
    },
    python_requires=">=3.11",
    install_requires=[
        "huggingface_hub>=1.5.0",
        # Model cards are templates.
        "jinja2>=3.1",
        "numpy>=2.0",
        "pillow>=11.0",
        # The table of released checkpoints and the facts in cards are YAML.
        "pyyaml>=6.0",
        "safetensors>=0.4.3",
        # With 2.6, transformers' models do not compile without graph breaks. With 2.8, they export with dimensions
        # that are `Dim.DYNAMIC`; later releases take named ones too.
        "torch>=2.8",
        # The faster of the two image processors, and augmentation; inference works without.
        "torchvision>=0.23",
        # The first release whose image processors have backends.
        "transformers>=5.4.0",
    ],
    extras_require=extras,
)
