"""
What model cards say beside the table of released checkpoints: of data sets, of the code that trained the weights, of
the encoders that training started from, and whom to cite.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """
    A data set that models were trained on.

    Args:
        name (`str`): Its name for readers.
        url (`str`): Its home page.
        type (`str`): Its identifier in a model index.
        num_training_images (`int`): Size of the training split.
        num_validation_images (`int`): Size of the validation split, on which figures are published.
        limits (`str`): What models trained on it have not seen, and what is known of its labels.
        terms (`str`): The terms of its images, to follow "of".
        hub_id (`str`, *optional*): Its id on the Hub, if there is one that is not a copy by a third party.
        label_note (`str`, *optional*): What label maps need before they fit the model's labels.
    """

    name: str
    url: str
    type: str
    num_training_images: int
    num_validation_images: int
    limits: str
    terms: str
    hub_id: str | None = None
    label_note: str = ""


DATASETS = {
    "ade20k": Dataset(
        name="ADE20K",
        url="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        type="zhoubolei/scene_parse_150",
        num_training_images=20_210,
        num_validation_images=2_000,
        limits="It has seen photos of everyday indoor and outdoor scenes. How well regions of the world, kinds of "
        "homes and people are covered by them is not documented, so expect it to be weaker where yours differ. The "
        "labels are noisy: when the annotator of ADE20K labelled 61 validation images once more, 82.4 percent of the "
        "pixels got the same label (Zhou et al., CVPR 2017). A few classes (wall, building, sky, floor) make up a "
        "large part of the pixels, and many have few examples; mean IoU counts all classes alike, and single ones are "
        "far below it.",
        terms="[ADE20K](https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/), for non-commercial research and "
        "education",
        hub_id="zhoubolei/scene_parse_150",
        label_note="ADE20K's label maps store 0 for what has none of these labels, and the label plus 1 for the rest: "
        "the image processor takes them as they are (`do_reduce_labels`).",
    ),
    "pascal_context": Dataset(
        name="Pascal Context",
        url="https://cs.stanford.edu/~roozbeh/pascal-context/",
        type="pascal_context",
        num_training_images=4_998,
        num_validation_images=5_105,
        limits="It has seen a few thousand photos of Flickr from before 2011, which were collected for the 20 object "
        "classes of PASCAL VOC: other subjects, places and newer things are rare among them. All that is none of the "
        "59 frequent classes is labelled background, in which the model therefore puts whatever it does not know. "
        "Mean IoU counts all classes alike, and rare ones are far below it.",
        terms="[PASCAL VOC](http://host.robots.ox.ac.uk/pascal/VOC/voc2010/), whose photos are subject to Flickr's",
        label_note="They are the 59 frequent classes and the background, which is label 0.",
    ),
    "cityscapes": Dataset(
        name="Cityscapes",
        url="https://www.cityscapes-dataset.com",
        type="cityscapes",
        num_training_images=2_975,
        num_validation_images=500,
        limits="It has seen streets of German cities and a few of their neighbours, from one kind of camera behind "
        "the windscreen of a car, by day, in good or medium weather, from spring to autumn. Other countries, night, "
        "heavy rain, snow, other cameras and viewpoints are out of its reach. Some classes (train, truck, bus, rider) "
        "are rare, and mean IoU, which counts all classes alike, hides how uneven they are.",
        terms="[Cityscapes](https://www.cityscapes-dataset.com/license/), for non-commercial purposes",
        label_note="They are Cityscapes' train ids.",
    ),
}
IMAGENET_TERMS = "[ImageNet](https://www.image-net.org/download.php), for non-commercial research and education"
IMAGENET_HUB_ID = "ILSVRC/imagenet-1k"


@dataclass(frozen=True)
class Source:
    """
    The code base that a checkpoint is from.

    Args:
        name (`str`): Its name for readers.
        url (`str`): Where its code is.
        results_url (`str`): Where it publishes figures.
        citations (`tuple[str, ...]`): Keys of `CITATIONS`, beside that of the encoder's weights.
    """

    name: str
    url: str
    results_url: str
    citations: tuple[str, ...]


_ORIGINAL_URL = "https://github.com/rstrudel/segmenter"
_MMSEGMENTATION_URL = "https://github.com/open-mmlab/mmsegmentation"
_MMSEGMENTATION = Source(
    "MMSegmentation",
    _MMSEGMENTATION_URL,
    f"{_MMSEGMENTATION_URL}/tree/main/configs/segmenter",
    ("segmenter", "mmsegmentation"),
)
SOURCES = {
    "original": Source("the original implementation", _ORIGINAL_URL, f"{_ORIGINAL_URL}#model-zoo", ("segmenter",)),
    "mmsegmentation": _MMSEGMENTATION,
    "mmsegmentation-encoder": _MMSEGMENTATION,
    "augreg": Source(
        "AugReg",
        "https://github.com/google-research/vision_transformer",
        "https://github.com/google-research/vision_transformer",
        ("segmenter",),
    ),
}


@dataclass(frozen=True)
class PretrainedWeights:
    """
    The encoder weights that training started from.

    Args:
        description (`str`): What they are, to follow "from".
        base_model (`str`, *optional*): Their id on the Hub, where exactly these weights are there.
        citations (`tuple[str, ...]`): Keys of `CITATIONS`.
    """

    description: str
    base_model: str | None
    citations: tuple[str, ...]


def _augreg(backbone: str) -> PretrainedWeights:
    base_model = f"timm/{backbone}.augreg_in21k_ft_in1k"
    return PretrainedWeights(
        f"[`{base_model}`](https://huggingface.co/{base_model}): [AugReg](https://arxiv.org/abs/2106.10270), trained "
        "to classify ImageNet-21k, then ImageNet-1k at 384 x 384",
        base_model,
        ("augreg",),
    )


_DEIT_BASE = "facebook/deit-base-distilled-patch16-384"
# segm/model/factory.py of the original implementation, with timm 0.4.12, whose default weights these are.
PRETRAINED_WEIGHTS = {
    **{
        backbone: _augreg(backbone)
        for backbone in (
            "vit_tiny_patch16_384",
            "vit_small_patch16_384",
            "vit_base_patch16_384",
            "vit_large_patch16_384",
        )
    },
    # The one backbone that the original loads from a file which is neither released nor among timm's.
    "vit_base_patch8_384": PretrainedWeights(
        "a file of the authors, `vit_base_patch8_384.pth`, which was not released: their code calls it a Vision "
        "Transformer of [google-research/vision_transformer](https://github.com/google-research/vision_transformer), "
        "trained on ImageNet-21k and then on ImageNet-1k at 384 x 384, and their README says that encoders are those "
        "of [AugReg](https://arxiv.org/abs/2106.10270). Which of its files it was made from is not known, so that "
        "this card names no base model",
        None,
        ("augreg",),
    ),
    "deit_base_distilled_patch16_384": PretrainedWeights(
        f"[`{_DEIT_BASE}`](https://huggingface.co/{_DEIT_BASE}): [DeiT](https://arxiv.org/abs/2012.12877), trained to "
        "classify ImageNet-1k with distillation, at 384 x 384 in the end",
        _DEIT_BASE,
        ("deit",),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast the original trained on a data set (segm/config.yml and the table of the paper)."""

    num_epochs: int
    batch_size: int
    learning_rate: str


