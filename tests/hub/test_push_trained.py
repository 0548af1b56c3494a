"""
What is pushed of a folder that training wrote, and that the Hub ends with it whatever happens on the way. The real
client speaks to a server on the loopback interface.
"""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import TrainingArguments

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.evaluation.results import write_results_file
from segmenter_hf.hub.cards import make_trained_card
from segmenter_hf.hub.client import AccessError, PushError
from segmenter_hf.hub.push_trained import check_repository, list_trained_files, push_trained, save_card
from tests.common import CODE_FILES, run_python
from tests.data.datasets_on_disk import make_image
from tests.evaluation.evaluations import PROCESSOR_SETTINGS
from tests.hub.hub_server import Fault, client_environment


REPO_ID = "lab/trained"
PUSHED = CODE_FILES | {
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "results.json",
    "all_results.json",
    "trainer_state.json",
}

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(model, single, tmp_path_factory):
    """A folder as a run of `Trainer` leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    image_processor, results = SegmenterImageProcessorPil(**PROCESSOR_SETTINGS), single
    for each in (folder, folder / "checkpoint-10"):
        model.save_pretrained(each)
        image_processor.save_pretrained(each)
        torch.save(TrainingArguments(str(folder), use_cpu=True), each / "training_args.bin")
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), folder / "checkpoint-10" / "optimizer.pt")
    torch.save({}, folder / "scheduler.pt")
    write_results_file(results, folder / "results.json")
    write_results_file({"eval_mean_iou": results["mean_iou"]}, folder / "all_results.json")
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 0.5, "step": 10}]}))
    (folder / "notes.txt").write_text("mine")
    (folder / "script.py").write_text("print('mine')")
    (folder / "model.safetensors.part").write_text("half")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.out").write_text("events")
    save_card(make_trained_card(model.config, image_processor, [results], repo_id=REPO_ID, license="mit"), folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "trained")


def names_of(entries):
    return {entry.path for entry in entries}


def test_model_card_and_figures_are_pushed_and_nothing_else(folder, server, api):
    assert names_of(push_trained(folder, REPO_ID, api=api, commit_message="Trained on scenes")) == PUSHED
    files = server.files(REPO_ID)
    assert files.keys() - {".gitattributes"} == PUSHED
    for name in PUSHED:
        assert files[name] == (folder / name).read_bytes()
    assert [commit.title for commit in server.commits(REPO_ID)] == ["initial commit", "Trained on scenes"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and card.data.eval_results[0].metric_type == "mean_iou"
    assert f'model="{REPO_ID}"' in card.text


def test_second_push_uploads_nothing_and_third_what_differs(folder, server, api):
    push_trained(folder, REPO_ID, api=api)
    uploads, commits = dict(server.uploads), len(server.commits(REPO_ID))
    assert push_trained(folder, REPO_ID, api=api) == []
    assert len(server.commits(REPO_ID)) == commits
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    assert names_of(push_trained(folder, REPO_ID, api=api)) == {"README.md"}
    assert dict(server.uploads) == uploads and len(server.commits(REPO_ID)) == commits + 1
    assert server.files(REPO_ID)["README.md"].endswith(b"# Mine\n")


def test_repository_of_the_user(folder, server, api):
    assert check_repository("trained", api=api) == "tester/trained"
    assert server.hub.repositories == {}, "nothing is made before training"
    push_trained(folder, "trained", api=api, private=True)
    assert server.hub.repositories["tester/trained"].private
    push_trained(folder, REPO_ID, api=api)
    assert not server.hub.repositories[REPO_ID].private


def test_what_does_not_pass_is_one_error_and_a_later_push_goes_on(folder, server, api):
    server.faults.append(Fault("POST .*/commit/main", status=503, times=None))
    with pytest.raises(PushError, match="Uploading lab/trained failed: .*503"):
        push_trained(folder, REPO_ID, api=api)
    server.faults.clear()
    assert names_of(push_trained(folder, REPO_ID, api=api)) == PUSHED
    # The weights had been uploaded before the commit failed.
    assert set(server.uploads.values()) == {(folder / "model.safetensors").stat().st_size}


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("hf_wrong", REPO_ID, "status 401"),
        ("hf_read", REPO_ID, "may only read"),
        ("hf_write", "others/trained", "no member of others"),
    ],
)
def test_token_that_may_not_is_refused_before_training(token, repo_id, message, folder, server, waits):
    api = HfApi(endpoint=server.endpoint, token=token)
    for refused in (lambda: check_repository(repo_id, api=api), lambda: push_trained(folder, repo_id, api=api)):
        with pytest.raises(AccessError, match=message):
            refused()
    assert server.hub.repositories == {}


def test_names_that_are_none_are_refused(api, server):
    for name in ("my model", "a/b/c", "-x", ""):
        with pytest.raises(PushError, match="cannot be the name of a repository.*--hub_model_id"):
            check_repository(name, api=api)
    assert server.requests == []


@pytest.mark.parametrize("token", ["hf_write", False])
def test_offline(token, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match=r"HF_HUB_OFFLINE forbids to speak with the Hub\. Unset it, or do not push"):
        push_trained(folder, REPO_ID, token=token)


# The folder


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "preprocessor_config.json", "modeling_segmenter.py"]
)
def test_folder_that_is_not_complete_is_not_pushed(name, folder, server, api):
    (folder / name).unlink()
    with pytest.raises(PushError, match=f"no folder of a trained model: it lacks {name}"):
        push_trained(folder, REPO_ID, api=api)
    assert server.requests == []


def test_folder_that_is_none(tmp_path):
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(PushError, match="it lacks config.json, model.safetensors, preprocessor_config.json"):
            list_trained_files(folder)


def test_weights_in_several_files(model, folder):
    model.save_pretrained(folder, max_shard_size="50KB")
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    # A model that was saved as a whole before would have precedence.
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model-00099-of-00099.safetensors").touch()
    weights = {name for name in list_trained_files(folder) if ".safetensors" in name}
    assert len(shards) > 1 and weights == shards | {"model.safetensors.index.json"}
    (folder / min(shards)).unlink()
    with pytest.raises(PushError, match=f"it lacks {min(shards)}"):
        list_trained_files(folder)


def test_names_of_figures(folder):
    names = {"eval_results.json", "results_multi_scale.json", "results-ms.json", "test_results.json", "LICENSE"}
    others = {"my_notes.json", "tokenizer.json", "results.csv", "resultsold.json"}
    for name in names | others:
        (folder / name).write_text("{}")
    assert set(list_trained_files(folder)) == PUSHED | names


def test_notices_and_licences_are_pushed(folder, server, api):
    names = {"NOTICE", "NOTICE-2", "LICENSE.md", "MODEL_LICENSE", "COPYING"}
    for name in names | {"license.py", "notices.json", "my_terms"}:
        (folder / name).write_text(name)
    assert names_of(push_trained(folder, REPO_ID, api=api)) == PUSHED | names
    assert {name: server.files(REPO_ID)[name] for name in names} == {name: name.encode() for name in names}


def test_paths_of_the_machine_are_not_published(folder, server, api, single, tmp_path):
    """As they are in the state of a run that chose its best checkpoint, and in what the evaluation script wrote."""
    state = {"best_model_checkpoint": str(tmp_path / "run" / "checkpoint-10"), "best_metric": 0.5, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    command = (
        f"python scripts/evaluate_semantic_segmentation.py --model_name_or_path {folder} --output_file {folder}/x"
    )
    dataset = single["dataset"] | {"name": str(tmp_path / "data")}
    write_results_file(
        single | {"model": str(folder), "dataset": dataset, "command": command}, folder / "results_ms.json"
    )
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    push_trained(folder, REPO_ID, api=api)
    files = server.files(REPO_ID)
    assert not [name for name, contents in files.items() if str(tmp_path).encode() in contents]
    assert json.loads(files["trainer_state.json"]) == state | {"best_model_checkpoint": "checkpoint-10"}
    results = json.loads(files["results_ms.json"])
    assert results["per_category_iou"] == single["per_category_iou"] and results["dataset"]["name"] == "data"
    assert {name: (folder / name).read_bytes() for name in before} == before, "on this disk all is as it was"
    assert push_trained(folder, REPO_ID, api=api) == []


@pytest.mark.parametrize("name", ["results.json", "README.md", "trainer_state.json", "NOTICE"])
def test_tokens_are_not_published(name, folder, server, api):
    token = "hf_" + "aB3" * 11
    (folder / name).write_text(f'{{"command": "run --hub_token {token}"}}')
    with pytest.raises(PushError, match=f"{name} holds a token of the Hub") as error:
        push_trained(folder, REPO_ID, api=api)
    assert token not in str(error.value) and server.requests == []


def test_files_that_are_no_json_are_one_error(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(PushError, match="config.json cannot be read"):
        list_trained_files(folder)


LOAD = """
import sys
from transformers import pipeline
segmenter = pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)
print(sorted(segmenter.model.config.label2id), len(segmenter(sys.argv[2])))
"""


@pytest.mark.slow
def test_pushed_model_loads_without_the_package(folder, server, api, tmp_path):
    make_image().save(tmp_path / "photo.png")
    push_trained(folder, REPO_ID, api=api)
    environment = client_environment(server.endpoint, None, tmp_path / "hf_home")
    result = run_python(
        LOAD, REPO_ID, tmp_path / "photo.png", cwd=tmp_path, with_package=False, environment=environment
    )
    assert result.stdout.startswith("['car', 'never seen', 'road', 'sky'] ")
