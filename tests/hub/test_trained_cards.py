"""Cards of trained models: they say what was given and nothing else, and nothing of the user's machine."""

import contextlib
import copy
import dataclasses
import io
import re

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from segmenter_hf import SegmenterConfig, SegmenterForSemanticSegmentation, SegmenterImageProcessorPil
from segmenter_hf.hub.cards import FOLDER_PLACEHOLDER, TrainingFacts, make_trained_card
from tests.common import tiny_config
from tests.evaluation.evaluations import NAMES, PROCESSOR_SETTINGS, evaluate, make_examples
from tests.hub.cards import check_segments, check_tidy, code_blocks, run_snippets, save_download


IMAGE_PROCESSOR = SegmenterImageProcessorPil(**PROCESSOR_SETTINGS)
AUGREG_TINY = "timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k"
TOKEN = "hf_" + "aB3" * 11

FACTS = TrainingFacts(
    recipe="finetune",
    recipe_title="fine-tuning on a data set of one's own",
    recipe_changes=["learning rate", "batch"],
    dataset_config_name="small",
    split="train",
    num_images=367,
    num_split_images=400,
    held_out_share=0.15,
    num_epochs=106.5,
    num_steps=4900,
    per_device_batch_size=4,
    gradient_accumulation_steps=3,
    num_processes=2,
    optimizer="adamw_torch",
    optimizer_settings={"betas": [0.9, 0.99], "eps": 1e-8, "nesterov": "true", "steps": 160_000},
    learning_rate=8e-4,
    weight_decay=0.05,
    max_grad_norm=1.0,
    lr_scheduler="polynomial",
    lr_scheduler_settings={"power": 0.9},
    warmup_steps=0.05,
    crop_height=24,
    crop_width=32,
    min_scale=0.5,
    max_scale=2.0,
    max_class_share=0.75,
    horizontal_flip=True,
    photometric_distortion=True,
    class_balance=0.5,
    label_smoothing=0.1,
    lora_rank=16,
    lora_alpha=32,
    lora_dropout=0.1,
    lora_target_modules=["q_proj", "v_proj"],
    precision="bfloat16 autocast",
    seed=3,
    data_seed=4,
    hardware="2 CPU cores",
    train_seconds=5520.0,
    is_resumed=True,
    accepted_differences=["from step 120 on: learning_rate 1e-4 -> 1e-5"],
    train_loss=0.4123,
    selected_by="mean_iou",
    selected_step=3000,
    versions={"torch": "2.14.0"},
    command="python scripts/run_semantic_segmentation.py --output_dir outputs/model",
)

BINARY = {"id2label": {0: "background", 1: "cell"}, "num_labels": 1, "decoder_type": "linear"}
SCHEDULE = {"lr_scheduler": "cosine", "lr_scheduler_settings": {"power": 2}, "warmup_steps": 10}


def metadata_of(card: ModelCard) -> dict:
    return yaml.safe_load(str(card).split("---\n", 2)[1])


def words_of(card: ModelCard) -> str:
    return " ".join(card.text.split())


def section(card: ModelCard, heading: str) -> str:
    return card.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


# Metadata


