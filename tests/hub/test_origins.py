"""What is known of the weights that training starts from: their terms, which come along, and their id on the Hub."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi

import segmenter_hf
from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.conversion.convert import LICENCES
from segmenter_hf.conversion.released import RELEASED
from segmenter_hf.hub.cards import TrainingFacts, make_trained_card
from segmenter_hf.hub.documents import save_documents
from segmenter_hf.hub.origins import Terms, find_starting_weights, load_starting_weights
from segmenter_hf.hub.push_trained import list_trained_files, push_trained, save_card
from tests.evaluation.evaluations import PROCESSOR_SETTINGS
from tests.hub.hub_server import HubServer, prepare_client


IMAGE_PROCESSOR = SegmenterImageProcessorPil(**PROCESSOR_SETTINGS)
APACHE, MIT = ((LICENCES / f"{name}.txt").read_bytes() for name in ("apache-2.0", "mit"))
AUGREG_TINY = "timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k"


def write_folder(folder, metadata=None, **documents):
    """A folder of weights with a card and documents, whose names have two underscores for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    if metadata is not None:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# Model\n")
    for name, text in documents.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def train(model, start, folder, repo_id=None, **settings):
    """The folder that a training leaves, with metadata and text of its card."""
    model.save_pretrained(folder)
    IMAGE_PROCESSOR.save_pretrained(folder)
    start = load_starting_weights(None if start is None else str(start)).save_documents(folder)
    facts = TrainingFacts(is_from_scratch=start.is_random)
    settings = {"training": facts, "base_model": start, "repo_id": repo_id, **settings}
    card = make_trained_card(model.config, IMAGE_PROCESSOR, **settings)
    save_card(card, folder)
    return yaml.safe_load(str(card).split("---\n", 2)[1]), " ".join(card.text.split())


