"""Segmenter (Strudel et al., ICCV 2021) for transformers. Importing the package registers it with the Auto classes."""

from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

from .configuration_segmenter import SegmenterConfig
from .image_processing_pil_segmenter import SegmenterImageProcessorPil
from .image_processing_segmenter import SegmenterImageProcessor
from .modeling_segmenter import SegmenterForSemanticSegmentation, SegmenterModel, SegmenterPreTrainedModel


__version__ = "0.1.0"

AutoConfig.register("segmenter", SegmenterConfig, exist_ok=True)
AutoModel.register(SegmenterConfig, SegmenterModel, exist_ok=True)
AutoModelForSemanticSegmentation.register(SegmenterConfig, SegmenterForSemanticSegmentation, exist_ok=True)
AutoImageProcessor.register(
    SegmenterConfig,
    image_processor_classes={"torchvision": SegmenterImageProcessor, "pil": SegmenterImageProcessorPil},
    exist_ok=True,
)

# What is saved carries the code that loads it, so that it can be pushed as it is and used without this package.
SegmenterConfig.register_for_auto_class()
SegmenterModel.register_for_auto_class("AutoModel")
SegmenterForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
SegmenterImageProcessor.register_for_auto_class()
SegmenterImageProcessorPil.register_for_auto_class()


def default_checkpoint() -> str:
    """
    The folder of the checkpoint that ships with the package, for `from_pretrained` and
    `pipeline("image-segmentation", model=default_checkpoint())`: a small Segmenter, trained on eleven classes of road
    scenes (CamVid), whose image processor cuts images of any size into windows of 240 x 320 pixels. Its
    README.md says how it was trained and what it scores, its NOTICE on which terms it may be used.
    It holds no code, as whoever calls this has the package. What is saved after loading it does.
    """
    return str(Path(__file__).parent / "checkpoints" / "camvid")


__all__ = [
    "SegmenterConfig",
    "SegmenterForSemanticSegmentation",
    "SegmenterImageProcessor",
    "SegmenterImageProcessorPil",
    "SegmenterModel",
    "SegmenterPreTrainedModel",
    "default_checkpoint",
]