def test_metadata(model, single, several, tmp_path):
    card = make_trained_card(
        model.config,
        IMAGE_PROCESSOR,
        [single, several],
        training=FACTS,
        base_model="lab/pretrained",
        dataset_name="lab/scenes",
        repo_id="me/segmenter-scenes",
        license="apache-2.0",
        language="en",
        tags=["mine", "vision"],
    )
    metadata = metadata_of(card)
    (index,) = metadata.pop("model-index")
    assert metadata == {
        "base_model": "lab/pretrained",
        "base_model_relation": "finetune",
        "datasets": ["lab/scenes"],
        "language": ["en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["mean_iou"],
        "pipeline_tag": "image-segmentation",
        "tags": ["vision", "semantic-segmentation", "segmenter", "custom_code", "mine"],
    }
    assert index["name"] == "segmenter-scenes"
    (entry,) = index["results"]
    assert entry["task"]["type"] == "image-segmentation"
    assert entry["dataset"] == {"name": "data", "type": "data", "config": "default", "split": "validation"}
    metrics = [(metric["type"], metric["name"], metric["value"]) for metric in entry["metrics"]]
    assert metrics == [
        ("mean_iou", "mIoU (single scale)", pytest.approx(100 * single["mean_iou"], abs=1e-4)),
        ("mean_iou", "mIoU (multi-scale + flip)", pytest.approx(100 * several["mean_iou"], abs=1e-4)),
    ]
    for metric in entry["metrics"]:
        assert type(metric["value"]) is float and metric["args"]["unit"] == "percent"
        assert metric["args"]["window_size"] == {"height": 24, "width": 32}
        assert metric["args"]["window_stride"] == {"height": 12, "width": 16}
    front_matter = str(card).split("---\n", 2)[1]
    assert not re.search(r"null|\.nan|verified|!!python", front_matter)
    card.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert str(again) == str(card) == str(ModelCard(str(again)))
    model_index = again.data.to_dict()["model-index"]
    assert eval_results_to_model_index(*model_index_to_eval_results(model_index)) == model_index


def test_data_of_the_same_name_are_not_merged(model, single):
    """Two folders of one name, and a data set of several configurations."""
    other = evaluate(model, examples=make_examples(3), name="/elsewhere/data")
    configured = evaluate(model, name="lab/scenes", config_name="small")
    results = [single | {"dataset": single["dataset"] | {"name": "/here/data"}}, other, configured]
    entries = metadata_of(make_trained_card(model.config, IMAGE_PROCESSOR, results))["model-index"][0]["results"]
    assert [entry["dataset"]["type"] for entry in entries] == ["data", "data", "lab/scenes"]
    prints = [results[index]["dataset"]["fingerprint"][:12] for index in (0, 1)]
    configs = [f"default ({prints[0]})", f"default ({prints[1]})", "small"]
    assert [entry["dataset"]["config"] for entry in entries] == configs
    assert all(len(entry["metrics"]) == 1 for entry in entries)


def test_protocols_of_one_kind_are_told_apart(model, single):
    half = evaluate(model, autocast_dtype=torch.bfloat16)
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [single, half])
    names = [result.metric_name for result in card.data.eval_results]
    assert names == ["mIoU (single scale), dtype float32", "mIoU (single scale), dtype bfloat16"]
    assert "| class | IoU, percent (single scale), dtype float32 | IoU, percent (single scale), dtype b" in card.text


def test_same_figure_twice_is_refused(model, single):
    with pytest.raises(ValueError, match="2 results are of the same data, data, and the same protocol. Keep one."):
        make_trained_card(model.config, IMAGE_PROCESSOR, [single, single | {"mean_iou": 0.5}])


def test_without_results_the_card_says_so(model):
    card = make_trained_card(model.config, IMAGE_PROCESSOR)
    assert section(card, "Results").strip() == "No figure has been measured."
    assert "Mean IoU" not in card.text and card.data.eval_results is None and "model-index" not in str(card)
    assert "No licence was stated" in card.text and "license" not in metadata_of(card)
    assert "\n## Training\n" not in card.text


def test_no_labelled_pixel_is_no_figure(model):
    unlabelled = evaluate(model, examples=make_examples(1, [255]))
    assert unlabelled["mean_iou"] is None
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [unlabelled])
    assert "No pixel is labelled on `data`, split `validation`: there is no figure of it." in words_of(card)
    assert "No figure has been measured." in card.text and "model-index" not in str(card)


def test_figures_of_another_model_are_refused(single):
    config = tiny_config(id2label=dict(enumerate(["sky", "road", "car"])))
    with pytest.raises(ValueError, match=r"4 classes, which are not the 3 of this model \(unknown: never seen\)"):
        make_trained_card(config, IMAGE_PROCESSOR, [single])