def licence_of(metadata):
    return tuple(metadata.get(name) for name in ("license", "license_name", "license_link"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_notice_of_the_shipped_checkpoint_comes_along_and_again_from_model_to_model(model, tmp_path):
    start = segmenter_hf.default_checkpoint()
    for number in range(3):
        folder = tmp_path / f"generation{number}"
        metadata, text = train(model, start, folder)
        assert licence_of(metadata) == ("other", "camvid-research-and-demonstration", "NOTICE")
        assert (folder / "NOTICE").read_bytes() == open(f"{segmenter_hf.default_checkpoint()}/NOTICE", "rb").read()
        assert "for research and demonstration only" in text, "the card states them"
        assert "base_model" not in metadata, "a path is no id"
        assert "NOTICE" in list_trained_files(folder)
        start = folder


@pytest.mark.parametrize("name", ["ade20k/seg_tiny_mask", "segmenter_vit-t_mask_8x1_512x512_160k_ade20k",
                                  "vit_tiny_patch16_384", "vit_tiny_p16_384"])  # fmt: skip
def test_released_checkpoints(name, model, tmp_path):
    metadata, text = train(model, name, tmp_path)
    licence = RELEASED[name].licence
    assert licence_of(metadata) == (licence, None, None)
    assert (tmp_path / "LICENSE").read_bytes() == {"mit": MIT, "apache-2.0": APACHE}[licence]
    assert (metadata["base_model"], metadata["base_model_relation"]) == (AUGREG_TINY, "finetune")
    assert "beside this card: `LICENSE`." in text
    again, _ = train(model, tmp_path, tmp_path / "again")
    assert licence_of(again) == licence_of(metadata) and again["base_model"] == AUGREG_TINY
    assert (tmp_path / "again" / "LICENSE").read_bytes() == (tmp_path / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("metadata", "documents", "licence"),
    [
        ({"license": "MIT "}, {}, ("mit", None, None)),
        ({"license": "cc-by-nc-4.0"}, {}, ("cc-by-nc-4.0", None, None)),
        (
            {"license": "other", "license_name": "My Licence", "license_link": "https://lab.org/terms"},
            {},
            ("other", "my-licence", "https://lab.org/terms"),
        ),
        ({"license": "other", "license_link": "./TERMS.md"}, {"TERMS__md": "no"},
         ("other", "terms-of-the-starting-weights", "TERMS.md")),
        ({"license": ["mit", "cc-by-4.0"]}, {}, ("other", "mit-and-cc-by-4.0", None)),
        ({"license": "Ask the lab!"}, {}, ("other", "ask-the-lab", None)),
        # The licence of code beside weights says nothing of them.
        ({}, {"LICENSE": APACHE.decode()}, ("other", "terms-of-the-starting-weights", "LICENSE")),
        (None, {"NOTICE__txt": "no"}, ("other", "terms-of-the-starting-weights", "NOTICE.txt")),
        ({"license": "unknown"}, {}, ("other", "unknown", None)),
        (None, {}, ("other", "unknown", None)),
        ({"license": {"a": 1}}, {}, ("other", "a-1", None)),
        # What is not beside the weights is not taken from elsewhere.
        ({"license": "other", "license_name": "x", "license_link": "/etc/hostname"}, {}, ("other", "x", None)),
        ({"license": "other", "license_name": "x", "license_link": "../secret"}, {}, ("other", "x", None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_file", [False, True])
def test_terms_beside_weights(is_file, metadata, documents, licence, model, tmp_path):
    (tmp_path / "secret").write_text("mine")
    folder = write_folder(tmp_path / "start", metadata, **documents)
    start = folder / "config.json" if is_file else folder
    card, text = train(model, start, tmp_path / "trained")
    assert licence_of(card) == licence
    for name, contents in documents.items():
        assert (tmp_path / "trained" / name.replace("__", ".")).read_text() == contents
        assert f"`{name.replace('__', '.')}`" in text
    assert ("No licence is known" in text) is (licence[1] == "unknown")
    assert str(tmp_path) not in text and "hostname" not in json.dumps(card)
    # The terms stay the same if it is trained on.
    assert licence_of(train(model, tmp_path / "trained", tmp_path / "again")[0]) == licence


def test_apache_comes_with_its_text(model, tmp_path):
    start = write_folder(tmp_path / "start", {"license": "apache-2.0"}, NOTICE="Copyright of the lab")
    metadata, _ = train(model, start, tmp_path / "trained")
    assert metadata["license"] == "apache-2.0"
    assert (tmp_path / "trained" / "LICENSE").read_bytes() == APACHE
    assert (tmp_path / "trained" / "NOTICE").read_text() == "Copyright of the lab"


def test_documents_of_users_stay(model, tmp_path):
    start = write_folder(tmp_path / "start", {"license": "other", "license_link": "LICENSE.md"},
                         LICENSE__md="theirs", NOTICE="theirs", MODEL_LICENSE="theirs")  # fmt: skip
    folder = write_folder(tmp_path / "trained", NOTICE="mine", LICENSE__md="mine")
    (folder / "LICENSE-2.md").mkdir()
    for _ in range(2):
        metadata, text = train(model, start, folder)
        assert licence_of(metadata) == ("other", "terms-of-the-starting-weights", "LICENSE-3.md")
        assert "beside this card: `LICENSE-3.md`, `MODEL_LICENSE`, `NOTICE-2`." in text
        contents = {file.name: file.read_text() for file in folder.glob("*[CN]*") if file.is_file()}
        assert contents == {
            **{"NOTICE": "mine", "LICENSE.md": "mine"},
            **{"NOTICE-2": "theirs", "LICENSE-3.md": "theirs", "MODEL_LICENSE": "theirs"},
        }


def test_links_are_not_followed_out_of_the_folder(tmp_path):
    (tmp_path / "id_rsa").write_text("secret")
    (tmp_path / "LICENSE").write_text("ours")
    folder = write_folder(tmp_path / "start", {"license": "other", "license_link": "terms"})
    (folder / "NOTICE").symlink_to(tmp_path / "id_rsa")
    (folder / "terms").symlink_to(tmp_path / "id_rsa")
    (folder / "LICENSE").symlink_to(tmp_path / "LICENSE")
    assert find_starting_weights(str(folder)).documents == {"LICENSE": b"ours"}
    written = tmp_path / "written"
    written.mkdir()
    (written / "NOTICE").symlink_to(tmp_path / "nothing")
    assert save_documents({"NOTICE": b"x"}, written) == {"NOTICE": "NOTICE-2"}
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("base_model", "expected"),
    [
        ("lab/encoder", "lab/encoder"),
        (["lab/encoder", "lab/other"], ["lab/encoder", "lab/other"]),
        (["/home/jane/x", "lab/encoder"], "lab/encoder"),
        ("/home/jane/runs/best", None),
        ("./best", None),
        ({"a": "b"}, None),
        (None, None),
    ],
)
def test_base_model_of_a_folder_is_that_of_its_card(base_model, expected, model, tmp_path):
    metadata, text = train(model, write_folder(tmp_path / "start", {"base_model": base_model}), tmp_path / "trained")
    assert metadata.get("base_model") == expected
    assert metadata.get("base_model_relation") == (expected and "finetune")
    assert "jane" not in text


def test_base_model_is_what_a_folder_was_pushed_as(model, tmp_path):
    train(model, None, tmp_path / "first", repo_id="lab/first")
    metadata, text = train(model, tmp_path / "first", tmp_path / "second", repo_id="lab/second")
    assert metadata["base_model"] == "lab/first" and "[`lab/first`]" in text
    # One that was not pushed has none, but what it was made from.
    train(model, tmp_path / "first", tmp_path / "local")
    assert train(model, tmp_path / "local", tmp_path / "third")[0]["base_model"] == "lab/first"
    # Nothing is made from itself.
    assert "base_model" not in train(model, tmp_path / "first", tmp_path / "first", repo_id="lab/first")[0]


def test_checkpoints_of_a_run_have_the_terms_of_the_run(model, tmp_path):
    run = tmp_path / "run"
    train(model, segmenter_hf.default_checkpoint(), run, repo_id="lab/run")
    model.save_pretrained(run / "checkpoint-10")
    metadata, _ = train(model, run / "checkpoint-10", tmp_path / "trained")
    assert licence_of(metadata) == ("other", "camvid-research-and-demonstration", "NOTICE")
    assert "base_model" not in metadata, "what was pushed is another checkpoint"
    # A run that was killed has left the notices.
    (run / "README.md").unlink()
    metadata, _ = train(model, run / "checkpoint-10", tmp_path / "again")
    assert metadata["license"] == "other" and (tmp_path / "again" / "NOTICE").exists()


@pytest.mark.parametrize("card", ["---\n[\n---\n", "---\n- list\n---\n", "---\n" + "[" * 3000 + "\n---\n", "\xff", ""])
def test_cards_that_cannot_be_read_state_nothing(card, model, tmp_path):
    folder = write_folder(tmp_path / "start", NOTICE="no")
    (folder / "README.md").write_bytes(card.encode("latin-1"))
    metadata, _ = train(model, folder, tmp_path / "trained")
    assert licence_of(metadata) == ("other", "terms-of-the-starting-weights", "NOTICE")


def test_own_licence_does_not_hide_that_of_the_start(model, tmp_path):
    metadata, text = train(model, segmenter_hf.default_checkpoint(), tmp_path, license="cc-by-4.0")
    assert licence_of(metadata) == ("cc-by-4.0", None, None)
    assert "licensed under cc-by-4.0; those that training started from are under" in text
    assert "`camvid-research-and-demonstration`, see `NOTICE`" in text and (tmp_path / "NOTICE").exists()


def test_models_of_timm(model, tmp_path, monkeypatch):
    settings = {
        "vit_small_patch16_224.mae": SimpleNamespace(
            hf_hub_id="timm/vit_small_patch16_224.mae", license="cc-by-nc-4.0"
        ),
        "vit_tiny_patch16_384": SimpleNamespace(hf_hub_id=AUGREG_TINY, license="apache-2.0"),
        "vit_mine": SimpleNamespace(hf_hub_id=None, license=None),
        "vit_none": None,
    }
    models = SimpleNamespace(get_pretrained_cfg=settings.get)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "timm.models", models)
    known = {}
    for name in settings:
        metadata, _ = train(model, f"timm:{name}", tmp_path / name)
        known[name] = (metadata.get("base_model"), metadata["license"], (tmp_path / name / "LICENSE").exists())
    assert known == {
        "vit_small_patch16_224.mae": ("timm/vit_small_patch16_224.mae", "cc-by-nc-4.0", False),
        "vit_tiny_patch16_384": (AUGREG_TINY, "apache-2.0", True),
        "vit_mine": (None, "other", False),
        "vit_none": (None, "other", False),
    }


def test_repositories_of_the_hub(model, tmp_path, monkeypatch):
    """Pushed with its notice, trained on from the Hub, pushed, and trained on from a folder in the cache."""
    prepare_client(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(organizations=("lab",)) as server:
        api = HfApi(endpoint=server.endpoint, token="hf_write")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                            server.endpoint + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
        train(model, segmenter_hf.default_checkpoint(), tmp_path / "first", repo_id="lab/first")
        push_trained(tmp_path / "first", "lab/first", api=api)
        start = load_starting_weights("lab/first", cache_dir=str(tmp_path / "cache"))
        assert start.terms == Terms("other", "camvid-research-and-demonstration", "NOTICE")
        assert start.base_model == "lab/first" and set(start.documents) == {"NOTICE"}
        assert "revision" not in start.description
        missing = load_starting_weights("lab/missing", cache_dir=str(tmp_path / "cache"))
        assert missing.terms == Terms("other", "unknown", "https://huggingface.co/lab/missing")
    (snapshot,) = (tmp_path / "cache" / "models--lab--first" / "snapshots").iterdir()
    assert {file.name for file in snapshot.iterdir()} == {"NOTICE", "README.md"}, "nothing else was downloaded"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("lab/first", str(snapshot)):
        start = load_starting_weights(name, cache_dir=str(tmp_path / "cache"))
        assert start.base_model == "lab/first" and set(start.documents) == {"NOTICE"}
        assert (f", revision `{snapshot.name}`" in start.description) is (name == str(snapshot))
    start = load_starting_weights("lab/first", revision="v2", cache_dir=str(tmp_path / "cache"))
    assert ", revision `v2`" in start.description and start.terms.name == "unknown", "what v2 says is not in the cache"
