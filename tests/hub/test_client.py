"""
A repository ends with the contents of a folder, under a tag that never moves, and what fails is one line. The real
client speaks to a server on the loopback interface.
"""

import hashlib

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from segmenter_hf.hub.client import AccessError, PushError, check_access, format_manifest, make_manifest, push_folder
from tests.hub.hub_server import Fault


REPO = "lab/model"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Model\n",
    "config.json": b"{}",
    # This cannot be compressed, and is longer than any buffer on the way.
    "model.safetensors": b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(50_000)),
}
# The client sends the former once only, and the latter again by itself.
SENT_ONCE = [
    "GET /api/whoami",
    "POST /api/repos/create",
    "GET /api/models/lab/model/revision/v1",
    "GET /api/models/lab/model/revision/main",
    "POST .*/tag/",
]
SENT_AGAIN = ["GET .*/tree/", "POST .*/preupload/", "POST .*/info/lfs/objects/batch", "PUT ", "POST .*/verify"]

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def push(api, folder):
    """Pushes the folder, and returns the names of what was uploaded."""

    def run(tag: str | None = None, **settings) -> list[str]:
        check_access(api, "lab")
        uploaded = push_folder(api, folder, REPO, tag, **settings)
        return [entry.path for entry in uploaded]

    return run


def files(server, revision="main"):
    return {name: content for name, content in server.files(REPO, revision).items() if name != ".gitattributes"}


def test_manifest(folder):
    (folder / "checkpoint-1").mkdir()
    manifest = make_manifest(folder)
    assert [(entry.path, entry.size) for entry in manifest] == [(name, len(each)) for name, each in FILES.items()]
    lines = format_manifest(REPO, manifest).splitlines()
    assert lines[0] == "lab/model: 3 files, 1,600,031 bytes"
    assert lines[2] == f"  {hashlib.sha256(b'{}').hexdigest()}              2  config.json"


@pytest.mark.parametrize("tag", [None, "v1"])
def test_second_push_changes_nothing(tag, push, server):
    assert push(tag) == list(FILES)
    assert files(server) == FILES and (tag is None or files(server, tag) == FILES)
    repository, number = server.hub.repositories[REPO], len(server.requests)
    assert len(repository.commits) == 2 and repository.tags == ({tag: repository.head.id} if tag else {})
    before = dict(repository.tags)
    assert push(tag) == []
    assert len(repository.commits) == 2 and repository.tags == before
    later = {f"{request.method} {request.path}" for request in server.requests[number:]}
    assert {each for each in later if not each.startswith("GET ")} == {"POST /api/repos/create"}


def test_only_what_differs_is_uploaded(push, server, folder):
    push()
    uploads = dict(server.uploads)
    (folder / "config.json").write_text("[]")
    assert push(title="Better") == ["config.json"]
    assert dict(server.uploads) == uploads and files(server)["config.json"] == b"[]"
    assert [commit.title for commit in server.commits(REPO)][2:] == ["Better"]


def test_tag_is_never_moved(push, server, folder, api):
    push("v1")
    repository = server.hub.repositories[REPO]
    tags = dict(repository.tags)
    # What is done on main later concerns nobody who pins the tag.
    api.upload_file(path_or_fileobj=b"[]", path_in_repo="config.json", repo_id=REPO)
    assert push("v1") == [] and files(server)["config.json"] == b"[]"
    (folder / "README.md").write_bytes(FILES["README.md"].replace(b"mit", b"mpl"))
    with pytest.raises(PushError, match=r"has the tag v1 already, with other contents: \['README.md'\].* pass --tag"):
        push("v1")
    assert push("v2") == ["README.md", "config.json"]
    assert repository.tags.keys() == {"v1", "v2"} and repository.tags["v1"] == tags["v1"]


def test_tag_that_comes_in_between_is_left_alone(push, server, api, monkeypatch):
    api.create_repo(REPO)
    create_tag = api.create_tag

    def create_later(*arguments, **settings):
        create_tag(REPO, tag="v1", revision=server.commits(REPO)[0].id)
        create_tag(*arguments, **settings)

    monkeypatch.setattr(api, "create_tag", create_later)
    with pytest.raises(PushError, match="has the tag v1 already, with other contents"):
        push("v1")
    assert server.hub.repositories[REPO].tags == {"v1": server.commits(REPO)[0].id}


def test_files_of_others_are_left_alone(push, server, api, caplog):
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    push()
    assert files(server) == FILES | {"notes.txt": b"mine"} and "notes.txt" in caplog.text


# Failures