@pytest.mark.parametrize("dataset", [None, {}, {"name": "data"}, {"name": None, "split": "test"}, "data"])
def test_figures_of_unknown_data_are_refused(dataset, model, single):
    with pytest.raises(ValueError, match="Results must name their `dataset` and its `split`"):
        make_trained_card(model.config, IMAGE_PROCESSOR, [single | {"dataset": dataset}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"license": "My Licence"}, "`license` must be an identifier of the Hub, such as apache-2.0"),
        ({"repo_id": "not a name"}, "Repo id must"),
        ({"base_model": "lab/x", "training": TrainingFacts(is_from_scratch=True)}, "from scratch and from lab/x"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        make_trained_card(model.config, IMAGE_PROCESSOR, **arguments)


# Origins


@pytest.mark.parametrize(
    ("base_model", "base_id", "words"),
    [
        ("lab/pretrained", "lab/pretrained", "from [`lab/pretrained`](https://huggingface.co/lab/pretrained)."),
        # Released checkpoints, whose names look like ids of the Hub.
        ("ade20k/seg_tiny_mask", AUGREG_TINY, "from the released checkpoint `ade20k/seg_tiny_mask` of the [original"),
        ("segmenter_vit-t_mask_8x1_512x512_160k_ade20k", AUGREG_TINY,
         "`segmenter_vit-t_mask_8x1_512x512_160k_ade20k` of [MMSegmentation]"),
        # This encoder is nowhere on the Hub.
        ("ade20k/seg_base_patch8", None, "from the released checkpoint `ade20k/seg_base_patch8` of the [original"),
        ("vit_tiny_patch16_384", AUGREG_TINY, "AugReg"),
        ("/home/jane/runs/best", None, "from the weights `best`, which were given as a file or folder."),
        ("outputs/last.pth", None, "from the weights `last.pth`"),
    ],
)  # fmt: skip
def test_where_training_started(base_model, base_id, words, model):
    card = make_trained_card(model.config, IMAGE_PROCESSOR, base_model=base_model, training=FACTS)
    assert metadata_of(card).get("base_model") == base_id
    assert metadata_of(card).get("base_model_relation") == (base_id and "finetune")
    assert words in words_of(card)
    assert "beside what the weights that it started from knew" in words_of(card)


def test_released_weights_are_cited_and_their_licence_is_told(model):
    card = make_trained_card(model.config, IMAGE_PROCESSOR, base_model="segmenter_vit-t_mask_8x1_512x512_160k_ade20k")
    for key in ("strudel2021segmenter", "mmseg2020", "steiner2021augreg"):
        assert section(card, "Citation").count(key) == 1
    assert "The weights are under the terms of those that training started from: Apache-2.0." in words_of(card)
    assert card.data.license == "apache-2.0"
    card = make_trained_card(model.config, IMAGE_PROCESSOR, base_model="facebook/deit-base-distilled-patch16-384")
    assert "touvron2021training" in section(card, "Citation")
    card = make_trained_card(model.config, IMAGE_PROCESSOR)
    assert section(card, "Citation").count("@") == 1


def test_nothing_of_the_machine_is_told(model, tmp_path):
    data, weights = tmp_path / "jane" / "scenes", tmp_path / "jane" / "runs" / "best"
    data.mkdir(parents=True)
    command = f"{tmp_path}/bin/python {tmp_path}/run.py --dataset_name {data} --hub_token {TOKEN} --cache={tmp_path}/x"
    results = [evaluate(model, name=str(data), command=command) | {"model": str(weights)}]
    card = make_trained_card(
        model.config,
        IMAGE_PROCESSOR,
        results,
        training=dataclasses.replace(FACTS, command=f"{command} --model {weights}"),
        base_model=str(weights),
        dataset_name=str(data),
    )
    text = str(card)
    assert str(tmp_path) not in text and "jane" not in text and TOKEN not in text
    assert "python run.py --dataset_name scenes --cache=x --model best" in text
    assert "trained on `scenes`" in text and "datasets" not in metadata_of(card)
    dataset = metadata_of(card)["model-index"][0]["results"][0]["dataset"]
    assert (dataset["name"], dataset["type"]) == ("scenes", "scenes")


# Text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_parameters": 1234567}, [
            "width 32, 2 layers, 4 heads, patches of 8 x 8 pixels. - Decoder: mask transformer of 1 layers, width 24",
            "- Labels: 4, as `config.json` names them: 0 `sky`, 1 `road`, 2 `car`, 3 `never seen`. Label maps",
            "0 is `sky`, and 255, which is ignored and never predicted, what has no label. - Input",
            "resized bilinearly with antialiasing until the short side has 32 pixels or the long one 128, then cut",
            "12 apart down and 16 across. Images below the window are enlarged",
            "upsampled bilinearly. - 1,234,567 parameters. ## Results",
        ]),
        ({"processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}}, [
            "normalised by mean (0.1, 0.2, 0.3) and standard deviation (0.4, 0.5, 0.6), resized bicubically",
            "and seen as a whole. - Output",
        ]),
        ({"processor": {"do_reduce_labels": True}}, [
            "store 0 for what has none of these labels, and the label plus 1 for the rest", "0 and 255 are ignored",
        ]),
        ({"config": BINARY, "facts": {}}, [
            "There is one logit for each pixel, whose sigmoid is the probability of `cell`.", "0 is `background`",
            "Loss: pixel-wise binary cross entropy that ignores label 255. ##",
        ]),
        ({"config": {"id2label": dict(enumerate("abcdefghijklmnopqrstuvwxyz12345"))}}, [
            "Labels: 31, with their names in `config.json`. Label maps",
        ]),
        ({"config": {"drop_path_rate": 0.1, "decoder_dropout_prob": 0.2}, "facts": {}}, [
            "Regularisation: stochastic depth of up to 0.1 in the encoder, dropout 0.2 in the decoder. ##",
        ]),
        ({"config": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}, "facts": {}}, [
            "Regularisation: dropout 0.2 in the encoder, dropout of attention 0.3 in the encoder. ##",
        ]),
        ({"facts": {"is_from_scratch": True}}, [
            "- Start: from random initialisation. -", "It has learned from its training images and nothing else. What",
        ]),
        # What is off
        ({"facts": {"max_grad_norm": 0.0, "warmup_steps": 0, "photometric_distortion": False, "max_class_share": 1.0,
                    "class_balance": 0.0, "crop_height": 8, "crop_width": 8}}, [
            "gradients not clipped. - Schedule: no steps of warm-up. - Augmentation: random crops of 8 x 8 pixels",
            "(height x width), no photometric distortion. - Loss: pixel-wise cross entropy that ignores label 255. ##",
        ]),
        # Schedules, of which not all warm up and take settings, and warm-up as it was
        ({"facts": SCHEDULE | {"lr_scheduler": "constant"}}, ["- Schedule: `constant`. -"]),
        ({"facts": SCHEDULE | {"lr_scheduler": "constant_with_warmup"}}, ["_with_warmup`, 10 steps of warm-up."]),
        ({"facts": SCHEDULE | {"warmup_steps": 0.051, "num_steps": 100}}, ["`cosine` (power 2), 6 steps of warm-up."]),
        ({"facts": SCHEDULE | {"warmup_steps": 0.05}}, ["(power 2), 5 percent of all steps of warm-up. -"]),
        ({"facts": SCHEDULE | {"warmup_steps": 300, "num_steps": 100}}, [
            "(power 2), 300 steps of warm-up, which ended before its learning rate was reached. -",
        ]),
        # Nothing is left out of images and batches
        ({"facts": {"split": "train", "num_images": 48, "num_split_images": 48, "per_device_batch_size": 8,
                    "gradient_accumulation_steps": 1, "num_processes": 1}, "dataset_name": "lab/scenes"}, [
            "split `train`, 48 images. -", "8 crops a step (8 on a device x 1 accumulated x 1 process). -",
        ]),
        # Other bands than three have no colours to change
        ({"facts": {"photometric_distortion": True}}, ["- Augmentation: photometric distortion. -"]),
        ({"facts": {"photometric_distortion": True}, "config": {"num_channels": 4}}, [
            "- Augmentation: photometric distortion (brightness and contrast). -",
        ]),
        ({"facts": {"accepted_differences": [
            "from step 120 on: learning_rate 1e-4 -> 1e-5",
            "from step 300 on: dataset_name '/home/jane doe/scenes' -> /srv/jane/other_scenes, label 3 <b> -> car",
        ]}}, [
            "not of one run with these settings. Those above, and the command, are of the last part of it alone: - f",
            "- from step 120 on: learning_rate 1e-4 -\\> 1e-5 - from step 300 on: dataset_name 'scenes' -\\> other",
            "_scenes, label 3 \\<b\\> -\\> car ##",
        ]),
    ],
)  # fmt: skip
def test_card_says(settings, expected):
    config, processor, facts = (settings.get(name) for name in ("config", "processor", "facts"))
    card = make_trained_card(
        tiny_config(**{"id2label": dict(enumerate(NAMES)), **(config or {})}),
        SegmenterImageProcessorPil(**processor or PROCESSOR_SETTINGS),
        training=None if facts is None else TrainingFacts(**facts),
        **{name: settings[name] for name in settings.keys() - {"config", "processor", "facts"}},
    )
    check_tidy(card.text)
    for words in expected:
        assert words in words_of(card)


