"""The Hub of the tests answers the real client as the Hub does. How it fails is seen where pushes go on."""

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, RepoFile
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.hub_server import client_environment


try:  # The HTTP client of huggingface_hub changed its name.
    import httpx2 as httpx
except ImportError:
    import httpx

# The client itself sends files in a way that its HTTP client warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "tester/tiny"
WEIGHTS = b"0123456789abcdef" * 1000
OID = hashlib.sha256(WEIGHTS).hexdigest()
CARD = b"---\nlicense: mit\n---\n# Tiny\n"
FILES = {"README.md": CARD, "config.json": b"{}", "images/map.png": b"\x89PNG\0\0", "model.safetensors": WEIGHTS}


@pytest.fixture
def repo(api, tmp_path):
    """The repository's id, with a folder in it."""
    for path, content in FILES.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(content)
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "model")
    return REPO


def add(api, path: str, content: bytes = b"text", **settings):
    return api.create_commit(REPO, [CommitOperationAdd(path, content)], commit_message="Add", **settings)


def fails(call, status: int, error: type = HfHubHTTPError) -> str:
    """The message of a call that fails by an answer of this status, as exactly this error."""
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    assert (type(caught.value), caught.value.response.status_code) == (error, status)
    return str(caught.value)


def test_whoami(api):
    answer = api.whoami()
    assert answer["name"] == "tester" and [each["name"] for each in answer["orgs"]] == ["lab"]
    assert answer["auth"]["accessToken"]["role"] == "write"
    assert "Invalid user token" in fails(lambda: api.whoami(token="hf_other"), 401)


@pytest.mark.parametrize(
    ("token", "status", "message"),
    [("hf_other", 401, "Invalid credentials"), (False, 401, "Invalid username"), ("hf_read", 403, "have the rights")],
)
def test_tokens_that_may_not_write(token, status, message, server, api, repo):
    for call in (
        lambda: api.create_repo("tester/other", token=token),
        lambda: add(api, "new.txt", token=token),
        lambda: api.create_tag(repo, tag="v1", token=token),
        lambda: api.create_collection("Models", namespace="tester", token=token),
    ):
        with pytest.raises(HfHubHTTPError, match=message) as error:
            call()
        assert error.value.response.status_code == status
    assert len(server.commits(repo)) == 2 and server.hub.collections == {} and len(server.hub.repositories) == 1


def test_repositories(server, api):
    assert api.create_repo("lab/tiny") == f"{server.endpoint}/lab/tiny"
    assert api.create_repo("nameless").repo_id == "tester/nameless"
    assert '"others"' in fails(lambda: api.create_repo("others/tiny"), 403)
    assert "already created" in fails(lambda: api.create_repo("lab/tiny"), 409)
    assert api.create_repo("lab/tiny", exist_ok=True).repo_id == "lab/tiny"
    assert b"*.safetensors filter=lfs" in server.files("lab/tiny")[".gitattributes"]
    assert not api.repo_exists("tester/none")
    for call in (api.model_info, lambda repo: list(api.list_repo_tree(repo))):
        fails(lambda call=call: call("tester/none"), 404, RepositoryNotFoundError)
    api.create_repo(REPO, private=True)
    assert api.model_info(REPO).private
    fails(lambda: api.model_info(REPO, token=False), 401, RepositoryNotFoundError)