@pytest.mark.parametrize("match", SENT_ONCE)
@pytest.mark.parametrize(
    ("fault", "expected_waits"),
    [
        ({"status": 429, "retry_after": 300, "times": 2}, [301, 301]),
        ({"status": 503, "retry_after": 7}, [8]),
        ({"status": 503, "times": 5}, [1, 2, 4, 8, 8]),
        ({"status": 500, "body": b"<html>Oops</html>"}, [1]),
        ({"status": 504, "takes_effect": True}, [1]),
        ({"cut_after": 0}, [1]),
        ({"cut_request_after": 0}, [1]),
    ],
)
def test_what_the_client_sends_once_is_sent_again(match, fault, expected_waits, push, server, waits):
    server.faults.append(Fault(match, **fault))
    push("v1")
    assert files(server, "v1") == FILES and len(server.commits(REPO)) == 2
    assert waits == expected_waits and server.faults[0].times == 0


@pytest.mark.parametrize("match", SENT_AGAIN)
@pytest.mark.parametrize("fault", [*({"status": each} for each in (408, 429, 500, 502, 503, 504)), {"cut_after": 0}])
def test_what_the_client_sends_again_itself(match, fault, push, server, waits):
    if match == "PUT " and "cut_after" in fault:
        fault = {"cut_request_after": 100_000}
    server.faults.append(Fault(match, **fault))
    push("v1")
    assert files(server, "v1") == FILES and waits == [1] and server.faults[0].times == 0


@pytest.mark.parametrize("fault", [{"status": 503, "times": 2}, {"status": 429, "retry_after": 300}, {"cut_after": 0}])
def test_the_client_sends_commits_again_with_xet(fault, push, server, folder, waits, monkeypatch):
    """As it is installed along with the client. The server of the tests has no Xet for weights, but none are sent."""
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    server.faults.append(Fault("POST .*/commit/main", **fault))
    push("v1")
    assert files(server, "v1").keys() == {"README.md", "config.json"} and waits and server.faults[0].times == 0


@pytest.mark.parametrize(
    ("match", "action", "number"),
    [
        ("GET /api/whoami", "Logging in", 6),
        ("GET .*/tree/", "Reading lab/model", 6),
        ("POST .*/preupload/", "Uploading lab/model", 6),
        ("PUT ", "Uploading lab/model", 6),
        ("POST .*/commit/main", "Uploading lab/model", 1),
    ],
)
def test_what_does_not_pass_is_one_error_and_a_later_push_goes_on(match, action, number, push, server):
    server.faults.append(Fault(match, status=503, times=None))
    with pytest.raises(PushError, match=f"^{action} failed: .*503[^\n]*$"):
        push("v1")
    assert server.count(match) == number, "nothing is tried again twice over"
    server.faults.clear()
    assert push("v1") == list(FILES) and files(server, "v1") == FILES
    if "/commit/" in match:
        assert server.count("PUT ") == 1, "the weights had been uploaded before the commit failed"


def test_limit_of_a_day_is_not_waited_for(push, server, waits):
    server.faults.append(Fault("POST /api/repos/create", status=429, retry_after=36_000))
    with pytest.raises(PushError, match="Creating lab/model failed: .*Retry after 36000 seconds"):
        push()
    assert waits == []


def test_storage_that_refuses_is_no_matter_of_the_token(push, server):
    server.faults.append(Fault("PUT ", status=403, body=b"<Error>Request has expired</Error>"))
    with pytest.raises(PushError, match="Uploading lab/model failed: .*403") as error:
        push()
    assert not isinstance(error.value, AccessError)
    assert push() == list(FILES)


def test_reason_of_the_hub_is_told(push, server):
    fault = {"status": 400, "body": b'{"error": "The weights are too heavy"}'}
    server.faults.append(Fault("POST .*/commit/main", **fault))
    with pytest.raises(PushError, match="Uploading lab/model failed: .*The weights are too heavy"):
        push()
    server.faults.append(Fault("POST .*/commit/main", **fault | {"status": 403}))
    with pytest.raises(AccessError, match="was refused .status 403.*The Hub says: The weights are too heavy"):
        push()


@pytest.mark.parametrize(
    ("token", "org", "message"),
    [
        ("hf_wrong", "lab", "status 401"),
        (None, "lab", "status 401"),
        ("hf_read", "lab", "may only read"),
        ("hf_write", "others", "no member of others"),
    ],
)
def test_access(token, org, message, server, waits, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert check_access(HfApi(endpoint=server.endpoint, token="hf_write")) == "tester"
    with pytest.raises(AccessError, match=message):
        check_access(HfApi(endpoint=server.endpoint, token=token), org)


def test_private_repository(push, server):
    push(private=True)
    assert server.hub.repositories[REPO].private
