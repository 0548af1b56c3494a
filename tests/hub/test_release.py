"""
A release ends with the same contents on the Hub whatever happens to it on the way, and uploads nothing twice. The real
client speaks to a server on the loopback interface.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from huggingface_hub import HfApi, ModelCard
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segmenter_hf.hub import repository
from segmenter_hf.hub.client import AccessError, PushError, make_manifest
from segmenter_hf.hub.release import Outcome, push_released
from segmenter_hf.outputs import OutputError
from tests.common import REPOSITORY, ForkedScript, run_python
from tests.conversion.original_checkpoints import make_original_checkpoint
from tests.hub.hub_server import Fault, HubServer, client_environment, prepare_client
from tests.hub.released_checkpoints import MODEL_FILES, NAMES, REPOS, RESULTS_DIR, ROWS


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def release(server, downloads, waits, tmp_path):
    """Releases checkpoints from this process."""

    def run(rows=ROWS, token: str | None = "hf_write", **settings) -> list[Outcome]:
        api = HfApi(endpoint=server.endpoint, token=token)
        settings = {"work_dir": tmp_path / "work", "cache_dir": downloads, **settings}
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
def undisturbed(downloads, tmp_path_factory) -> tuple[dict, Path]:
    """What an undisturbed release ends with, on the Hub and in its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with HubServer(organizations=("lab",)) as server, pytest.MonkeyPatch.context() as monkeypatch:
        prepare_client(monkeypatch)
        api = HfApi(endpoint=server.endpoint, token="hf_write")
        outcomes = list(push_released(ROWS, "lab", RESULTS_DIR, work_dir=folder, cache_dir=downloads, api=api))
        assert [outcome.error for outcome in outcomes] == [None] * 3
        assert sorted(server.uploads.values()) == sorted(
            (folder / repo_id / "model.safetensors").stat().st_size for repo_id in REPOS
        )
        return state(server), folder


def test_contents(undisturbed):
    expected, folder = undisturbed
    assert set(expected["repositories"]) == set(REPOS)
    for row, repo_id in zip(ROWS, REPOS, strict=True):
        repository = expected["repositories"][repo_id]
        assert repository["main"].keys() - {".gitattributes"} == MODEL_FILES
        assert repository["tags"] == {"v1.0": repository["main"]}
        assert repository["titles"] == ["initial commit", "Upload the converted checkpoint (v1.0)"]
        for entry in make_manifest(folder / repo_id):
            assert repository["main"][entry.path] == (folder / repo_id / entry.path).read_bytes()
        card = ModelCard(repository["main"]["README.md"].decode())
        assert card.data.license == row.licence
        assert f'"{repo_id}"' in card.text and 'revision = "v1.0"' in card.text
        assert b"Copyright (c) 2021 Robin Strudel" in repository["main"]["LICENSE"] or row.licence != "mit"
    assert expected["collections"] == [("Segmenter", REPOS[:2]), ("Segmenter encoders", REPOS[2:])]


def test_second_release_changes_nothing(release, server, undisturbed):
    assert all(outcome.files for outcome in release())
    assert state(server) == undisturbed[0]
    commits = [len(repository.commits) for repository in server.hub.repositories.values()]
    assert [(outcome.files, outcome.error) for outcome in release()] == [([], None)] * 3
    assert state(server) == undisturbed[0]
    assert [len(repository.commits) for repository in server.hub.repositories.values()] == commits


def test_release_without_the_downloads_changes_nothing(release, server, undisturbed, tmp_path, monkeypatch):
    release()
    shutil.rmtree(tmp_path / "work")
    nothing = {"cache_dir": tmp_path / "nothing"}
    assert [(outcome.files, outcome.error) for outcome in release(**nothing)] == [([], None)] * 3
    assert state(server) == undisturbed[0] and not (tmp_path / "nothing").exists()
    # What can be made without them must be the same.
    licences = Path(shutil.copytree(repository.LICENCES, tmp_path / "licences"))
    (licences / "mit.txt").write_text("Other terms\n")
    monkeypatch.setattr(repository, "LICENCES", licences)
    assert "has the tag v1.0 already, with other contents: ['LICENSE']" in release(ROWS[:1], **nothing)[0].error