def test_title_is_the_papers_where_the_sizes_are():
    titles = {
        "Seg-S-Mask/16": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
        "Seg-B/8": {"patch_size": 8, "decoder_type": "linear"},
        "Seg-B-DeiT-Mask/16": {"use_distillation_token": True},
        "Segmenter-Mask/16": {"num_hidden_layers": 8},
    }
    for title, settings in titles.items():
        config = SegmenterConfig(**settings)
        assert make_trained_card(config, IMAGE_PROCESSOR).text.strip().startswith(f"# {title}\n")
    card = make_trained_card(config, IMAGE_PROCESSOR, dataset_name="lab/scenes")
    assert "# Segmenter-Mask/16, trained on lab/scenes\n" in card.text


@pytest.mark.parametrize("num_channels", [1, 6])
def test_models_for_other_images_than_rgb(num_channels, tmp_path):
    """The pipeline, which converts to RGB, is not for them; the code that is told runs."""
    model = SegmenterForSemanticSegmentation(tiny_config(id2label=dict(enumerate(NAMES)), num_channels=num_channels))
    bands = {"image_mean": [0.5] * num_channels, "image_std": [0.25] * num_channels, "max_value": 4095}
    image_processor = SegmenterImageProcessorPil(**PROCESSOR_SETTINGS | bands, do_convert_rgb=False)
    card = make_trained_card(model.config, image_processor)
    (snippet,) = code_blocks(card.text, "python")
    assert "pipeline" not in snippet
    words = words_of(card)
    assert (
        f"Input: {'grey' if num_channels == 1 else '6 bands'}, 16-bit values from 0 to 4095, scaled to 0..1" in words
    )
    if num_channels == 1:
        Image.linear_gradient("L").save(tmp_path / "photo.jpg")
    else:
        tifffile = pytest.importorskip("tifffile")
        assert "(height, width, 6), uint8 or uint16" in snippet
        pixels = np.zeros((50, 75, 6), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="minisblack", planarconfig="contig")
    for part in (model, image_processor):
        part.save_pretrained(tmp_path / FOLDER_PLACEHOLDER)
    for name in (FOLDER_PLACEHOLDER, "photo.jpg", "image.tif"):
        snippet = snippet.replace(name, str(tmp_path / name))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(snippet, {})
    assert set(eval(printed.getvalue())) <= set(NAMES)


