"""The text of model cards, section by section: plain functions of a row of the table of released checkpoints."""

from collections.abc import Sequence
from dataclasses import replace

from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from ..configuration_segmenter import SegmenterConfig
from ..conversion.original import DATASET_CONFIGS
from ..conversion.released import ARCHITECTURES, ReleasedCheckpoint
from ..data.labels import load_label_set
from ..evaluation.record import MEASURED, PUBLISHED, Figure
from .card_facts import CITATIONS, DATASETS, IMAGENET_TERMS, PRETRAINED_WEIGHTS, RECIPES, SOURCES
from .markdown import bullets, code_block, paragraph
from .results_text import describe_fingerprints, describe_input, format_results_table, write_classes, write_measurement


PAPER = "[Segmenter](https://arxiv.org/abs/2105.05633) (Strudel, Garcia, Laptev, Schmid, ICCV 2021)"
LICENCE_NAMES = {"mit": "MIT", "apache-2.0": "Apache-2.0"}
# The letters by which the paper calls the widths of encoders.
SIZE_LETTERS = {192: "T", 384: "S", 768: "B", 1024: "L"}

PIPELINE_SNIPPET = """\
from PIL import Image
from transformers import pipeline

segmenter = pipeline(
    "image-segmentation",
    model="{repo_id}",
    revision="{revision}",
    trust_remote_code=True,
)
for segment in segmenter(Image.open("photo.jpg")):
    print(segment["label"], segment["mask"].size)
"""
AUTO_CLASSES_SNIPPET = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

repo_id = "{repo_id}"
revision = "{revision}"
image_processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, revision=revision, trust_remote_code=True)

image = Image.open("photo.jpg")
inputs = image_processor(image, return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
target_sizes = [(image.height, image.width)]
segmentation = image_processor.post_process_semantic_segmentation(outputs, target_sizes)[0]  # (height, width)
print([model.config.id2label[label] for label in segmentation.unique().tolist()])
"""
NEW_MODEL_SNIPPET = """\
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

repo_id = "{repo_id}"
revision = "{revision}"
image_processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
model = AutoModelForSemanticSegmentation.from_pretrained(
    repo_id, revision=revision, trust_remote_code=True, num_labels=21, drop_path_rate=0.1
)
print(model.config.decoder_type, model.num_parameters())
"""
FEATURES_SNIPPET = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

repo_id = "{repo_id}"
revision = "{revision}"
image_processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
model = AutoModel.from_pretrained(repo_id, revision=revision, trust_remote_code=True)

inputs = image_processor(Image.open("photo.jpg"), return_tensors="pt")
with torch.inference_mode():
    outputs = model(inputs.pixel_values)
print(outputs.last_hidden_state.shape)  # (num_windows, 1 + num_patches, hidden_size), the class token first
"""


DECODER_NAMES = {"mask_transformer": "a mask transformer", "linear": "a linear layer"}
CODE_NEEDS = (
    "With the package `segmenter_hf` installed, `import segmenter_hf` takes its place. The code needs transformers "
    "5.4 or later, torch and Pillow; with torchvision it is faster."
)
WINDOWS = (
    "The image processor cuts an image of any size into overlapping windows, the model labels each, and "
    "`post_process_semantic_segmentation` averages the logits where windows overlap. In a pipeline keep "
    "`batch_size=1`: a larger batch would tear the windows of an image apart, and is refused."
)
NOT_FOR = paragraph(
    "Not for driving, medicine, or other uses in which errors endanger people, nor to identify, watch or judge them. "
    "Measure it on images like your own before you rely on it."
)
TERMS_ARE_UNSETTLED = "Whether such terms bind who uses weights is not settled: clear it before commercial use."


def make_title(row: ReleasedCheckpoint) -> str:
    """What the model is called for readers, in the paper's words where it is one of the paper."""
    architecture = ARCHITECTURES[row.backbone]
    size = SIZE_LETTERS[architecture.hidden_size]
    date = row.repo_suffix.replace("-", " ")
    origin = f" (MMSegmentation{date})" if row.source.startswith("mmsegmentation") else ""
    if row.is_encoder:
        return f"Segmenter encoder ViT-{size}/{architecture.patch_size}, AugReg{origin}"
    deit = "-DeiT" if architecture.use_distillation_token else ""
    mask = "-Mask" if row.decoder_type == "mask_transformer" else ""
    dataset = DATASETS[row.dataset].name
    return f"Seg-{size}{deit}{mask}/{architecture.patch_size}, {dataset} {row.crop_size} x {row.crop_size}{origin}"


def describe_encoder(config: SegmenterConfig) -> str:
    token = ", with a distillation token" if config.use_distillation_token else ""
    return (
        f"Vision Transformer, width {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads, patches of {config.patch_size} x {config.patch_size} pixels{token}"
    )


def describe_decoder(config: SegmenterConfig) -> str:
    if config.decoder_type == "linear":
        return "one linear layer on every patch embedding"
    return (
        f"mask transformer of {config.decoder_num_hidden_layers} layers, width {config.decoder_hidden_size}, "
        f"{config.decoder_num_attention_heads} heads; a patch's logit for a class is the cosine similarity of their "
        "embeddings, normalised over the classes"
    )


def describe_normalization(mean: Sequence[float], std: Sequence[float]) -> str:
    """What becomes of pixels, of which `mean` and `std` are a number for each channel."""
    if (list(mean), list(std)) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return "RGB, normalised by ImageNet's mean and standard deviation"
    if (list(mean), list(std)) == (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD):
        return "RGB, scaled to -1..1 (mean and standard deviation 0.5)"
    mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (mean, std))
    return f"scaled to 0..1, then normalised by mean ({mean}) and standard deviation ({std})"