def test_other_weights_are_not_released_under_the_same_tag(release, server, undisturbed, tmp_path):
    release(ROWS[:1])
    make_original_checkpoint(seed=1).write(tmp_path / "other" / ROWS[0].repo_name)
    (outcome,) = release(ROWS[:1], cache_dir=tmp_path / "other")
    assert f"{REPOS[0]} has the tag v1.0 already" in outcome.error and "model.safetensors" in outcome.error
    assert state(server)["repositories"][REPOS[0]] == undisturbed[0]["repositories"][REPOS[0]]


def test_folders_that_cannot_be_written_are_refused_before_anything(downloads, tmp_path):
    (tmp_path / "file").touch()
    settings = {"dry_run": True, "work_dir": tmp_path / "work", "cache_dir": downloads}
    for changes in ({"work_dir": tmp_path / "file" / "x"}, {"cache_dir": tmp_path / "file"}):
        with pytest.raises(OutputError, match="file(/x)? (is a file|cannot be written)"):
            list(push_released(ROWS, "lab", RESULTS_DIR, **(settings | changes)))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("org", "tag", "message"),
    [
        *((org, "v1.0", "is no name of an organisation") for org in ("../../evil", "bad name", "", "lab/x")),
        *(("lab", tag, "cannot be a tag") for tag in ("", "a b", "..", 'x"y', "main", "refs/heads/main")),
    ],
)
def test_names_that_are_none_are_refused(org, tag, message, downloads, tmp_path):
    settings = {"work_dir": tmp_path / "new", "cache_dir": downloads, "dry_run": True}
    with pytest.raises(PushError, match=message):
        list(push_released(ROWS, org, RESULTS_DIR, tag=tag, **settings))
    assert not (tmp_path / "new").exists()


def test_offline(release, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        release()


@pytest.mark.parametrize("match", ["POST /api/collections$", "POST /api/collections/.*/items"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 504, "takes_effect": True}, {"cut_after": 0}])
def test_collections_are_tried_again(match, fault, release, server, undisturbed):
    server.faults.append(Fault(match, **fault))
    (outcome,) = release(ROWS[2:])
    assert outcome.error is None and server.faults[0].times == 0
    assert state(server)["collections"] == undisturbed[0]["collections"][1:]


def test_what_does_not_pass_ends_that_checkpoint_only(release, server, downloads, undisturbed, tmp_path):
    server.faults.append(Fault(f"POST .*{REPOS[1]}/commit", status=503, times=None))
    broken = Path(shutil.copytree(downloads, tmp_path / "broken"))
    os.truncate(broken / ROWS[0].repo_name / "checkpoint.pth", 1000)
    outcomes = release(cache_dir=broken)
    assert "truncated" in outcomes[0].error and f"Uploading {REPOS[1]} failed" in outcomes[1].error
    assert outcomes[2].error is None
    server.faults.clear()
    assert [outcome.error for outcome in release()] == [None] * 3
    # The collections differ, since they came in another order.
    assert state(server)["repositories"] == undisturbed[0]["repositories"]


@pytest.mark.parametrize(
    ("org", "token", "message"), [("others", "hf_write", "no member of others"), ("lab", "hf_read", "may only read")]
)
def test_token_that_may_not_is_refused_at_once(org, token, message, server, waits, downloads, tmp_path):
    api = HfApi(endpoint=server.endpoint, token=token)
    settings = {"work_dir": tmp_path / "work", "cache_dir": downloads, "api": api}
    with pytest.raises(AccessError, match=message):
        list(push_released(ROWS, org, RESULTS_DIR, **settings))
    assert not (tmp_path / "work" / org).exists() and server.hub.repositories == {}


@pytest.mark.parametrize("match", ["POST .*/commit/main", "POST /api/collections/.*/items"])
def test_access_that_is_lost_on_the_way_stops_at_once(match, release, server):
    server.faults.append(Fault(match, status=403, times=None))
    with pytest.raises(AccessError, match="status 403"):
        release()
    assert server.count(match) == 1
    assert len(server.hub.repositories) == 1