def test_results_are_told_with_their_protocol(model, single, several):
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [single, several], dataset_name="/x/data")
    check_tidy(card.text)
    introduction = " ".join(card.text.partition("## Use")[0].split())
    figures = [f"{100 * each['mean_iou']:.2f}".removesuffix("0") for each in (single, several)]
    assert f"**{figures[0]} percent** (single scale), **{figures[1]} percent** (multi-scale + flip)." in introduction
    results = section(card, "Results")
    for figure, scales, flip in zip(figures, ("1", "0.5, 0.75, 1, 1.25, 1.5, 1.75"), ("no", "yes"), strict=True):
        assert f"| {figure} | {scales} | {flip} | 32 / 128 | 24 x 32 | 12 x 16 | 2 images, segmenter_hf " in results
    words = " ".join(results.split())
    assert single["dataset"]["fingerprint"] in words and "Pixels with label 255 are not counted." in words
    assert "Single scale: an image is resized with antialiasing until the short side has 32 pixels" in words
    assert "Logits are averaged where windows overlap. Predictions are compared" in words
    assert "Measured with: float32, image processor of the pil backend, " in words
    assert "at 0.5, 0.75, 1, 1.25, 1.5, 1.75 times the size, each also flipped, and the probabilities" in words
    for each in (single, several):
        assert f"mean accuracy {100 * each['mean_accuracy']:.2f}".removesuffix("0") in words
        assert f"loss {each['loss']:.4g}." in words
    assert code_blocks(results, "bash") == [f"{single['command']}\n"] * 2
    for name in NAMES:
        ious = [each["per_category_iou"][name] for each in (single, several)]
        cells = ["-" if iou is None else f"{100 * iou:.2f}".removesuffix("0") for iou in ious]
        assert f"| {name} | {cells[0]} | {cells[1]} |" in results


