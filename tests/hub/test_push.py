"""
The push ends with the same contents on the Hub whatever happens to it on the way, and uploads nothing twice. The real
client speaks to a server on the loopback interface.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segmenter_hf.conversion.released import find_released
from segmenter_hf.hub import push
from segmenter_hf.hub.push import AccessError, PushError, make_manifest, push_released
from segmenter_hf.output_folders import temporary_folder
from tests.common import CODE_FILES, REPOSITORY, ForkedScript, run_in_child, run_python
from tests.conversion.encoder_checkpoints import make_augreg_arrays
from tests.conversion.original_checkpoints import make_original_checkpoint
from tests.hub.hub_server import Fault, HubServer, client_environment, prepare_client


RESULTS_DIR = REPOSITORY / "model_cards" / "results"
# A mask transformer, a linear decoder and an encoder. Their files have no known checksum, so that small ones do.
NAMES = ("ade20k/seg_tiny_mask", "ade20k/seg_base_patch8", "vit_tiny_patch16_384")
ROWS = [find_released(name) for name in NAMES]
REPOS = [f"lab/{row.repo_name}" for row in ROWS]
MODEL_FILES = CODE_FILES | {"LICENSE", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"}

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    """The cache of downloads, with small checkpoints in the place of the released ones."""
    folder = tmp_path_factory.mktemp("downloads")
    make_original_checkpoint().write(folder / ROWS[0].repo_name)
    make_original_checkpoint(decoder="linear", patch_size=8, image_size=(32, 32)).write(folder / ROWS[1].repo_name)
    (folder / ROWS[2].repo_name).mkdir()
    with (folder / ROWS[2].repo_name / ROWS[2].files[0].name).open("wb") as file:
        np.savez(file, **make_augreg_arrays())
    return folder


@pytest.fixture(scope="module")
def assembled(downloads, tmp_path_factory) -> Path:
    """A work folder in which everything was made and verified."""
    folder = tmp_path_factory.mktemp("assembled")
    outcomes = list(push_released(ROWS, "lab", RESULTS_DIR, work_dir=folder, cache_dir=downloads, dry_run=True))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    return folder


@pytest.fixture
def work_dir(assembled, tmp_path) -> Path:
    return Path(shutil.copytree(assembled, tmp_path / "work"))


@pytest.fixture
def server():
    with HubServer(organizations=("lab",)) as server:
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Nobody waits: the seconds that the push would have, and those of the client itself, are kept here."""
    waits = prepare_client(monkeypatch)
    monkeypatch.setattr(push, "sleep", waits.append)
    return waits


@pytest.fixture
def push_here(server, work_dir, downloads, waits):
    """Pushes from this process."""

    def run(rows=ROWS, token: str | None = "hf_write", **settings) -> list[push.Outcome]:
        api = HfApi(endpoint=server.endpoint, token=token)
        settings = {"work_dir": work_dir, "cache_dir": downloads, **settings}
        return list(push_released(rows, "lab", RESULTS_DIR, api=api, **settings))

    return run


def start_script(
    server, *arguments, cwd: Path, token: str | None = "hf_write", script: str = "push_all_to_hub.py"
) -> ForkedScript:
    environment = client_environment(server.endpoint, token, cwd / "hf_home")
    return ForkedScript(script, *arguments, cwd=cwd, environment=environment)


def state(server) -> dict:
    """What users find on the Hub."""
    repositories = {
        repo_id: {
            "main": server.files(repo_id),
            "tags": {tag: server.files(repo_id, tag) for tag in repository.tags},
            "titles": [commit.title for commit in server.commits(repo_id)],
        }
        for repo_id, repository in server.hub.repositories.items()
    }
    collections = sorted(
        (collection["title"], [item["id"] for item in collection["items"]])
        for collection in server.hub.collections.values()
    )
    return {"repositories": repositories, "collections": collections}