def test_two_releases_do_not_share_a_folder(release, tmp_path):
    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / ".lock"):
        with pytest.raises(PushError, match="Another push is at work"):
            release()


# The script, in processes of its own


def test_dry_run_lists_what_would_be_pushed(server, downloads, undisturbed, tmp_path):
    """In a fresh interpreter, as users start it. The others are copies of one that has imported the libraries."""
    arguments = ["--org", "lab", "--only", *NAMES, "--dry_run", "--work_dir", "work", "--cache_dir", downloads]
    result = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "push_all_to_hub.py", *arguments],
        cwd=tmp_path,
        env=client_environment(server.endpoint, None, tmp_path / "hf_home"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for repo_id in REPOS:
        manifest = make_manifest(tmp_path / "work" / repo_id)
        assert manifest == make_manifest(undisturbed[1] / repo_id)
        for entry in manifest:
            assert f"  {entry.sha256}  {entry.size:>13,}  {entry.path}\n" in result.stdout
    assert server.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_secret_that_is_wrong", "status 401"), ("hf_read", "may only read"), (None, "status 401")],
)
def test_refusal_is_one_line_without_the_token(token, message, server, downloads, tmp_path):
    arguments = ["--org", "lab", "--work_dir", "work", "--cache_dir", downloads]
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
    for number_of_files in (len(MODEL_FILES) - 2, 0):
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
def test_pushed_repository_loads_without_the_package(release, server, tmp_path):
    release(ROWS[:1])
    repo_id, folder = REPOS[0], tmp_path / "work" / REPOS[0]
    environment = client_environment(server.endpoint, None, tmp_path / "hf_home")
    run_python(LOAD, repo_id, tmp_path / "online.pt", cwd=tmp_path, with_package=False, environment=environment)
    assert server.count(f"GET /{repo_id}/resolve/.*/model.safetensors") == 1
    # It then loads from the cache, with no Hub to ask.
    number = len(server.requests)
    environment |= {"HF_HUB_OFFLINE": "1"}
    run_python(LOAD, repo_id, tmp_path / "offline.pt", cwd=tmp_path, with_package=False, environment=environment)
    assert len(server.requests) == number
    online, offline = (torch.load(tmp_path / f"{name}.pt") for name in ("online", "offline"))
    assert torch.equal(online["logits"], offline["logits"])
    assert online["backends"]["AutoImageProcessor"].keys() == {"torchvision", "pil"}

    # They are the values of the installed package.
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    image_processor = AutoImageProcessor.from_pretrained(folder)
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
def test_killed_release_continues(match, stage, server, downloads, tmp_path, undisturbed):
    arguments = ["--org", "lab", "--only", NAMES[2], "--work_dir", "work", "--cache_dir", downloads]
    kill_at(server.hold(match, stage=stage), server, arguments, tmp_path)
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.returncode == 0, result.stderr
    repository = undisturbed[0]["repositories"][REPOS[2]]
    assert state(server) == {
        "repositories": {REPOS[2]: repository},
        "collections": undisturbed[0]["collections"][1:],
    }
    # What the Hub has is not uploaded again, weights of the killed upload included.
    assert set(server.uploads.values()) == {len(repository["main"]["model.safetensors"])}


def test_release_that_is_killed_again_and_again(server, downloads, tmp_path, undisturbed):
    """At requests drawn by lot, from an empty work folder on. A release that has nothing to do any more makes 22."""
    arguments = ["--org", "lab", "--only", *NAMES, "--work_dir", "work", "--cache_dir", downloads]
    for nth in np.random.default_rng(0).integers(1, 16, size=8):
        kill_at(server.hold(".*", nth=int(nth), stage="effect"), server, arguments, tmp_path)
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.returncode == 0, result.stderr
    assert state(server) == undisturbed[0]
    result = start_script(server, *arguments, cwd=tmp_path).finish()
    assert result.stdout.count(": unchanged\n") == 3 and state(server) == undisturbed[0]
