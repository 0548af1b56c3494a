"""Model cards: as the code makes them, with metadata that the Hub takes, figures told apart, snippets that run."""

import dataclasses
import doctest
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

import segmenter_hf.hub.cards
from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.evaluation.record import MEASURED, PUBLISHED
from segmenter_hf.hub.card_facts import SOURCES
from segmenter_hf.hub.card_folder import ORGANIZATION
from segmenter_hf.hub.cards import TAG, make_card
from segmenter_hf.hub.figures import measured_figure, published_figures, read_figures
from tests.common import REPOSITORY, tiny_config
from tests.hub.cards import check_segments, check_tidy, code_blocks, run_snippets, save_download
from tests.hub.evaluations import evaluate_released, make_measured_figure


FOLDER = REPOSITORY / "model_cards"
ROWS = list(RELEASED.values())
MODELS = [row for row in ROWS if not row.is_encoder]
# The table has these of the identifiers that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses).
HUB_LICENCES = {"apache-2.0", "mit"}
# https://huggingface.co/tasks lists them.
HUB_TASKS = {"image-feature-extraction", "image-segmentation"}


def by_repo_name(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.repo_name)


def load_card(row) -> ModelCard:
    return ModelCard.load(FOLDER / f"{row.repo_name}.md")


def test_docstring_example():
    results = doctest.testmod(segmenter_hf.hub.cards)
    assert results.attempted > 0 and results.failed == 0


# Metadata


@by_repo_name(ROWS)
def test_metadata_is_what_the_hub_takes(row):
    text = (FOLDER / f"{row.repo_name}.md").read_text(encoding="utf-8")
    _, front_matter, _ = text.split("---\n", 2)
    metadata = yaml.safe_load(front_matter)
    assert metadata["license"] == row.licence and row.licence in HUB_LICENCES
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == ("image-feature-extraction" if row.is_encoder else "image-segmentation")
    assert metadata["pipeline_tag"] in HUB_TASKS
    assert {"segmenter", "vision", "custom_code"} <= set(metadata["tags"])
    for repo_id in [f"{ORGANIZATION}/{row.repo_name}", *metadata.get("datasets", [])]:
        validate_repo_id(repo_id)
        assert "/" in repo_id
    for example in metadata.get("widget", []):
        assert set(example) == {"src", "example_title"} and example["src"].startswith("https://")
    assert bool(metadata.get("widget")) is (metadata.get("metrics") == ["mean_iou"]) is not row.is_encoder
    assert "verified" not in front_matter and "null" not in front_matter and ".nan" not in front_matter.lower()