def describe_normalization_of(row: ReleasedCheckpoint) -> str:
    if ARCHITECTURES[row.backbone].use_distillation_token:
        return describe_normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return describe_normalization(IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)


def link_source(row: ReleasedCheckpoint) -> str:
    """The code base of the weights, linked, with its article before the link."""
    source = SOURCES[row.source]
    name = source.name.removeprefix("the ")
    return f"{'the ' if name != source.name else ''}[{name}]({source.url})"


def format_number(number: float) -> str:
    """A small number as people write it: 1e-5, where Python writes 1e-05."""
    return f"{number:g}".replace("e-0", "e-")


def write_introduction(row: ReleasedCheckpoint) -> str:
    if row.is_encoder:
        return paragraph(
            f"The encoder that training of {PAPER} starts from: a plain Vision Transformer that has learned to "
            "classify ImageNet. It does not segment: it has no decoder, and no classifier any more either. It is for "
            "training a segmentation model of your own."
        )
    dataset = DATASETS[row.dataset]
    decoder = DECODER_NAMES[row.decoder_type]
    num_labels = len(load_label_set(DATASET_CONFIGS[row.dataset].label_set))
    return paragraph(
        f"{PAPER}: a plain Vision Transformer and {decoder} that label each pixel of an image with one of the "
        f"{num_labels} classes of [{dataset.name}]({dataset.url}). These are the weights `{row.name}` of "
        f"{link_source(row)}, converted for transformers."
    )


def fill_snippet(snippet: str, repo_id: str, revision: str | None) -> str:
    """A snippet for a repository, or the path of a folder, without a revision if there is none."""
    if revision is None:
        lines = [line for line in snippet.splitlines() if not line.strip().startswith("revision")]
        snippet = "\n".join(lines).replace(" revision=revision,", "")
    return code_block("python", snippet.format(repo_id=repo_id, revision=revision))


def write_usage(row: ReleasedCheckpoint, repo_id: str, revision: str | None) -> str:
    snippets = (NEW_MODEL_SNIPPET, FEATURES_SNIPPET) if row.is_encoder else (PIPELINE_SNIPPET, AUTO_CLASSES_SNIPPET)
    first, second = (fill_snippet(snippet, repo_id, revision) for snippet in snippets)
    pin = (
        "in this repository, and `revision` pins it, together with the weights, to what was checked"
        if revision is not None
        else "beside the weights"
    )
    code = f"`trust_remote_code=True` runs the code {pin}. {CODE_NEEDS}"
    if row.is_encoder:
        before = "A segmentation model on this encoder, with a new mask transformer that has yet to be trained:"
        between = paragraph(
            "That the decoder's weights are listed as missing is how it should be.",
            'With `decoder_type="linear"` it is a linear layer. The image processor cuts images into windows '
            f"of {row.crop_size} x {row.crop_size} pixels; pass `crop_size`, `window_stride` and `size` to it for "
            "others. The model resizes its position embeddings to any of them.",
            code,
        )
        return "\n\n".join([before, first, between, "Features:", second])
    after = paragraph(
        WINDOWS,
        "Inference on this page does not run a repository's own code: the images that it offers are examples to run "
        "yourself.",
    )
    return "\n\n".join([paragraph(code), first, "Without the pipeline:", second, after])