def test_part_of_a_split_is_told_as_such(model, single):
    for number, words in ((101, " (2 of its 101 images)"), (2, "")):
        part = single | {"dataset": single["dataset"] | {"num_split_images": number}}
        words = f"Mean IoU on `data`, split `validation`{words}: **"
        assert words in words_of(make_trained_card(model.config, IMAGE_PROCESSOR, [part]))


def test_command_of_the_training_is_not_repeated(model):
    results = evaluate(model, command=FACTS.command)
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [results], training=FACTS)
    assert card.text.count(FACTS.command) == 1 and FACTS.command in section(card, "Training")
    assert "The command is that of the training below." in words_of(card)


def test_limits_name_what_was_never_found_or_measured(model, single):
    figures = {"sky": 0.5, "road": 0.0, "car": None, "never seen": None}
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [single | {"per_category_iou": figures}])
    words = " ".join(section(card, "Limits and biases").split())
    assert "Its IoU is 0 for `road`." in words
    assert "nor are predicted there: `car`, `never seen`." in words
    card = make_trained_card(model.config, IMAGE_PROCESSOR)
    assert "IoU" not in section(card, "Limits and biases")


def test_training_is_told(model, single):
    card = make_trained_card(model.config, IMAGE_PROCESSOR, [single], training=FACTS, dataset_name="lab/scenes")
    check_tidy(card.text)
    words = " ".join(section(card, "Training").split())
    for fact in (
        "Recipe: `finetune`, fine-tuning on a data set of one's own, but for learning rate, batch.",
        "Data: [`lab/scenes`](https://huggingface.co/datasets/lab/scenes), configuration `small`, split `train`, 367 "
        "of its 400 images, after 15 percent were held out for evaluation, drawn with seed 3.",
        "Length: 4,900 steps, or 106.5 epochs; the saved weights are those after step 3,000.",
        "Batch: 24 crops a step (4 on a device x 3 accumulated x 2 processes), or what is left at the end of an "
        "epoch.",
        "`adamw_torch` (betas `[0.9, 0.99]`, eps 1e-8, nesterov `true`, steps 160000), learning rate 0.0008, weight "
        "decay 0.05, gradients clipped at norm 1.",
        "Schedule: `polynomial` (power 0.9), 245 steps of warm-up.",
        "random scale from 0.5 to 2, random crops of 24 x 32 pixels (height x width), drawn again where one class "
        "covers 75 percent, horizontal flips, photometric distortion.",
        "ignores label 255, with each class weighted by its frequency to the power of -0.5, with 0.1 of the target "
        "spread over all labels.",
        "Low-rank adapters (LoRA) of rank 16, alpha 32, dropout 0.1 on `q_proj`, `v_proj` of the encoder, merged into "
        "the weights.",
        "Precision: bfloat16 autocast.",
        "Seed: 3, 4 of the order of the images.",
        "Hardware and time: 2 CPU cores, 92 min in all, interrupted and resumed.",
        "Mean training loss: 0.4123.",
        "Versions: torch 2.14.0.",
    ):
        assert fact in words
    assert code_blocks(section(card, "Training"), "bash") == [f"{FACTS.command}\n"]
    assert "chosen among checkpoints by `mean_iou` on the evaluation split" in words_of(card)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingFacts)])
