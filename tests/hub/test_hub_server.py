"""The Hub of the tests answers the real client as the Hub does, and fails as the real client sees failures."""

import hashlib
import json
import os
import re
import signal

import huggingface_hub
import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessorPil
from tests.common import random_pixel_values, run_python, tiny_config
from tests.hub.hub_server import Fault, HubServer, client_environment, prepare_client, start_client


try:  # The HTTP client of huggingface_hub, which changed its name.
    import httpx2 as httpx
except ImportError:
    import httpx

# The client's own way to send a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "tester/tiny"
CARD = b"---\nlicense: mit\n---\n# Tiny\n"
# Not compressible, and longer than any buffer on the way.
WEIGHTS = b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(100_000))
OID = hashlib.sha256(WEIGHTS).hexdigest()
FILES = {"README.md": CARD, "config.json": b"{}", "images/map.png": b"\x89PNG\0\0", "model.safetensors": WEIGHTS}


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    return prepare_client(monkeypatch)


@pytest.fixture
def server():
    with HubServer(organizations=("team",)) as server:
        yield server


@pytest.fixture
def api(server) -> HfApi:
    return HfApi(endpoint=server.endpoint, token="hf_write")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture
def repo(api, folder):
    """The repository's id, with the folder in it."""
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder)
    return REPO


def add(path: str, content: bytes = b"text") -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path, content)]


def titles(server) -> list[str]:
    return [commit.title for commit in server.commits(REPO)]


def fails(call, status: int, error: type = HfHubHTTPError) -> str:
    """The message of a call that fails by an answer of this status, as exactly this error."""
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    assert (type(caught.value), caught.value.response.status_code) == (error, status)
    return str(caught.value)


class TestAccess:
    def test_whoami(self, api):
        answer = api.whoami()
        assert answer["name"] == "tester" and [each["name"] for each in answer["orgs"]] == ["team"]
        assert answer["auth"]["accessToken"]["role"] == "write"
        assert api.whoami(token="hf_read")["auth"]["accessToken"]["role"] == "read"

    def test_unknown_token(self, api, repo):
        assert "Invalid user token" in fails(lambda: api.whoami(token="hf_other"), 401)
        for call in (
            api.model_info,
            api.list_repo_refs,
            lambda repo, token: api.create_tag(repo, tag="v", token=token),
        ):
            assert "Invalid credentials" in fails(lambda call=call: call(repo, token="hf_other"), 401)

    def test_without_token(self, api, repo):
        assert api.model_info(repo, token=False).id == repo
        fails(lambda: api.create_repo("tester/other", token=False), 401)
        fails(lambda: api.create_tag(repo, tag="v1", token=False), 401, RepositoryNotFoundError)
        fails(lambda: api.create_collection("Models", namespace="tester", token=False), 401)

    def test_reading_token(self, server, api, repo):
        before = titles(server)
        for call in (
            lambda: api.create_repo("tester/other", token="hf_read"),
            lambda: api.create_commit(repo, add("new.txt"), commit_message="Add", token="hf_read"),
            lambda: api.create_tag(repo, tag="v1", token="hf_read"),
            lambda: api.create_collection("Models", namespace="tester", token="hf_read"),
        ):
            assert "You don't have the rights" in fails(call, 403)
        assert titles(server) == before and server.count("commit/") == 1

    def test_namespaces(self, server, api):
        assert api.create_repo("team/tiny") == f"{server.endpoint}/team/tiny"
        assert api.create_repo("nameless").repo_id == "tester/nameless"
        assert '"others"' in fails(lambda: api.create_repo("others/tiny"), 403)

    def test_private_repository(self, api):
        api.create_repo(REPO, private=True)
        assert api.model_info(REPO).private
        fails(lambda: api.model_info(REPO, token=False), 401, RepositoryNotFoundError)