def test_tree(api, repo):
    assert [entry.path for entry in api.list_repo_tree(repo, "images")] == ["images/map.png"]
    names = {"README.md", "config.json", "images", "model.safetensors", ".gitattributes"}
    assert {entry.path for entry in api.list_repo_tree(repo)} == names
    entries = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True)}
    assert set(entries) == names | {"images/map.png"}
    # `git hash-object` says so.
    assert entries["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert (entries["model.safetensors"].size, entries["model.safetensors"].lfs.sha256) == (len(WEIGHTS), OID)
    small = [path for path, entry in entries.items() if isinstance(entry, RepoFile) and entry.lfs is None]
    assert small == [".gitattributes", "README.md", "config.json"]
    fails(lambda: list(api.list_repo_tree(repo, "none")), 404, RemoteEntryNotFoundError)


def test_tags(server, api, repo):
    first, second = (commit.id for commit in server.commits(REPO))
    api.create_tag(repo, tag="v1")
    fails(lambda: api.create_tag(repo, tag="v1"), 409)
    api.create_tag(repo, tag="v1", revision=first, exist_ok=True)
    assert api.model_info(repo, revision="v1").sha == second and not api.revision_exists(repo, "v2")
    fails(lambda: api.create_tag(repo, tag="v2", revision="none"), 404, RevisionNotFoundError)


def test_card_is_validated(server, api, repo):
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        add(api, "README.md", b"---\nlicense: [\n---\n")
    with pytest.warns(UserWarning, match="missing yaml metadata"):
        add(api, "README.md", b"no metadata")
    assert server.files(REPO)["README.md"] == b"no metadata"


def test_large_files_are_uploaded_once(server, api, repo):
    # One is large by its name, the other by its zero bytes.
    image = hashlib.sha256(FILES["images/map.png"]).hexdigest()
    assert server.uploads == {OID: len(WEIGHTS), image: len(FILES["images/map.png"])}
    add(api, "copy.safetensors", WEIGHTS)
    text = b"0" * 10_000_001
    add(api, "long.txt", text)
    add(api, "short.txt", text[2:])
    assert server.uploads.keys() == {OID, image, hashlib.sha256(text).hexdigest()} and server.uploads[OID] == len(
        WEIGHTS
    )
    assert server.files(REPO)["copy.safetensors"] == WEIGHTS
    url = f"{server.endpoint}/lfs-storage/{REPO}/{OID[::-1]}"
    assert httpx.put(url, content=WEIGHTS[:100], trust_env=False).status_code == 400, "another content than was named"


def test_deleted_files_and_parents(server, api, repo):
    parent = server.commits(REPO)[-1].id
    api.delete_file("config.json", repo)
    assert set(server.files(REPO)) == {".gitattributes", *FILES} - {"config.json"}
    assert "A commit has happened since" in fails(lambda: add(api, "b.txt", parent_commit=parent), 412)


def test_downloads(server, api, repo, tmp_path):
    found = api.hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)
    # The cache names the content by its hash, and need not ask again for the content.
    assert os.path.basename(os.path.realpath(found)) == OID
    assert api.hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path) == found
    assert server.count("GET .*/resolve/") == 1
    api.create_tag(repo, tag="v1")
    add(api, "config.json", b'{"new": 1}')
    for revision, config in (("v1", b"{}"), ("main", b'{"new": 1}')):
        local = Path(api.snapshot_download(repo, revision=revision, local_dir=tmp_path / revision))
        assert (local / "config.json").read_bytes() == config
        assert (local / "model.safetensors").read_bytes() == WEIGHTS

    def download(repo, path="none.txt", **settings):
        return lambda: api.hf_hub_download(repo, path, cache_dir=tmp_path, **settings)

    fails(download(repo), 404, RemoteEntryNotFoundError)
    fails(download("tester/none"), 404, RepositoryNotFoundError)
    fails(download("tester/none", token=False), 401, RepositoryNotFoundError)
    fails(download(repo, "README.md", revision="none"), 404, RevisionNotFoundError)


def test_collections(api, repo):
    fails(lambda: api.create_collection("Models", description="x" * 151), 400, BadRequestError)
    collection = api.create_collection("Our models", namespace="lab", description="x" * 150)
    assert collection.slug.startswith("lab/our-models-")
    fails(lambda: api.create_collection("Our models", namespace="lab"), 409)
    assert api.create_collection("Our models", namespace="lab", exists_ok=True).slug == collection.slug
    api.add_collection_item(collection.slug, repo, "model")
    fails(lambda: api.add_collection_item(collection.slug, repo, "model"), 409)
    fails(lambda: api.add_collection_item(collection.slug, "tester/none", "model"), 404)
    again = api.add_collection_item(collection.slug, repo, "model", exists_ok=True)
    assert [item.item_id for item in again.items] == [repo]
    fails(lambda: api.get_collection("tester/none-0"), 404)


def test_environment_is_the_servers_alone(monkeypatch, tmp_path):
    ours = {"HF_TOKEN": "hf_mine", "HF_HUB_CACHE": "/mine", "TRANSFORMERS_OFFLINE": "1", "https_proxy": "http://x"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    environment = client_environment("http://127.0.0.1:1", None, tmp_path)
    assert not set(ours) & set(environment) and environment["PATH"] == os.environ["PATH"]
    assert environment["HF_ENDPOINT"] == "http://127.0.0.1:1" and "HF_HUB_OFFLINE" not in environment
    assert client_environment("http://127.0.0.1:1", "hf_read", tmp_path)["HF_TOKEN"] == "hf_read"