def write_description(row: ReleasedCheckpoint, config: SegmenterConfig) -> str:
    items = [f"Encoder: {describe_encoder(config)}."]
    if row.is_encoder:
        items += [
            f"Input: {describe_normalization_of(row)}; position embeddings for images of {row.crop_size} x "
            f"{row.crop_size} pixels.",
            f"Weights: those of {PRETRAINED_WEIGHTS[row.backbone].description}.",
            row.describe_parameters(),
            f"Licence of the weights: {LICENCE_NAMES[row.licence]}.",
        ]
        return "\n\n".join([bullets(items), paragraph(row.notes)])
    dataset, protocol = DATASETS[row.dataset], row.protocol
    items.append(f"Decoder: {describe_decoder(config)}.")
    input_protocol = replace(protocol, antialias=False)
    enlarged = (
        " The window is larger than the short side: images that do not fill it are enlarged to it after normalisation."
        if protocol.shortest_edge < protocol.window_size
        else ""
    )
    items += [
        f"Labels: {config.num_labels}, with their names in `config.json`. {dataset.label_note}",
        f"Input: {describe_normalization_of(row)}, {describe_input(input_protocol, 'bilinearly')}.{enlarged}",
        "Output: logits at the grid of patches, upsampled bilinearly.",
        row.describe_parameters(),
        f"Training started from {PRETRAINED_WEIGHTS[row.backbone].description}.",
        f"Licence of the weights: {LICENCE_NAMES[row.licence]}.",
    ]
    return "\n\n".join([bullets(items), *([paragraph(row.notes)] if row.notes else [])])


def write_results(row: ReleasedCheckpoint, results: list[Figure]) -> str:
    dataset, protocol = DATASETS[row.dataset], row.protocol
    published = [result for result in results if result.kind == PUBLISHED]
    measured = [result for result in results if result.kind == MEASURED]
    parts = []
    if results:
        parts.append(
            paragraph(
                f"Mean intersection over union (mIoU) of the {row.config.num_labels} classes on {dataset.name}'s "
                f"validation split ({dataset.num_validation_images:,} images), from one confusion matrix over all of "
                "it. Sizes are in pixels."
            )
        )
    if published:
        parts += ["Published with these weights, by the code that they are from:", format_results_table(published)]
        if row.published_fps is not None:
            parts.append(paragraph(describe_cost(row)))
    if measured:
        parts += ["Measured with the converted weights:", format_results_table(measured)]
        details = [paragraph(describe_fingerprints(measured)), *map(write_measurement, measured)]
        parts += [text for text in [*details, write_classes(measured)] if text]
    is_assumed = published and row.source == "original" and protocol.shortest_edge < row.crop_size
    parts.append(
        paragraph(
            "" if published else "No figure was published with these weights.",
            "" if measured else "No figure has been measured with the converted weights.",
            f"Published figures are given with the {protocol.shortest_edge} pixels that the source's evaluation takes "
            "by default: with which size they were made is not known (see above)."
            if is_assumed
            else "",
            "The differences that a random seed makes in training are not known." if published else "",
        )
    )
    parts.append(
        paragraph(
            "The image processor here is set to the single-scale protocol of the published evaluation."
            if published
            else "The image processor here is set to the single-scale protocol by which the source's other models for "
            "this data set were evaluated.",
            f"The evaluation within training had its windows {row.training_window_stride} pixels apart."
            if row.training_window_stride != protocol.window_stride
            else "",
        )
    )
    return "\n\n".join(parts)


def describe_cost(row: ReleasedCheckpoint) -> str:
    """The published speed, and the memory of training where it was published."""
    text = f"Published beside it, on V100 GPUs: {row.published_fps:g} images per second"
    if row.published_training_memory_gb is not None:
        text += f" at {row.crop_size} x {row.crop_size} pixels, and {row.published_training_memory_gb:g} GB of memory"
        text += " in training"
    return f"{text}."