class TestRepository:
    def test_create(self, server, api):
        assert api.create_repo(REPO).repo_id == REPO
        assert titles(server) == ["initial commit"]
        assert b"*.safetensors filter=lfs" in server.files(REPO)[".gitattributes"]
        assert "already created" in fails(lambda: api.create_repo(REPO), 409)
        assert api.create_repo(REPO, exist_ok=True).repo_id == REPO

    def test_missing(self, api):
        for call in (api.model_info, api.list_repo_refs, lambda repo: list(api.list_repo_tree(repo))):
            fails(lambda call=call: call("tester/none"), 404, RepositoryNotFoundError)
        assert not api.repo_exists("tester/none")

    def test_info(self, server, api, repo):
        info = api.model_info(repo, files_metadata=True)
        assert (info.id, info.author, info.sha) == (repo, "tester", server.commits(REPO)[-1].id)
        weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
        assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), OID)
        assert {file.rfilename for file in info.siblings} == {".gitattributes", *FILES}
        assert api.model_info(repo, revision=server.commits(REPO)[0].id).siblings[0].rfilename == ".gitattributes"
        fails(lambda: api.model_info(repo, revision="none"), 404, RevisionNotFoundError)

    def test_tree(self, server, api, repo):
        assert [entry.path for entry in api.list_repo_tree(repo, "images")] == ["images/map.png"]
        assert sorted(entry.path for entry in api.list_repo_tree(repo)) == sorted(
            [".gitattributes", "README.md", "config.json", "images", "model.safetensors"]
        )
        entries = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True, expand=True)}
        assert set(entries) == {".gitattributes", "images", *FILES}
        # As `git hash-object` says.
        assert entries["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
        assert entries["model.safetensors"].lfs.sha256 == OID
        assert [path for path, entry in entries.items() if isinstance(entry, RepoFile) and entry.lfs is None] == [
            ".gitattributes",
            "README.md",
            "config.json",
        ]
        commits = [commit.id for commit in server.commits(REPO)]
        assert [entries[path].last_commit.oid for path in (".gitattributes", "images")] == commits
        fails(lambda: list(api.list_repo_tree(repo, "none")), 404, RemoteEntryNotFoundError)

    def test_paths_info(self, api, repo):
        found = api.get_paths_info(repo, ["config.json", "images", "none"], expand=True)
        assert [each.path for each in found] == ["config.json", "images"]
        assert found[0].last_commit.title == "Upload folder using huggingface_hub"

    def test_tags(self, server, api, repo):
        first, second = (commit.id for commit in server.commits(REPO))
        api.create_tag(repo, tag="v1")
        api.create_tag(repo, tag="v0", revision=first[:7])
        refs = api.list_repo_refs(repo)
        assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": second, "v0": first}
        assert [branch.ref for branch in refs.branches] == ["refs/heads/main"]
        fails(lambda: api.create_tag(repo, tag="v1"), 409)
        api.create_tag(repo, tag="v1", revision=first, exist_ok=True)
        assert api.model_info(repo, revision="v1").sha == second
        api.delete_tag(repo, tag="v1")
        fails(lambda: api.delete_tag(repo, tag="v1"), 404, RevisionNotFoundError)
        fails(lambda: api.create_tag(repo, tag="v2", revision="none"), 404, RevisionNotFoundError)

    def test_card_is_validated(self, server, api, folder, repo):
        (folder / "README.md").write_text("---\nlicense: [\n---\n")
        with pytest.raises(ValueError, match="Invalid metadata in README.md"):
            api.upload_folder(repo_id=repo, folder_path=folder)
        (folder / "README.md").write_text("no metadata")
        with pytest.warns(UserWarning, match="missing yaml metadata"):
            api.upload_folder(repo_id=repo, folder_path=folder)
        assert server.files(REPO)["README.md"] == b"no metadata"


class TestUpload:
    def test_folder(self, server, repo):
        attributes = server.files(REPO).pop(".gitattributes")
        assert server.files(REPO) == {**FILES, ".gitattributes": attributes}
        # By its name, and by its zero bytes.
        image = hashlib.sha256(FILES["images/map.png"]).hexdigest()
        assert server.uploads == {OID: len(WEIGHTS), image: len(FILES["images/map.png"])}
        assert server.count("xet") == 0

    def test_large_text(self, server, api, repo):
        text = b"0" * 10_000_001
        api.create_commit(repo, add("long.txt", text) + add("short.txt", text[2:]), commit_message="Add")
        assert server.uploads[hashlib.sha256(text).hexdigest()] == len(text)
        assert len(server.uploads) == 3

    def test_unchanged_folder_makes_no_commit(self, server, api, folder, repo):
        uploads, commits = dict(server.uploads), titles(server)
        again = api.upload_folder(repo_id=repo, folder_path=folder)
        assert again.oid == server.commits(REPO)[-1].id
        assert server.uploads == uploads and titles(server) == commits and server.count("commit/") == 1

    def test_only_changed_files_are_sent(self, server, api, folder, repo):
        (folder / "config.json").write_text('{"new": 1}')
        uploads, size = dict(server.uploads), server.requests[-1].body_size
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Change")
        assert server.uploads == uploads and titles(server)[-1] == "Change"
        request = next(each for each in reversed(server.requests) if "/commit/" in each.path)
        assert 0 < request.body_size < size and server.files(REPO)["config.json"] == b'{"new": 1}'

    def test_known_content_is_not_uploaded_again(self, server, api, repo):
        api.create_commit(repo, add("copy.safetensors", WEIGHTS), commit_message="Copy")
        assert server.files(REPO)["copy.safetensors"] == WEIGHTS
        assert server.count("PUT .*" + OID) == 1

    def test_delete(self, server, api, repo):
        # A folder is no file.
        fails(lambda: api.delete_file("images", repo), 404, RemoteEntryNotFoundError)
        operations = [CommitOperationDelete("images/"), CommitOperationDelete("config.json")]
        api.create_commit(repo, operations, commit_message="Delete", commit_description="Both")
        assert set(server.files(REPO)) == {".gitattributes", "README.md", "model.safetensors"}
        newest = api.list_repo_commits(repo)[0]
        assert (newest.title, newest.message, newest.authors) == ("Delete", "Both", ["tester"])

    def test_parent_commit(self, server, api, repo):
        parent = server.commits(REPO)[-1].id
        api.create_commit(repo, add("a.txt"), commit_message="First", parent_commit=parent)
        second = {"commit_message": "Second", "parent_commit": parent[:7]}
        assert "A commit has happened since" in fails(lambda: api.create_commit(repo, add("b.txt"), **second), 412)
        assert titles(server)[-1] == "First" and "b.txt" not in server.files(REPO)

    def test_only_branches_take_commits(self, api, repo):
        api.create_tag(repo, tag="v1")
        for revision in ("none", "v1"):
            settings = {"commit_message": "Add", "revision": revision}
            call = lambda settings=settings: api.create_commit(repo, add("a.txt"), **settings)  # noqa: E731
            fails(call, 404, RevisionNotFoundError)

    def test_pointer_without_content(self, server, api, repo):
        server.hub.repositories[REPO].lfs.clear()
        lost = CommitOperationAdd("lost.bin", WEIGHTS)
        lost._upload_mode, lost._is_uploaded, lost._should_ignore = "lfs", True, False
        fails(lambda: api.create_commit(repo, [lost], commit_message="Lost"), 400, BadRequestError)

    def test_corrupted_content(self, server, repo):
        url = f"{server.endpoint}/lfs-storage/{REPO}/{OID[::-1]}"
        assert httpx.put(url, content=WEIGHTS[:100], trust_env=False).status_code == 400
        assert OID[::-1] not in server.hub.repositories[REPO].lfs


class TestDownload:
    def test_file(self, server, api, repo, tmp_path):
        for path in ("model.safetensors", "images/map.png"):
            found = api.hf_hub_download(repo, path, cache_dir=tmp_path)
            with open(found, "rb") as file:
                assert file.read() == FILES[path]
            # The cache names the content by its hash, and need not ask again for the content.
            assert os.path.basename(os.path.realpath(found)) == hashlib.sha256(FILES[path]).hexdigest()
            assert api.hf_hub_download(repo, path, cache_dir=tmp_path) == found
        assert server.count("GET .*/resolve/") == 2

    def test_missing(self, api, repo, tmp_path):
        def download(repo, path="none.txt", **settings):
            return lambda: api.hf_hub_download(repo, path, cache_dir=tmp_path, **settings)

        fails(download(repo), 404, RemoteEntryNotFoundError)
        fails(download("tester/none"), 404, RepositoryNotFoundError)
        fails(download("tester/none", token=False), 401, RepositoryNotFoundError)
        fails(download(repo, "README.md", revision="none"), 404, RevisionNotFoundError)
        assert not api.file_exists(repo, "none.txt") and api.file_exists(repo, "README.md")

    def test_snapshot_of_a_tag(self, api, repo, tmp_path):
        api.create_tag(repo, tag="v1")
        api.create_commit(repo, add("config.json", b'{"new": 1}'), commit_message="Change")
        for revision, config in (("v1", b"{}"), ("main", b'{"new": 1}')):
            local = tmp_path / revision
            api.snapshot_download(repo, revision=revision, local_dir=local)
            assert (local / "config.json").read_bytes() == config
            assert (local / "model.safetensors").read_bytes() == WEIGHTS

    def test_part(self, server, repo):
        url = f"{server.endpoint}/{REPO}/resolve/main/model.safetensors"
        for part, content in {"5-": WEIGHTS[5:], "5-9": WEIGHTS[5:10]}.items():
            answer = httpx.get(url, headers={"Range": f"bytes={part}"}, trust_env=False)
            assert (answer.status_code, answer.content) == (206, content)
        assert httpx.get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"}, trust_env=False).status_code == 416


class TestCollections:
    def test_create_and_fill(self, api, repo):
        collection = api.create_collection("Our models", namespace="team", description="Old")
        assert collection.slug.startswith("team/our-models-")
        assert "exists" in fails(lambda: api.create_collection("Our models", namespace="team"), 409)
        assert api.create_collection("Our models", namespace="team", exists_ok=True).slug == collection.slug
        assert api.update_collection_metadata(collection.slug, description="New").description == "New"

        api.add_collection_item(collection.slug, repo, "model", note="First")
        fails(lambda: api.add_collection_item(collection.slug, repo, "model"), 409)
        fails(lambda: api.add_collection_item(collection.slug, "tester/none", "model"), 404)
        api.create_repo("team/other")
        api.add_collection_item(collection.slug, "team/other", "model")
        same = api.add_collection_item(collection.slug, repo, "model", exists_ok=True)
        assert [(item.item_id, item.note) for item in same.items] == [(repo, "First"), ("team/other", None)]

        api.update_collection_item(collection.slug, same.items[1].item_object_id, position=0, note="Second")
        items = api.get_collection(collection.slug).items
        assert [(item.item_id, item.note) for item in items] == [("team/other", "Second"), (repo, "First")]
        assert [each.slug for each in api.list_collections(owner="team")] == [collection.slug]
        assert list(api.list_collections(owner="tester")) == []

    def test_limits(self, api, repo):
        fails(lambda: api.create_collection("Models", description="x" * 151), 400, BadRequestError)
        slug = api.create_collection("Models", description="x" * 150).slug
        fails(lambda: api.add_collection_item(slug, repo, "model", note="x" * 501), 400, BadRequestError)
        assert api.get_collection(slug).items == []
        fails(lambda: api.get_collection("tester/none-0"), 404)


UNAVAILABLE = {"status": 503}
UNAVAILABLE_FOR_LONG = {"status": 503, "retry_after": 20}
LIMITED = {"status": 429, "retry_after": 7}
CUT_ANSWER = {"cut_after": 1}
CUT_REQUEST = {"cut_request_after": 10}


class TestFaults:
    @pytest.mark.parametrize(
        "fault, wait", [(UNAVAILABLE, 1), (UNAVAILABLE_FOR_LONG, 21), (LIMITED, 8), (CUT_ANSWER, 1), (CUT_REQUEST, 1)]
    )
    @pytest.mark.parametrize("match", ["/preupload/", "objects/batch", "objects/verify"])
    def test_what_the_client_tries_again(self, server, api, folder, waits, match, fault, wait):
        api.create_repo(REPO)
        server.faults.append(Fault(match, **fault))
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert waits == [wait] and server.count("PUT .*" + OID) == 1
        assert server.files(REPO)["model.safetensors"] == WEIGHTS

    def test_it_gives_up(self, server, api, repo, waits):
        server.faults.append(Fault("/tree/", status=503, times=None))
        fails(lambda: list(api.list_repo_tree(repo)), 503)
        assert waits == [1, 2, 4, 8, 8] and server.count("/tree/") == 6

    @pytest.mark.parametrize(
        "match, call",
        [
            ("whoami", lambda api: api.whoami()),
            ("repos/create", lambda api: api.create_repo("tester/other", exist_ok=True)),
            ("/commit/", lambda api: api.create_commit(REPO, add("a.txt"), commit_message="Add")),
            ("/tag/", lambda api: api.create_tag(REPO, tag="v1", exist_ok=True)),
            ("/refs", lambda api: api.list_repo_refs(REPO)),
            ("GET /api/models/tester/tiny", lambda api: api.model_info(REPO)),
            ("POST /api/collections", lambda api: api.create_collection("Us", namespace="team", exists_ok=True)),
        ],
    )
    def test_what_it_does_not(self, server, api, waits, match, call):
        api.create_repo(REPO)
        before = server.count(match)
        server.faults += [Fault(match, **UNAVAILABLE), Fault(match, **LIMITED), Fault(match, status=403)]
        for status in (503, 429, 403):
            fails(lambda: call(api), status)
        server.faults.append(Fault(match, **CUT_ANSWER))
        with pytest.raises(httpx.RemoteProtocolError):
            call(api)
        assert server.count(match) == before + 4 and waits == []
        call(api)

    def test_limit_is_named(self, server, api, repo):
        server.faults.append(Fault("/refs", **LIMITED))
        assert "Retry after 7 seconds" in fails(lambda: api.list_repo_refs(repo), 429)

    def test_answer_of_a_gateway(self, server, api, folder, repo):
        page = Fault("validate-yaml", status=503, body=b"<html>")
        server.faults.append(page)
        with pytest.raises(json.JSONDecodeError):
            api.upload_folder(repo_id=repo, folder_path=folder)

    def test_faults_in_their_order(self, server, api, repo):
        server.faults += [Fault("/refs", status=500, times=2), Fault(lambda method, path: method == "GET", status=403)]
        for status in (500, 500, 403):
            fails(lambda: api.list_repo_refs(repo), status)
        assert api.list_repo_refs(repo).tags == []
        assert [each.status for each in server.requests[-4:]] == [500, 500, 403, 200]

    def test_delay(self, server, api, repo):
        server.faults.append(Fault("/revision/|/tiny$", delay_seconds=30))
        with pytest.raises(httpx.ReadTimeout):
            api.model_info(repo, timeout=0.1)

    def test_upload_that_breaks(self, server, api, folder, waits):
        api.create_repo(REPO)
        server.faults += [Fault("PUT .*" + OID, cut_request_after=size) for size in (1_000_000, 0)]
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert waits == [1, 2] and server.uploads[OID] == 1_000_000 + len(WEIGHTS)
        assert server.files(REPO)["model.safetensors"] == WEIGHTS

    def test_upload_that_is_refused(self, server, api, folder, waits):
        api.create_repo(REPO)
        server.faults.append(Fault("PUT .*" + OID, status=403))
        # Not an error of the Hub for whoever calls, but by its cause.
        with pytest.raises(RuntimeError, match="model.safetensors") as caught:
            api.upload_folder(repo_id=REPO, folder_path=folder)
        assert caught.value.__cause__.response.status_code == 403
        assert waits == [] and titles(server) == ["initial commit"]

    @pytest.mark.parametrize("fault", [{"status": 504, "takes_effect": True}, CUT_ANSWER])
    def test_commit_whose_answer_is_lost(self, server, api, folder, fault):
        api.create_repo(REPO)
        server.faults.append(Fault("/commit/", **fault))
        with pytest.raises((HfHubHTTPError, httpx.RemoteProtocolError)):
            api.upload_folder(repo_id=REPO, folder_path=folder)
        assert len(titles(server)) == 2
        commit = api.upload_folder(repo_id=REPO, folder_path=folder)
        assert commit.oid == server.commits(REPO)[-1].id and len(titles(server)) == 2
        assert server.uploads[OID] == len(WEIGHTS)

    @pytest.mark.parametrize("fault", [UNAVAILABLE, CUT_REQUEST])
    def test_commit_that_did_not_come(self, server, api, folder, fault):
        api.create_repo(REPO)
        server.faults.append(Fault("/commit/", **fault))
        with pytest.raises((HfHubHTTPError, httpx.TransportError)):
            api.upload_folder(repo_id=REPO, folder_path=folder)
        assert titles(server) == ["initial commit"]
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert len(titles(server)) == 2 and server.uploads[OID] == len(WEIGHTS)

    def test_download_that_is_cut(self, server, api, repo, tmp_path, waits, monkeypatch):
        # What it has of the last such piece, 10 MB by default, is lost to it.
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10)
        server.faults += [Fault("GET .*safetensors", cut_after=size) for size in (100_000, 0, 10)]
        path = api.hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)
        with open(path, "rb") as file:
            assert file.read() == WEIGHTS
        ranges = [each.headers.get("range") for each in server.requests if each.method == "GET"]
        assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=100010-"] and waits == [1, 1, 1]

    def test_restart(self, api, server, repo, tmp_path):
        server.__exit__()
        with pytest.raises(httpx.ConnectError):
            api.model_info(repo)
        with pytest.raises(LocalEntryNotFoundError):
            api.snapshot_download(repo, cache_dir=tmp_path)
        with HubServer(hub=server.hub, port=server.server_port) as restarted:
            assert restarted.endpoint == server.endpoint
            assert api.model_info(repo).sha == restarted.commits(REPO)[-1].id