def test_what_is_not_known_is_not_told(name, model, single):
    facts = dataclasses.replace(FACTS, is_from_scratch=True)
    without = dataclasses.replace(facts, **{name: None})
    settings = {"dataset_name": "lab/scenes"}
    card, less = (
        make_trained_card(model.config, IMAGE_PROCESSOR, [single], training=each, **settings)
        for each in (facts, without)
    )
    assert len(less.text) < len(card.text), f"{name} does not show"
    assert "None" not in less.text
    check_tidy(less.text)


def test_names_of_users_cannot_change_the_card(single):
    names = ["sky|cloud", "<script>alert(1)</script>", "```", "---\n# heading", "__background__"]
    ious = dict.fromkeys(names, 0.25)
    evaluation = copy.deepcopy(single) | {"per_category_iou": ious}
    evaluation["dataset"] |= {"name": "/x/a|b `c`\n## d", "split": "val|`"}
    config = tiny_config(id2label=dict(enumerate(names)))
    card = make_trained_card(config, IMAGE_PROCESSOR, [evaluation], dataset_name=evaluation["dataset"]["name"])
    assert str(ModelCard(str(card))) == str(card)
    assert metadata_of(card)["model-index"][0]["results"][0]["dataset"]["name"] == "a|b `c`\n## d"
    headings = re.findall(r"^#+ .*", card.text, flags=re.MULTILINE)
    assert headings[1:] == [
        "## Use",
        "## Model",
        "## Results",
        "## Training",
        "## Limits and biases",
        "## Licences and credits",
        "## Citation",
    ]
    rows = [line for line in card.text.splitlines() if line.endswith("| 25.0 |")]
    assert len(rows) == 5 and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    # Code, in a sentence or not, ends at as many backticks as it began with.
    prose = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", card.text, flags=re.DOTALL)
    assert "<script>" not in prose and r"\<script\>" in prose


# Snippets


@pytest.mark.slow
def test_snippets_run(tmp_path):
    """Of a repository, as it is in the cache after a download, and of a folder."""
    model = SegmenterForSemanticSegmentation(tiny_config(id2label=dict(enumerate(NAMES))))
    save_download("lab/trained", "main", model, tmp_path)
    for part in (model, IMAGE_PROCESSOR):
        part.save_pretrained(tmp_path / FOLDER_PLACEHOLDER)
    snippets = {
        str(repo_id): code_blocks(make_trained_card(model.config, IMAGE_PROCESSOR, repo_id=repo_id).text, "python")
        for repo_id in ("lab/trained", None)
    }
    assert "revision" not in str(snippets)
    for outputs in run_snippets(snippets, tmp_path).values():
        check_segments(outputs, NAMES)