def write_conversion(row: ReleasedCheckpoint, config: SegmenterConfig) -> str:
    dropped = "; the ImageNet classifier, which nothing uses, is left out" if row.num_dropped_parameters else ""
    parts = [
        f"Converted by `segmenter_hf` from files of {link_source(row)}:",
        bullets(f"<{file.url}>{_describe_sha256(file.name, config)}" for file in row.files),
        "In a checkout of that package, this repeats it:",
        code_block("bash", f"python scripts/convert_checkpoint.py --released {row.name} OUTPUT_DIR"),
        paragraph(
            f"Nothing was trained. The weights are those of the files, in float32, under other names{dropped}. Small "
            "checkpoints of the same format with random weights, whose outputs were computed by the code that the "
            "format is from, give the same outputs within 1e-4 after conversion; this checkpoint is not among them."
        ),
        "What follows the source, and what does not:",
        bullets(_list_differences(row)),
    ]
    return "\n\n".join(parts)


def _describe_sha256(file: str, config: SegmenterConfig) -> str:
    sha256 = getattr(config, "source_sha256", {}).get(file)
    return "" if sha256 is None else f" (SHA-256 `{sha256}`)"


def _list_differences(row: ReleasedCheckpoint) -> list[str]:
    resized = (
        "Position embeddings are always resized for another grid than the trained one. The source leaves them as they "
        "are where that grid happens to have as many patches (2 x 8 for 4 x 4), as square windows never do."
    )
    epsilon = format_number(row.config.layer_norm_eps)
    interpolation = row.config.position_embedding_interpolation
    if row.is_encoder:
        return [
            f"LayerNorm's epsilon is {epsilon}, as these weights were trained with. (The original implementation of "
            "Segmenter computes them with 1e-5.)",
            f"Position embeddings are resized by {interpolation} interpolation, as in "
            f"{'MMSegmentation' if row.source.startswith('mmseg') else 'the original implementation of Segmenter'}. "
            "`position_embedding_interpolation` sets another.",
            "The weights were trained with an approximation of GELU. Here, as in timm, MMSegmentation and the "
            "original implementation, it is the exact one.",
        ]
    if row.source == "original":
        return [
            f"LayerNorm's epsilon is {epsilon} everywhere and position embeddings are resized by {interpolation} "
            "interpolation, both as in the original. (MMSegmentation's models have 1e-6 in the encoder, and bicubic.)",
            resized,
        ]
    ratio = row.protocol.longest_edge / row.protocol.shortest_edge
    return [
        f"LayerNorm's epsilon is {epsilon} in the encoder and 1e-5 in the decoder, and position embeddings are "
        f"resized by {interpolation} interpolation, both as in MMSegmentation. (The original has 1e-5 everywhere, and "
        "bilinear.)",
        "An image below the window is enlarged to it, where MMSegmentation feeds a smaller window. After the resize "
        f"above, these are images that are more than {ratio:g} times as long as wide.",
        "MMSegmentation upsamples logits to the size of the window, here they are upsampled to the size padded to "
        "whole patches, and cropped. With the windows of the image processor this is the same.",
        resized,
    ]