PUSH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""


class TestKilledClient:
    @pytest.mark.parametrize(
        "match, stage",
        [("PUT .*" + OID, "headers"), ("/commit/", "body"), ("PUT .*" + OID, "effect"), ("/commit/", "effect")],
    )
    def test_second_run_finishes(self, server, folder, tmp_path, match, stage):
        hold = server.hold(match, stage=stage)
        process = start_client(server, PUSH, REPO, folder, cwd=tmp_path)
        hold.wait()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hold.drop()
        assert len(titles(server)) == (2 if (match, stage) == ("/commit/", "effect") else 1)

        process = start_client(server, PUSH, REPO, folder, cwd=tmp_path)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors
        assert server.uploads[OID] == len(WEIGHTS) and len(titles(server)) == 2
        assert next(each for each in server.requests if re.search(match, f"{each.method} {each.path}")).status is None
        assert server.files(REPO)["model.safetensors"] == WEIGHTS

    def test_released_request_goes_on(self, server, api, folder, tmp_path):
        api.create_repo(REPO)
        hold = server.hold("/commit/")
        process = start_client(server, PUSH, REPO, folder, cwd=tmp_path)
        hold.wait()
        assert titles(server) == ["initial commit"]
        hold.release()
        assert process.wait(60) == 0 and len(titles(server)) == 2

    def test_nth_request(self, server, api, folder, tmp_path):
        hold = server.hold("/api/models/.*/commit/", nth=2, stage="headers")
        process = start_client(server, PUSH, REPO, folder, cwd=tmp_path)
        assert process.wait(60) == 0 and not hold.reached.is_set()
        (folder / "config.json").write_text("[]")
        process = start_client(server, PUSH, REPO, folder, cwd=tmp_path)
        hold.wait()
        process.kill()
        process.communicate()

    def test_stage_must_be_known(self, server):
        with pytest.raises(ValueError, match="'end'"):
            server.hold("/commit/", stage="end")