RECIPES = {
    "ade20k": Recipe(64, 8, "1e-3"),
    "pascal_context": Recipe(256, 16, "1e-3"),
    "cityscapes": Recipe(216, 8, "1e-2"),
}

# Images that cards of segmentation models offer to their readers: address and title.
_ADE20K_IMAGES = "https://huggingface.co/datasets/hf-internal-testing/fixtures_ade20k/resolve/main"
_SAMPLE_IMAGES = "https://huggingface.co/datasets/mishig/sample_images/resolve/main"
WIDGET_IMAGES = {
    "ade20k": (
        (f"{_ADE20K_IMAGES}/ADE_val_00000001.jpg", "House"),
        (f"{_ADE20K_IMAGES}/ADE_val_00000002.jpg", "Castle"),
    ),
    "pascal_context": ((f"{_SAMPLE_IMAGES}/tiger.jpg", "Tiger"), (f"{_SAMPLE_IMAGES}/palace.jpg", "Palace")),
    "cityscapes": (
        (
            "https://cdn-media.huggingface.co/Inference-API/Sample-results-on-the-Cityscapes-dataset-The-above-images-"
            "show-how-our-method-can-handle.png",
            "Road",
        ),
    ),
}

CITATIONS = {
    "segmenter": r"""@inproceedings{strudel2021segmenter,
  title     = {Segmenter: Transformer for Semantic Segmentation},
  author    = {Strudel, Robin and Garcia, Ricardo and Laptev, Ivan and Schmid, Cordelia},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages     = {7262--7272},
  year      = {2021}
}""",
    "mmsegmentation": r"""@misc{mmseg2020,
  title        = {{MMSegmentation}: OpenMMLab Semantic Segmentation Toolbox and Benchmark},
  author       = {MMSegmentation Contributors},
  howpublished = {\url{https://github.com/open-mmlab/mmsegmentation}},
  year         = {2020}
}""",
    "augreg": r"""@article{steiner2021augreg,
  title   = {How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers},
  author  = {Steiner, Andreas and Kolesnikov, Alexander and Zhai, Xiaohua and Wightman, Ross and Uszkoreit, Jakob and
             Beyer, Lucas},
  journal = {arXiv preprint arXiv:2106.10270},
  year    = {2021}
}""",
    "deit": r"""@inproceedings{touvron2021training,
  title     = {Training data-efficient image transformers \& distillation through attention},
  author    = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles, Alexandre
               and J{\'e}gou, Herv{\'e}},
  booktitle = {International Conference on Machine Learning (ICML)},
  pages     = {10347--10357},
  year      = {2021}
}""",
}


__all__ = [
    "CITATIONS",
    "DATASETS",
    "IMAGENET_HUB_ID",
    "IMAGENET_TERMS",
    "PRETRAINED_WEIGHTS",
    "RECIPES",
    "SOURCES",
    "WIDGET_IMAGES",
    "Dataset",
    "PretrainedWeights",
    "Recipe",
    "Source",
]