def write_training(row: ReleasedCheckpoint) -> str:
    shared = "SGD with momentum 0.9, no weight decay and no warm-up, one learning rate for all layers"
    if row.is_encoder:
        return paragraph(
            f"The paper's recipe for what is trained on top of it: {shared}, which decays polynomially with power "
            "0.9; on ADE20K from 1e-3 to 1e-5 in 64 epochs with batches of 8; stochastic depth 0.1 in the encoder. "
            "How the encoder itself was trained is described in [AugReg](https://arxiv.org/abs/2106.10270)."
        )
    dataset, recipe, protocol = DATASETS[row.dataset], RECIPES[row.dataset], row.protocol
    if row.source == "original":
        length = (
            f"{recipe.num_epochs} epochs of the {dataset.num_training_images:,} training images in batches of "
            f"{recipe.batch_size}"
        )
        rates = f"{recipe.learning_rate} to 1e-5"
        decoder = " and dropout 0.1 in the decoder" if row.decoder_type == "mask_transformer" else ""
    else:
        length = "160,000 iterations on 8 GPUs with one image each"
        rates = f"{recipe.learning_rate} to 1e-4"
        decoder = " and 0.1 in the decoder" if row.decoder_type == "mask_transformer" else ""
    # The size that evaluation resizes to by default is not that of training where the crop is larger.
    short_side = max(protocol.shortest_edge, row.crop_size)
    return "\n\n".join(
        [
            paragraph(
                f"By {SOURCES[row.source].name}, not repeated here: {length}, {shared}, polynomial decay with power "
                f"0.9 from {rates}, stochastic depth of up to 0.1 in the encoder{decoder}, and pixel-wise cross "
                "entropy that ignores label 255."
            ),
            paragraph(
                f"Augmentation: resized to a short side of {short_side} pixels times a random factor from 0.5 to 2, a "
                f"random crop of {row.crop_size} x {row.crop_size} of which no class covers more than 75 percent, "
                "horizontal flips, and photometric distortion."
            ),
        ]
    )


def describe_method_limits(patch_size: int) -> str:
    """What no model of this kind can do."""
    return paragraph(
        "Every pixel gets one of the labels, whatever it shows: the model cannot say that something is none of them, "
        f"and its probabilities were not calibrated. Outlines are as coarse as patches of {patch_size} pixels of the "
        "resized image allow, and small or thin things are often lost. It does not tell one object of a class from "
        "the next."
    )


def write_limits(row: ReleasedCheckpoint) -> str:
    if row.is_encoder:
        return paragraph(
            "What it has learned, it has learned from the photos of ImageNet, which were collected from the web by "
            "search engines: their subjects, places and people are not those of the world in equal shares, and some "
            "of their labels are wrong. Models that are trained on top inherit that. How well one segments depends on "
            "the data that it is trained on, and has to be measured there. Do not use it where errors endanger "
            "people, nor to identify, watch or judge them."
        )
    dataset = DATASETS[row.dataset]
    return "\n\n".join(
        [
            paragraph(dataset.limits),
            describe_method_limits(ARCHITECTURES[row.backbone].patch_size),
            NOT_FOR,
        ]
    )


def write_terms(row: ReleasedCheckpoint) -> str:
    terms = [IMAGENET_TERMS] if row.is_encoder else [DATASETS[row.dataset].terms, IMAGENET_TERMS]
    return "\n\n".join(
        [
            paragraph(
                f"The weights are published by {link_source(row)} under "
                f"{LICENCE_NAMES[row.licence]}; the code in this repository is Apache-2.0. The images that the "
                f"weights were trained on have terms of their own: {'; '.join(f'those of {term}' for term in terms)}. "
                f"{TERMS_ARE_UNSETTLED}"
            ),
            paragraph(
                "The credit is the authors': of the paper, of the code and weights above, and of the data sets. "
                "Please cite them."
            ),
        ]
    )


def write_citations(row: ReleasedCheckpoint) -> str:
    keys = (*SOURCES[row.source].citations, *PRETRAINED_WEIGHTS[row.backbone].citations)
    return code_block("bibtex", "\n\n".join(CITATIONS[key] for key in keys))


def write_text(
    row: ReleasedCheckpoint, results: list[Figure], repo_id: str, revision: str | None, config: SegmenterConfig
) -> str:
    """
    A card below its metadata.

    Args:
        row (`ReleasedCheckpoint`): Which model.
        results (`list[Figure]`): Its figures.
        repo_id (`str`): The repository that the snippets load from.
        revision (`str`, *optional*): The revision that they pin.
        config (`SegmenterConfig`): Sizes of the model.
    """
    sections = {
        "Use": write_usage(row, repo_id, revision),
        "Model": write_description(row, config),
        "Results": "" if row.is_encoder else write_results(row, results),
        "Conversion": write_conversion(row, config),
        "Training": write_training(row),
        "Limits and biases": write_limits(row),
        "Licences and credits": write_terms(row),
        "Citation": write_citations(row),
    }
    parts = [f"# {make_title(row)}", write_introduction(row)]
    for heading, text in sections.items():
        if text:
            parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


__all__ = ["make_title", "write_text"]