def test_environment_is_the_servers_alone(monkeypatch, tmp_path):
    ours = {"HF_TOKEN": "hf_mine", "HF_HUB_CACHE": "/mine", "TRANSFORMERS_OFFLINE": "1", "https_proxy": "http://x"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    environment = client_environment("http://127.0.0.1:1", None, tmp_path)
    assert not set(ours) & set(environment) and environment["PATH"] == os.environ["PATH"]
    assert environment["HF_ENDPOINT"] == "http://127.0.0.1:1" and "HF_HUB_OFFLINE" not in environment
    assert client_environment("http://127.0.0.1:1", "hf_read", tmp_path)["HF_TOKEN"] == "hf_read"


LOAD = """
import json, sys
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, pipeline

repo_id, inputs, outputs = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(torch.load(inputs)).logits, outputs)
segmenter = pipeline("image-segmentation", model=repo_id, trust_remote_code=True)
print(json.dumps({
    "class": type(model).__module__ + "." + type(model).__name__,
    "masks": [segment["mask"].size for segment in segmenter(Image.new("RGB", (40, 30), (9, 99, 199)))],
    "package": "segmenter_hf" in sys.modules,
}))
"""


def test_transformers_load_what_was_pushed(server, api, tmp_path):
    torch.manual_seed(0)
    model = SegmenterForSemanticSegmentation(tiny_config()).eval()
    model.save_pretrained(tmp_path / "model")
    SegmenterImageProcessorPil(size={"height": 32, "width": 32}, patch_size=8).save_pretrained(tmp_path / "model")
    api.create_repo(REPO, private=True)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "model")
    pixel_values = random_pixel_values()
    torch.save(pixel_values, tmp_path / "inputs.pt")

    environment = client_environment(server.endpoint, "hf_read", tmp_path / "hf_home")
    inputs, outputs = tmp_path / "inputs.pt", tmp_path / "outputs.pt"
    settings = {"cwd": tmp_path, "with_package": False, "environment": environment}
    result = json.loads(run_python(LOAD, REPO, inputs, outputs, **settings).stdout)
    assert result["class"].startswith("transformers_modules.") and not result["package"]
    assert result["masks"] and all(size == [40, 30] for size in result["masks"])
    with torch.no_grad():
        torch.testing.assert_close(torch.load(outputs), model(pixel_values).logits)
    assert server.count("GET .*/resolve/.*/model.safetensors") == 1
    assert 501 not in {each.status for each in server.requests}


def test_without_the_variable_the_client_wants_xet(server, api, folder, monkeypatch):
    api.create_repo(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(ConnectionError):
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert server.count("xet-write-token") == 1 and server.uploads == {} and titles(server) == ["initial commit"]