@by_repo_name(ROWS)
def test_card_survives_loading_and_saving(row, tmp_path):
    file = FOLDER / f"{row.repo_name}.md"
    card = ModelCard.load(file)
    card.save(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_bytes() == file.read_bytes()
    model_index = card.data.to_dict().get("model-index")
    assert bool(model_index) is bool(read_figures(FOLDER / "results", row))
    if model_index:
        assert eval_results_to_model_index(*model_index_to_eval_results(model_index)) == model_index


@by_repo_name(ROWS)
def test_base_model_is_the_exact_encoder_or_said_to_be_unknown(row):
    card = load_card(row)
    if row.backbone == "vit_base_patch8_384":
        text = " ".join(card.text.split())
        assert card.data.base_model is None
        assert "was not released" in text and "names no base model" in text
        return
    validate_repo_id(card.data.base_model)
    if row.backbone.startswith("deit"):
        assert card.data.base_model == "facebook/deit-base-distilled-patch16-384"
    else:
        assert card.data.base_model == f"timm/{row.backbone}.augreg_in21k_ft_in1k"
        timm = pytest.importorskip("timm")
        assert timm.models.is_model_pretrained(card.data.base_model.removeprefix("timm/"))


def test_cards_of_another_organisation_and_revision():
    row = find_released("ade20k/seg_tiny_mask")
    text = str(make_card(row, [], f"someone/{row.repo_name}", "v2.3"))
    assert ORGANIZATION not in text and TAG not in text
    assert text.count(f'"someone/{row.repo_name}"') == 2 and text.count('"v2.3"') == 2


# Figures


@by_repo_name(MODELS)
def test_figures_are_those_of_the_table(row):
    """Written out once more, from the table to the model index, so that neither writer nor reader is trusted."""
    figures = (row.published_miou_percent_ss, row.published_miou_percent_ms)
    expected = [
        (value, "mIoU (multi-scale + flip)" if flip else "mIoU (single scale)", flip)
        for value, flip in zip(figures, (False, True), strict=True)
        if value is not None
    ]
    found = [result for result in load_card(row).data.eval_results or [] if result.metric_args["kind"] == PUBLISHED]
    assert [(result.metric_value, result.metric_name, result.metric_args["flip"]) for result in found] == expected
    for result in found:
        assert type(result.metric_value) is float and result.metric_args["unit"] == "percent"
        assert result.task_type == "image-segmentation" and result.metric_type == "mean_iou"
        assert result.dataset_split == "validation" and type(result.dataset_config) is str
        for name in ("window_size", "window_stride", "shortest_edge", "longest_edge"):
            assert result.metric_args[name] == getattr(row.protocol, name)
        scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75] if result.metric_args["flip"] else [1.0]
        assert result.metric_args["scales"] == scales
        assert result.source_url == SOURCES[row.source].results_url and result.source_name
        assert f"| {result.metric_value:.2f}".removesuffix("0") + " |" in load_card(row).text


@by_repo_name([find_released("ade20k/seg_tiny_mask"), find_released("segmenter_vit-l_mask_8x1_512x512_160k_ade20k")])
def test_published_and_measured_figures_never_share_an_entry(row):
    measured = make_measured_figure(row)
    for results in ([*published_figures(row), measured], [measured, *published_figures(row)]):
        card = make_card(row, results, f"{ORGANIZATION}/{row.repo_name}")
        # A reader of the file gets this, after huggingface_hub has grouped the figures once more.
        entries = ModelCard(str(ModelCard(str(card)))).data.to_dict()["model-index"][0]["results"]
        for entry in entries:
            kinds = {metric["args"]["kind"] for metric in entry["metrics"]}
            assert kinds == ({PUBLISHED} if "source" in entry else {MEASURED})
        assert sum(len(entry["metrics"]) for entry in entries) == len(results)
        published_text, measured_text = card.text.split("Measured with the converted weights:")
        assert "| 37.9 |" in measured_text and "| 37.9 |" not in published_text
        assert "2000 images, segmenter_hf 0.1.0, torch 2.8.0" in measured_text
        assert "](http" not in measured_text.partition("37.9")[2].partition("\n")[0]
        assert "No figure has been measured" not in card.text


def test_measured_figures_are_told_with_how_they_were_measured():
    row = find_released("cityscapes/seg_large_mask")
    single = measured_figure(row, evaluate_released(row))
    several = measured_figure(row, evaluate_released(row, multi_scale=True))
    half = dataclasses.replace(single, protocol=dataclasses.replace(single.protocol, dtype="bfloat16"))
    card = make_card(row, [*published_figures(row), single, half, several], f"{ORGANIZATION}/{row.repo_name}")
    check_tidy(card.text)
    assert single.fingerprint in card.text and single.command in card.text
    names = [result.metric_name for result in card.data.eval_results if result.metric_args["kind"] == MEASURED]
    assert names == [
        "mIoU (single scale), dtype float32",
        "mIoU (single scale), dtype bfloat16",
        "mIoU (multi-scale + flip)",
    ]
    assert [result.metric_name for result in card.data.eval_results][:2] == [
        "mIoU (single scale)",
        "mIoU (multi-scale + flip)",
    ]