@pytest.fixture(scope="module")
def expected_state(assembled, downloads, tmp_path_factory) -> dict:
    """What an undisturbed push ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(assembled, folder / "work")
    with HubServer(organizations=("lab",)) as server, pytest.MonkeyPatch.context() as monkeypatch:
        prepare_client(monkeypatch)
        api = HfApi(endpoint=server.endpoint, token="hf_write")
        settings = {"work_dir": folder / "work", "cache_dir": downloads, "api": api}
        outcomes = list(push_released(ROWS, "lab", RESULTS_DIR, **settings))
        assert [outcome.error for outcome in outcomes] == [None] * 3
        assert set(server.uploads.values()) == {
            (folder / "work" / repo_id / "model.safetensors").stat().st_size for repo_id in REPOS
        }
        return state(server)


def writes(server) -> list[str]:
    """The requests that ask for a change."""
    reading = ("GET", "HEAD")
    return [f"{request.method} {request.path}" for request in server.requests if request.method not in reading]


def test_contents(expected_state, assembled):
    assert set(expected_state["repositories"]) == set(REPOS)
    for row, repo_id in zip(ROWS, REPOS, strict=True):
        repository = expected_state["repositories"][repo_id]
        assert repository["main"].keys() - {".gitattributes"} == MODEL_FILES
        assert repository["tags"] == {"v1.0": repository["main"]}
        assert repository["titles"] == ["initial commit", "Upload the converted checkpoint (v1.0)"]
        for entry in make_manifest(assembled / repo_id):
            assert repository["main"][entry.path] == (assembled / repo_id / entry.path).read_bytes()
        card = ModelCard(repository["main"]["README.md"].decode())
        assert card.data.license == row.licence
        assert f'"{repo_id}"' in card.text and 'revision = "v1.0"' in card.text
        assert b"Copyright (c) 2021 Robin Strudel" in repository["main"]["LICENSE"] or row.licence != "mit"
    assert expected_state["collections"] == [("Segmenter", REPOS[:2]), ("Segmenter encoders", REPOS[2:])]


def test_second_push_changes_nothing(push_here, server):
    assert all(outcome.uploaded for outcome in push_here())
    before, number = state(server), len(server.requests)
    assert [outcome.uploaded for outcome in push_here()] == [[], [], []]
    assert state(server) == before
    assert all(request.method in ("GET", "HEAD") for request in server.requests[number:])
    assert len(server.requests) > number


def test_assembled_folders_are_taken_again_until_something_changes(push_here, work_dir, server, monkeypatch):
    stamps = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*.json")}
    push_here(dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob("*.json")} == stamps
    # A file that is not what was verified.
    folder = work_dir / REPOS[0]
    (folder / "README.md").write_text("# Mine\n")
    (outcome,) = push_here(ROWS[:1], dry_run=True)
    assert "# Seg-T-Mask/16" in (folder / "README.md").read_text()
    assert outcome.manifest == make_manifest(folder)
    # Another tag is in the card.
    push_here(ROWS[:1], dry_run=True, tag="v2.0")
    assert 'revision = "v2.0"' in (folder / "README.md").read_text()
    assert server.requests == []


def spoil_weights(folder: Path, model):
    with torch.no_grad():
        model.get_parameter("decoder.mask_norm.bias").add_(1)


def spoil_settings(name: str, value):
    def spoil(folder: Path, model):
        path = folder / "preprocessor_config.json"
        settings = json.loads(path.read_text())
        settings[name] = value
        path.write_text(json.dumps(settings))

    return spoil


def spoil_config(folder: Path, model):
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (folder / "config.json").write_text(json.dumps(config))


def spoil_code(folder: Path, model):
    (folder / "modeling_segmenter.py").write_text("")


def spoil_files(folder: Path, model):
    (folder / "notes.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "weights, outputs"),
        (spoil_settings("image_mean", [0.1, 0.2, 0.3]), "image processor (pil), image processor (torchvision)"),
        (spoil_settings("window_stride", 7), "image processor (pil), image processor (torchvision)"),
        (spoil_settings("auto_map", {}), "code of the image processor"),
        (spoil_config, "config"),
        (spoil_code, "modeling_segmenter.py"),
        (spoil_files, "notes.txt"),
    ],
)
def test_what_does_not_load_as_converted_is_not_pushed(spoil, message, push_here, work_dir, server, monkeypatch):
    shutil.rmtree(work_dir)
    write_documents = push.write_documents

    def spoil_too(folder, row, repo_id, revision, results, model):
        write_documents(folder, row, repo_id, revision, results, model)
        spoil(folder, model)

    monkeypatch.setattr(push, "write_documents", spoil_too)
    (outcome,) = push_here(ROWS[:1])
    assert f"does not load as what was converted. It differs in: {message}." in outcome.error
    assert server.hub.repositories == {}
    assert not (work_dir / REPOS[0]).exists()


def test_card_says_what_the_model_is(assembled):
    card = (assembled / REPOS[0] / "README.md").read_text()
    assert "width 64, 2 layers, 1 heads" in card and "mask transformer of 2 layers, width 64" in card


def test_broken_stamp_is_none(push_here, work_dir):
    for content in ("", "{", "[]", "{}"):
        (work_dir / f"{REPOS[0]}.json").write_text(content)
        (outcome,) = push_here(ROWS[:1], dry_run=True)
        assert outcome.error is None


def test_other_download_is_converted_again(push_here, work_dir, downloads, tmp_path):
    before = (work_dir / REPOS[0] / "model.safetensors").read_bytes()
    other = Path(shutil.copytree(downloads, tmp_path / "other"))
    make_original_checkpoint(seed=1).write(other / ROWS[0].repo_name)
    push_here(ROWS[:1], dry_run=True, cache_dir=other)
    assert (work_dir / REPOS[0] / "model.safetensors").read_bytes() != before
    # What was converted is kept when downloads are deleted.
    stamp = work_dir / f"{REPOS[0]}.json"
    changed = stamp.stat().st_mtime_ns
    shutil.rmtree(other)
    (outcome,) = push_here(ROWS[:1], dry_run=True, cache_dir=other)
    assert outcome.error is None and stamp.stat().st_mtime_ns == changed


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(push_here, work_dir):
    def stop():
        with temporary_folder(work_dir / "lab", ".converting-") as folder:
            folder.mkdir()
            os._exit(9)

    assert run_in_child(stop) == 9
    (left,) = (work_dir / "lab").glob(".*")
    own = work_dir / "lab" / ".converting-photos"
    own.mkdir()
    (own / "photo.jpg").touch()
    push_here(ROWS[:1], dry_run=True)
    assert list((work_dir / "lab").glob(".*")) == [own] and (own / "photo.jpg").exists()


def test_files_of_others_in_the_place_of_a_folder_are_not_removed(push_here, work_dir):
    folder = work_dir / REPOS[0]
    (folder / ".git").mkdir()
    (folder / "notes.txt").write_text("mine")
    before = make_manifest(folder)
    first, second = push_here(ROWS[:2], dry_run=True, tag="v2.0")
    assert (
        "holds what no push has put there: .git, notes.txt. Move that away, or pass another --work_dir" in first.error
    )
    assert second.error is None
    assert make_manifest(folder) == before and (folder / ".git").is_dir()


def test_folders_that_cannot_be_written_are_refused_before_anything(downloads, tmp_path):
    (tmp_path / "file").touch()
    settings = {"dry_run": True, "work_dir": tmp_path / "work", "cache_dir": downloads}
    for changes in ({"work_dir": tmp_path / "file" / "x"}, {"cache_dir": tmp_path / "file"}):
        with pytest.raises(PushError, match="file(/x)? (is a file|cannot be written)"):
            list(push_released(ROWS, "lab", RESULTS_DIR, **(settings | changes)))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("org", ["../../evil", "bad name", "", "lab/x"])
def test_org_that_is_none_is_refused(org, work_dir, downloads, tmp_path):
    with pytest.raises(PushError, match="is no name of an organisation"):
        list(push_released(ROWS, org, RESULTS_DIR, work_dir=tmp_path / "new", cache_dir=downloads, dry_run=True))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("tag", ["", "a b", "..", 'x"y', "main", "refs/heads/main"])
def test_tag_that_is_none_is_refused(tag, push_here, server):
    with pytest.raises(PushError, match="cannot be a tag"):
        push_here(tag=tag)
    assert server.requests == []


def test_results_that_are_none_end_that_checkpoint(push_here, work_dir, downloads, server, tmp_path):
    results = Path(shutil.copytree(RESULTS_DIR, tmp_path / "results"))
    (results / f"{ROWS[0].repo_name}.json").write_text("{")
    (results / f"{ROWS[1].repo_name}.json").unlink()
    settings = {"work_dir": work_dir, "cache_dir": downloads, "dry_run": True}
    broken, missing = push_released(ROWS[:2], "lab", results, **settings)
    assert ROWS[0].repo_name in broken.error
    # Published figures are in the table.
    assert missing.error is None and "| 49.5 | 1 | no |" in (work_dir / REPOS[1] / "README.md").read_text()


def test_offline(push_here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        push_here()


WRITE_REQUESTS = [
    "POST /api/repos/create",
    "POST /api/validate-yaml",
    "POST .*/preupload/",
    "POST .*/info/lfs/objects/batch",
    "PUT ",
    "POST .*/commit/main",
    "POST .*/tag/",
    "POST /api/collections$",
    "POST /api/collections/.*/items",
]
READ_REQUESTS = ["GET /api/whoami", "GET .*/tree/", "GET .*/refs", "GET /api/collections", "GET /api/models/"]


FAULTS = {
    "429": {"status": 429, "retry_after": 7, "times": 2},
    "503": {"status": 503, "times": 3},
    "500": {"status": 500, "body": b"<html>Oops</html>"},
    "504-done": {"status": 504, "takes_effect": True},
    "page": {"status": 200, "body": b"<html>Back soon</html>"},
    "cut-answer": {"cut_after": 0},
    "cut-request": {"cut_request_after": 0},
}
# Whose answers nobody reads: a page in their place is not seen.
WITHOUT_ANSWER = ("PUT ", "POST .*/tag/")


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        pytest.param(match, fault, id=f"{name} {match}")
        for match in WRITE_REQUESTS + READ_REQUESTS
        for name, fault in FAULTS.items()
        if not (name == "page" and match in WITHOUT_ANSWER)
    ],
)
def test_what_may_pass_is_tried_again(match, fault, push_here, server, waits, expected_state):
    server.faults.append(Fault(match, **fault))
    outcomes = push_here()
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert state(server) == expected_state
    assert not any(fault.times for fault in server.faults)
    if fault.get("retry_after") and match.startswith("POST /api"):
        assert max(waits) >= 7
    if match != "PUT ":
        # Once was enough for the weights, whatever happened to what came before and after.
        assert set(server.uploads.values()) == {
            len(repository["main"]["model.safetensors"]) for repository in expected_state["repositories"].values()
        }


def test_address_of_the_storage_that_expired_is_asked_for_again(push_here, server, expected_state):
    server.faults.append(Fault("PUT ", status=403, body=b"<Error>Request has expired</Error>"))
    assert [outcome.error for outcome in push_here()] == [None] * 3
    assert state(server) == expected_state


def test_limit_of_requests_is_waited_for(push_here, server, waits, expected_state):
    """However often: these are no failures."""
    server.faults.append(Fault("POST /api/repos/create", status=429, retry_after=250, times=12))
    assert [outcome.error for outcome in push_here()] == [None] * 3
    assert state(server) == expected_state
    assert sum(seconds >= 251 for seconds in waits) == 12


@pytest.mark.parametrize(
    ("status", "origin", "error"),
    [
        (401, "http://hub/api/models/lab/x/xet-write-token/main", AccessError),
        (403, "http://hub/api/models/lab/x/xet-write-token/main", AccessError),
        (400, "http://storage/v1/xorbs", PushError),
        (403, "http://storage/v1/xorbs", None),
        (503, "http://storage/v1/xorbs", None),
    ],
)
def test_errors_of_xet_are_told_apart_by_their_text(status, origin, error, waits):
    """Its client, which uploads where it is installed, raises a bare ConnectionError."""
    results = [ConnectionError(f"Network error: HTTP status client error ({status} Some reason), domain: {origin}"), 5]

    def upload():
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    if error is None:
        assert push.call_hub("Uploading", upload) == 5
    else:
        with pytest.raises(error):
            push.call_hub("Uploading", upload)
        assert results == [5]


def test_reason_of_the_hub_is_told(push_here, server):
    server.faults.append(
        Fault("POST .*/commit/main", status=400, body=b'{"error": "The weights are too heavy"}', times=None)
    )
    assert "The weights are too heavy" in push_here(ROWS[:1])[0].error
    server.faults[:] = [Fault("POST .*/commit/main", status=403, body=b'{"error": "Out of storage"}', times=None)]
    with pytest.raises(AccessError, match="Out of storage"):
        push_here(ROWS[:1])


def test_organisation_of_others_is_refused_before_anything_is_made(server, downloads, tmp_path, waits):
    api = HfApi(endpoint=server.endpoint, token="hf_write")
    settings = {"work_dir": tmp_path / "work", "cache_dir": downloads, "api": api}
    with pytest.raises(AccessError, match="no member of others"):
        list(push_released(ROWS, "others", RESULTS_DIR, **settings))
    assert not (tmp_path / "work" / "others").exists()


def test_connection_that_is_cut_in_the_middle_of_weights(push_here, server, expected_state):
    server.faults.append(Fault("PUT ", cut_request_after=100_000, times=2))
    assert [outcome.error for outcome in push_here()] == [None] * 3
    assert state(server) == expected_state


def test_what_does_not_pass_ends_that_checkpoint_only(push_here, server, waits, expected_state):
    server.faults.append(Fault(f"POST .*{REPOS[1]}/commit", status=503, times=None))
    outcomes = push_here()
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert f"Uploading {REPOS[1]} failed too often" in outcomes[1].error
    assert waits
    server.faults.clear()
    assert [outcome.error for outcome in push_here()] == [None] * 3
    # Only the order in which they came is another.
    assert state(server)["repositories"] == expected_state["repositories"]
    # The weights had been uploaded before the commit failed.
    assert set(server.uploads.values()) == {
        len(repository["main"]["model.safetensors"]) for repository in expected_state["repositories"].values()
    }


def test_checkpoint_that_cannot_be_converted_ends_itself_only(push_here, downloads, work_dir, tmp_path):
    shutil.rmtree(work_dir)
    broken = Path(shutil.copytree(downloads, tmp_path / "broken"))
    os.truncate(broken / ROWS[0].repo_name / "checkpoint.pth", 1000)
    outcomes = push_here(cache_dir=broken)
    assert [outcome.error is None for outcome in outcomes] == [False, True, True]
    assert "truncated" in outcomes[0].error


@pytest.mark.parametrize(
    ("token", "message"), [("hf_wrong", "status 401"), ("hf_read", "may only read"), (None, "status 401")]
)
def test_token_that_is_not_accepted_stops_at_once(token, message, push_here, server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(AccessError, match=message):
        push_here(token=token)
    assert server.hub.repositories == {}
    assert len(writes(server)) <= 1


@pytest.mark.parametrize("match", ["POST .*/commit/main", "POST /api/collections/.*/items"])
def test_access_that_is_lost_on_the_way_stops_at_once(match, push_here, server):
    server.faults.append(Fault(match, status=403, times=None))
    with pytest.raises(AccessError, match="status 403"):
        push_here()
    assert server.count(match) == 1
    assert len(server.hub.repositories) == 1


def test_tag_is_never_moved(push_here, server, work_dir):
    push_here(ROWS[:1])
    repository = server.hub.repositories[REPOS[0]]
    tags = dict(repository.tags)
    api = HfApi(endpoint=server.endpoint, token="hf_write")
    # What is done on main later concerns nobody who pins the tag.
    api.upload_file(path_or_fileobj=b"# Better\n", path_in_repo="README.md", repo_id=REPOS[0])
    (outcome,) = push_here(ROWS[:1])
    assert (outcome.error, outcome.uploaded) == (None, [])
    assert server.files(REPOS[0])["README.md"] == b"# Better\n"

    stamp = work_dir / f"{REPOS[0]}.json"
    verified = json.loads(stamp.read_text())
    (work_dir / REPOS[0] / "LICENSE").write_text("Other terms\n")
    verified["manifest"] = [push.asdict(entry) for entry in make_manifest(work_dir / REPOS[0])]
    stamp.write_text(json.dumps(verified))
    (outcome,) = push_here(ROWS[:1])
    assert "has the tag v1.0 already, with other contents: ['LICENSE']" in outcome.error and "--tag" in outcome.error
    assert repository.tags == tags
    (outcome,) = push_here(ROWS[:1], tag="v1.1")
    assert outcome.error is None
    assert repository.tags.keys() == {"v1.0", "v1.1"} and repository.tags["v1.0"] == tags["v1.0"]
    assert b'revision = "v1.1"' in server.files(REPOS[0], "v1.1")["README.md"]


def test_files_of_others_are_left_alone(push_here, server, caplog):
    api = HfApi(endpoint=server.endpoint, token="hf_write")
    api.create_repo(REPOS[0])
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPOS[0])
    push_here(ROWS[:1])
    assert server.files(REPOS[0])["notes.txt"] == b"mine"
    assert server.files(REPOS[0]).keys() - {".gitattributes", "notes.txt"} == MODEL_FILES
    assert "notes.txt" in caplog.text


def test_two_pushes_do_not_share_a_folder(push_here, work_dir):
    with push.FileLock(work_dir / ".lock"):
        with pytest.raises(PushError, match="Another push is at work"):
            push_here()


# The script, in processes of its own


def test_dry_run_lists_what_would_be_pushed(server, work_dir, downloads, tmp_path):
    """In a fresh interpreter, as users start it. The others are copies of one that has imported the libraries."""
    arguments = ["--org", "lab", "--only", *NAMES, "--dry_run", "--work_dir", work_dir, "--cache_dir", downloads]
    result = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "push_all_to_hub.py", *arguments],
        cwd=tmp_path,
        env=client_environment(server.endpoint, None, tmp_path / "hf_home"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for repo_id in REPOS:
        for entry in make_manifest(work_dir / repo_id):
            assert f"  {entry.sha256}  {entry.size:>13,}  {entry.path}\n" in result.stdout
    assert server.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_secret_that_is_wrong", "status 401"), ("hf_read", "may only read"), (None, "status 401")],
)
def test_refusal_is_one_line_without_the_token(token, message, server, work_dir, downloads, tmp_path):
    arguments = ["--org", "lab", "--work_dir", work_dir, "--cache_dir", downloads]
    result = start_script(server, *arguments, "--only", *NAMES, cwd=tmp_path, token=token).finish()
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith("push_all_to_hub.py: error: ") and message in line
    if token is not None:
        assert token not in result.stdout + result.stderr
        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            assert token.encode() not in path.read_bytes(), path
    assert server.hub.repositories == {}


def test_conversion_that_is_pushed(server, downloads, tmp_path):
    source = make_original_checkpoint().write(tmp_path / "source")
    hub = ["--push_to_hub", "--repo_id", "lab/mine"]
    for number_of_files in (7, 0):
        arguments = [source, tmp_path / "converted", "--overwrite", *hub]
        result = start_script(server, *arguments, cwd=tmp_path, script="convert_checkpoint.py").finish()
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == f"lab/mine: {number_of_files} files uploaded"
    files = server.files("lab/mine")
    assert files.keys() - {".gitattributes"} == MODEL_FILES - {"README.md", "LICENSE"}
    assert files["model.safetensors"] == (tmp_path / "converted" / "model.safetensors").read_bytes()
    # A released one comes with its licence and a card.
    arguments = ["--released", NAMES[0], tmp_path / "released", "--cache_dir", downloads]
    arguments += ["--push_to_hub", "--repo_id", "lab/released"]
    result = start_script(server, *arguments, cwd=tmp_path, script="convert_checkpoint.py").finish()
    assert result.returncode == 0, result.stderr
    assert b'"lab/released"' in server.files("lab/released")["README.md"]
    assert b"Copyright (c) 2021 Robin Strudel" in server.files("lab/released")["LICENSE"]

    arguments = [source, tmp_path / "other", "--push_to_hub", "--repo_id", "lab/other"]
    result = start_script(server, *arguments, cwd=tmp_path, script="convert_checkpoint.py", token="hf_read").finish()
    assert result.returncode == 2 and "status 403" in result.stderr


LOAD = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
repo_id, output = sys.argv[1:]
settings = {"revision": "v1.0", "trust_remote_code": True}
model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, **settings)
image_processor = AutoImageProcessor.from_pretrained(repo_id, **settings)
segmenter = pipeline("image-segmentation", model=repo_id, **settings)
assert type(model).__module__.startswith("transformers_modules"), type(model)
images = torch.arange(3 * 40 * 60, dtype=torch.uint8).view(3, 40, 60)
with torch.no_grad():
    outputs = model(**image_processor(images, return_tensors="pt"))
torch.save({"logits": outputs.logits, "backends": image_processor.to_dict()["auto_map"]}, output)
"""