def test_cards_of_pushed_models_state_the_sha256_of_what_was_converted():
    row = find_released("ade20k/seg_tiny_mask")
    model = SegmenterForSemanticSegmentation(tiny_config(id2label=row.config.id2label))
    model.config.source_sha256 = {"checkpoint.pth": "0123456789abcdef" * 4}
    card = make_card(row, [], f"{ORGANIZATION}/{row.repo_name}", model=model)
    check_tidy(card.text)
    address = f"<{row.files[-1].url}> (SHA-256 `{'0123456789abcdef' * 4}`)"
    assert address in " ".join(card.text.split()) and card.text.count("(SHA-256 `") == 1


def test_no_figures_are_said_to_be_none():
    card = load_card(find_released("cityscapes/seg_large_linear"))
    assert card.data.eval_results is None
    assert "No figure was published" in card.text and "No figure has been measured" in card.text


# Text


@by_repo_name(ROWS)
def test_card_states_what_readers_need(row):
    text = " ".join(load_card(row).text.split())
    assert "https://arxiv.org/abs/2105.05633" in text
    assert row.describe_parameters() in text
    assert row.notes in text
    assert f"`{row.name}`" in text or row.is_encoder
    for file in row.files:
        assert f"<{file.url}>" in text
    for heading in ("Use", "Model", "Conversion", "Training", "Limits and biases", "Licences and credits", "Citation"):
        assert f" ## {heading} " in text
    assert "non-commercial" in text and "@inproceedings{strudel2021segmenter" in text
    assert row.published_fps is None or f"{row.published_fps:g} images per second" in text
    assert row.published_training_memory_gb is None or f"{row.published_training_memory_gb:g} GB of memory" in text
    if not row.is_encoder:
        protocol = row.protocol
        assert f"windows of {protocol.window_size} x {protocol.window_size}, {protocol.window_stride} apart" in text
        differs = row.training_window_stride != protocol.window_stride
        assert (f"within training had its windows {row.training_window_stride} pixels apart" in text) is differs
        assert ("MMSegmentation feeds a smaller window" in text) is (row.source == "mmsegmentation")


@by_repo_name(ROWS)
def test_markdown_is_tidy(row):
    check_tidy(load_card(row).text)


@by_repo_name(ROWS)
def test_commands_convert_the_checkpoint_of_the_card(row):
    (command,) = code_blocks(load_card(row).text, "bash")
    script, name, folder = re.fullmatch(r"python (\S+) (\S+) (\w+)\n", command).groups()
    assert (REPOSITORY / script).is_file() and find_released(name) is row and folder == "OUTPUT_DIR"


# Snippets


@pytest.mark.slow
def test_snippets_run(tmp_path):
    """Of a model and an encoder, as those of all others differ in nothing but their repository."""
    rows = [MODELS[0], next(row for row in ROWS if row.is_encoder)]
    for row in rows:
        labels = {} if row.is_encoder else {"id2label": row.config.id2label}
        torch.manual_seed(0)
        save_download(f"{ORGANIZATION}/{row.repo_name}", TAG, row.model_class(tiny_config(**labels)), tmp_path)
    outputs = run_snippets({row.name: code_blocks(load_card(row).text, "python") for row in rows}, tmp_path)
    check_segments(outputs[rows[0].name], rows[0].config.label2id)
    first, second = outputs[rows[1].name]
    assert first.startswith("mask_transformer ")
    # 50 x 75 resized to 32 x 48: four windows of 24 x 32, each of 12 patches and the class token.
    assert second == "torch.Size([4, 13, 32])\n"


def test_cards_of_a_kind_differ_in_their_repository_only():
    """So that readers of one card know them all."""
    kinds = {}
    for row in ROWS:
        for index, code in enumerate(code_blocks(load_card(row).text, "python")):
            assert f'"{ORGANIZATION}/{row.repo_name}"' in code and f'"{TAG}"' in code
            kinds.setdefault((row.is_encoder, index), set()).add(code.replace(row.repo_name, "NAME"))
    assert len(kinds) == 4 and all(len(codes) == 1 for codes in kinds.values())