@pytest.mark.slow
def test_pushed_repository_loads_without_the_package(push_here, server, work_dir, tmp_path):
    push_here(ROWS[:1])
    repo_id = REPOS[0]
    environment = client_environment(server.endpoint, None, tmp_path / "hf_home")
    run_python(LOAD, repo_id, tmp_path / "online.pt", cwd=tmp_path, with_package=False, environment=environment)
    assert server.count(f"GET /{repo_id}/resolve/.*/model.safetensors") == 1
    # Then from the cache, with no Hub to ask.
    number = len(server.requests)
    environment |= {"HF_HUB_OFFLINE": "1"}
    run_python(LOAD, repo_id, tmp_path / "offline.pt", cwd=tmp_path, with_package=False, environment=environment)
    assert len(server.requests) == number
    online, offline = (torch.load(tmp_path / f"{name}.pt") for name in ("online", "offline"))
    assert torch.equal(online["logits"], offline["logits"])
    assert online["backends"]["AutoImageProcessor"].keys() == {"torchvision", "pil"}

    # The values of the installed package.
    model = AutoModelForSemanticSegmentation.from_pretrained(work_dir / repo_id)
    image_processor = AutoImageProcessor.from_pretrained(work_dir / repo_id)
    images = torch.arange(3 * 40 * 60, dtype=torch.uint8).view(3, 40, 60)
    with torch.no_grad():
        logits = model(**image_processor(images, return_tensors="pt")).logits
    torch.testing.assert_close(online["logits"], logits, atol=1e-6, rtol=0)


KILLS = [
    ("POST /api/repos/create", "effect"),
    ("POST .*/info/lfs/objects/batch", "effect"),
    ("PUT ", "headers"),
    ("PUT ", "effect"),
    ("POST .*/commit/main", "body"),
    ("POST .*/commit/main", "effect"),
    ("POST .*/tag/", "body"),
    ("POST /api/collections$", "effect"),
    ("POST /api/collections/.*/items", "body"),
]


def kill_at(hold, server, arguments, cwd):
    process = start_script(server, *arguments, cwd=cwd)
    hold.wait()
    assert process.kill() == -9
    # What had no effect yet has none later; what had, had it.
    hold.drop()


@pytest.mark.parametrize(("match", "stage"), KILLS)
def test_killed_push_continues(match, stage, server, work_dir, downloads, tmp_path, expected_state):
    arguments = ["--org", "lab", "--only", *NAMES, "--work_dir", work_dir, "--cache_dir", downloads]
    kill_at(server.hold(match, stage=stage), server, arguments, tmp_path)
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.returncode == 0, result.stderr
    assert state(server) == expected_state
    # What the Hub has is not uploaded again, weights of the killed upload included.
    assert set(server.uploads.values()) == {
        len(repository["main"]["model.safetensors"]) for repository in expected_state["repositories"].values()
    }


def test_push_that_is_killed_again_and_again(server, downloads, tmp_path, expected_state):
    """At requests drawn by lot, from an empty work folder on. A push that has nothing to do any more makes 16."""
    arguments = ["--org", "lab", "--only", *NAMES, "--work_dir", tmp_path / "work", "--cache_dir", downloads]
    for nth in np.random.default_rng(0).integers(1, 16, size=12):
        kill_at(server.hold(".*", nth=int(nth), stage="effect"), server, arguments, tmp_path)
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.returncode == 0, result.stderr
    assert state(server) == expected_state
    number = len(server.requests)
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.stdout.count(": unchanged\n") == 3
    assert all(request.method in ("GET", "HEAD") for request in server.requests[number:])
