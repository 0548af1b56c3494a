"""
A Hugging Face Hub on the loopback interface: it speaks what the real client calls, and fails as it is told to.

Requests and answers are those of `huggingface_hub` 2.4.0, for repositories of models. Large files travel by the basic
LFS protocol. There is no Xet: for uploads 2.4.0 does not ask the Hub but looks whether `hf_xet` is installed, so that
clients need `HF_HUB_DISABLE_XET=1` (`client_environment` and `prepare_client` see to it); for downloads the Hub offers
Xet by headers that this one never sends. Neither are there multipart uploads, pull requests nor pages of lists.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import yaml


# Files of the other kinds are large by their size, or by a zero byte among their first.
LFS_PATTERNS = (
    "7z arrow bin bz2 ckpt gz h5 joblib msgpack npy npz onnx parquet pb pickle pkl pt pth safetensors tar zip"
)
GIT_ATTRIBUTES = "".join(f"*.{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS.split())
LFS_SIZE = 10_000_000
DATE = "2024-01-01T00:00:00.000Z"

REPOSITORY = r"(?P<repo_id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
SLUG = r"(?P<slug>[^/]+/[^/]+)"


@dataclass
class Fault:
    """
    What goes wrong with the next requests that match.

    Args:
        match (`str`): A regular expression that is searched in `"METHOD /path?query"`.
        status (`int`, *optional*): Answer this in place of handling the request.
        retry_after (`int`, *optional*): Seconds that this answer asks the client to wait, in `Retry-After`, and with
            429 also as the Hub does, in `RateLimit`.
        body (`bytes`, *optional*): The answer's body; `{"error": "injected"}` by default.
        takes_effect (`bool`): Handle the request before the status is answered, as behind a gateway that gave up.
        cut_after (`int`, *optional*): Handle it, but close the connection after so many bytes of the answer's body.
            The answer to the upload of an LFS object has none: `HubServer.hold` at `"effect"` loses that one.
        cut_request_after (`int`, *optional*): Close it after so many bytes of the request's body, and handle nothing.
        times (`int`, *optional*): For how many requests; `None` for all.
    """

    match: str
    status: int | None = None
    retry_after: int | None = None
    body: bytes = b'{"error": "injected"}'
    takes_effect: bool = False
    cut_after: int | None = None
    cut_request_after: int | None = None
    times: int | None = 1

    @property
    def answer(self) -> "Answer":
        headers = {"Content-Type": "application/json" if self.body.startswith(b"{") else "text/html"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
            headers |= {"RateLimit": f'"api";r=0;t={self.retry_after}'} if self.status == 429 else {}
        return Answer(self.body, self.status, headers)


class Hold:
    """
    A point at which one request stands still; made by `HubServer.hold`. When the client was killed there, `drop` makes
    the server forget the request.
    """

    def __init__(self, match: str, nth: int, stage: str):
        self.match, self.countdown, self.stage = match, nth, stage
        self.reached, self.dropped = threading.Event(), threading.Event()

    def wait(self, timeout_seconds: float = 60):
        """Returns when the request has come to the point."""
        assert self.reached.wait(timeout_seconds), f"no request came to {self.match!r}"

    def drop(self):
        self.dropped.set()


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server's log keeps it, with path and query as they were sent."""

    method: str
    path: str

    def matches(self, match: str) -> bool:
        return re.search(match, f"{self.method} {self.path}") is not None


class HubError(Exception):
    """An answer other than 200, with what the client reads in it."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **fields):
        super().__init__(message)
        headers = {**(headers or {}), "X-Error-Message": message.encode("ascii", "replace").decode()}
        headers |= {"X-Error-Code": code} if code else {}
        self.answer = Answer({"error": message, **fields}, status, headers)


@dataclass
class Answer:
    """Status, headers and body; a body other than bytes is sent as JSON."""

    body: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.body, bytes):
            self.body = json.dumps(self.body).encode()
            self.headers = {"Content-Type": "application/json; charset=utf-8", **self.headers}


@dataclass
class Call:
    """What the Hub knows of a request; `role` is `None`, `"read"` or `"write"`."""

    headers: dict[str, str]
    query: dict[str, list[str]]
    body: bytes
    endpoint: str
    role: str | None

    @property
    def json(self):
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def blob_id(self) -> str:
        """As git knows it: of an LFS file, that of the pointer."""
        content = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    """A commit and all files as of then, by path."""

    id: str
    title: str
    files: dict[str, StoredFile]


class Repository:
    """One repository of a model: the commits of `main`, tags, and the LFS objects that were uploaded."""

    def __init__(self, repo_id: str, private: bool = False):
        self.repo_id, self.private = repo_id, private
        self.commits: dict[str, Commit] = {}
        self.tags: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        self.add_commit("initial commit", {".gitattributes": StoredFile(GIT_ATTRIBUTES.encode(), False)})

    @property
    def head(self) -> Commit:
        return list(self.commits.values())[-1]

    def add_commit(self, title: str, files: dict[str, StoredFile]) -> Commit:
        etags = sorted((path, file.etag) for path, file in files.items())
        commit_id = hashlib.sha1(repr((self.repo_id, len(self.commits), title, etags)).encode()).hexdigest()
        self.commits[commit_id] = Commit(commit_id, title, files)
        return self.commits[commit_id]

    def find(self, revision: str) -> Commit:
        """The commit of `main`, of a tag, or of an id."""
        if revision == "main":
            return self.head
        commit = self.commits.get(self.tags.get(revision, revision))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def is_lfs(self, path: str, size: int, sample: bytes) -> bool:
        name = path.rpartition("/")[2]
        is_named = any(fnmatch.fnmatch(name, f"*.{pattern}") for pattern in LFS_PATTERNS.split())
        return is_named or size > LFS_SIZE or b"\0" in sample


_ROUTES: list[tuple[str, re.Pattern, bool, Callable]] = []


def _route(method: str, path: str, writes: bool = False):
    def register(function):
        _ROUTES.append((method, re.compile(path), writes, function))
        return function

    return register


class Hub:
    """What the Hub keeps, and its answer to each request."""

    def __init__(self, tokens: dict[str, str], user: str, organizations: tuple[str, ...]):
        self.tokens, self.user, self.organizations = tokens, user, organizations
        self.repositories: dict[str, Repository] = {}
        self.collections: dict[str, dict] = {}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        url = urlsplit(target)
        try:
            call = Call(headers, parse_qs(url.query), body, f"http://{headers['host']}", self._role(headers))
            for route_method, pattern, writes, function in _ROUTES:
                match = pattern.fullmatch(url.path)
                if match and method in (route_method, "HEAD" if route_method == "GET" else None):
                    groups = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
                    if "repo_id" in groups:
                        groups["repository"] = self._find_repository(groups.pop("repo_id"), call, writes)
                    elif writes:
                        self._check_write(call, None)
                    answer = function(self, call, **groups)
                    return answer if isinstance(answer, Answer) else Answer(answer)
            raise HubError(501, f"This server does not know {method} {url.path}")
        except HubError as error:
            return error.answer

    def _role(self, headers: dict[str, str]) -> str | None:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def _check_write(self, call: Call, namespace: str | None):
        if call.role is None:
            # The client takes 401 of a repository for a missing one by its https address: here by this code.
            raise HubError(401, "Invalid username or password.", "RepoNotFound" if namespace else None)
        if call.role != "write" or namespace not in (None, self.user, *self.organizations):
            raise HubError(403, f'You don\'t have the rights to write under the namespace "{namespace or self.user}"')

    def _find_repository(self, repo_id: str, call: Call, writes: bool) -> Repository:
        repository = self.repositories.get(repo_id)
        if writes:
            self._check_write(call, repo_id.partition("/")[0])
        if repository is None or (repository.private and call.role is None):
            status, message = (401, "Invalid username or password.") if call.role is None else (404, "Not found")
            raise HubError(status, message, "RepoNotFound")
        return repository

    @_route("GET", "/api/whoami-v2")
    def _whoami(self, call: Call):
        if call.role is None:
            raise HubError(401, "Invalid username or password.")
        organizations = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in self.organizations]
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": call.role}}
        return {"type": "user", "name": self.user, "fullname": self.user, "orgs": organizations, "auth": token}

    @_route("POST", "/api/validate-yaml")
    def _validate_yaml(self, call: Call):
        match = re.match(r"---\n(.*?)\n---(\n|$)", call.json["content"], re.DOTALL)
        if match is None:
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        try:
            metadata = yaml.safe_load(match[1])
            message = None if isinstance(metadata, dict) else '"metadata" must be an object'
        except yaml.YAMLError as error:
            message = str(error)
        return Answer({"errors": [{"message": message}] if message else [], "warnings": []}, 400 if message else 200)

    # Repositories

    @_route("POST", "/api/repos/create", writes=True)
    def _create_repository(self, call: Call):
        values = call.json
        repo_id = f"{values.get('organization') or self.user}/{values['name']}"
        if values.get("type", "model") != "model":
            raise HubError(400, "This server keeps models only")
        self._check_write(call, repo_id.partition("/")[0])
        url = f"{call.endpoint}/{repo_id}"
        if repo_id in self.repositories:
            raise HubError(409, "You already created this model repo", url=url)
        self.repositories[repo_id] = Repository(repo_id, values.get("visibility") == "private")
        return {"url": url, "name": repo_id}

    @_route("GET", f"/api/models/{REPOSITORY}(/revision/{REVISION})?")
    def _repository_info(self, call: Call, repository: Repository, revision: str = "main"):
        commit = repository.find(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        values = {"private": repository.private, "gated": False, "createdAt": DATE, "lastModified": DATE}
        return {"id": repository.repo_id, "sha": commit.id, "tags": [], "siblings": siblings, **values}

    @_route("GET", f"/api/models/{REPOSITORY}/tree/{REVISION}(/(?P<path>.+))?")
    def _tree(self, call: Call, repository: Repository, revision: str, path: str = ""):
        commit, prefix = repository.find(revision), f"{path}/" if path else ""
        found = sorted(name for name in commit.files if name.startswith(prefix))
        if path and not found:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        depth, paths = prefix.count("/") + 1, {}
        for name in found:
            parts = name.split("/")
            steps = range(depth, len(parts) + 1) if call.flag("recursive") else [depth]
            paths |= {"/".join(parts[:step]): None for step in steps}
        return [self._entry(commit, name) for name in paths]

    def _entry(self, commit: Commit, path: str) -> dict:
        file = commit.files.get(path)
        if file is None:
            return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        sizes = {"size": len(file.content), "pointerSize": len(file.pointer)}
        lfs = {"lfs": {"oid": file.sha256, **sizes}} if file.is_lfs else {}
        return {"type": "file", "oid": file.blob_id, "size": len(file.content), "path": path, **lfs}

    @_route("POST", f"/api/models/{REPOSITORY}/tag/{REVISION}", writes=True)
    def _create_tag(self, call: Call, repository: Repository, revision: str):
        tag, commit = call.json["tag"], repository.find(revision)
        if tag in repository.tags:
            raise HubError(409, f"Tag reference exists already: refs/tags/{tag}")
        repository.tags[tag] = commit.id
        return {}

    # Uploads

    @_route("POST", f"/api/models/{REPOSITORY}/preupload/{REVISION}", writes=True)
    def _preupload(self, call: Call, repository: Repository, revision: str):
        files = repository.find(revision).files

        def describe(path: str, size: int, sample: str) -> dict:
            mode = "lfs" if repository.is_lfs(path, size, base64.b64decode(sample)) else "regular"
            known = {"oid": files[path].etag} if path in files else {}
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, **known}

        return {"files": [describe(**file) for file in call.json["files"]]}

    @_route("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", writes=True)
    def _lfs_batch(self, call: Call, repository: Repository):
        objects = call.json["objects"]
        for each in objects:
            if each["oid"] not in repository.lfs:
                upload = {"href": f"{call.endpoint}/lfs-storage/{repository.repo_id}/{each['oid']}"}
                verify = {"href": f"{call.endpoint}/{repository.repo_id}.git/info/lfs/objects/verify"}
                each["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @_route("PUT", "/lfs-storage/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
    def _lfs_upload(self, call: Call, repo: str, oid: str):
        # No token is asked for, as with signed addresses of any storage.
        if hashlib.sha256(call.body).hexdigest() != oid:
            raise HubError(400, "The content does not match its SHA-256")
        self.repositories[repo].lfs[oid] = call.body
        return b""

    @_route("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/verify", writes=True)
    def _lfs_verify(self, call: Call, repository: Repository):
        if len(repository.lfs.get(call.json["oid"], b"")) != call.json["size"]:
            raise HubError(404, "Object not found")
        return {}

    @_route("POST", f"/api/models/{REPOSITORY}/commit/{REVISION}", writes=True)
    def _commit(self, call: Call, repository: Repository, revision: str):
        """As on the Hub, a commit that changes nothing is one too: it is the client that leaves those out."""
        if call.flag("create_pr") or revision != "main":
            raise HubError(400, "This server has no pull requests, and no branches")
        lines = [json.loads(line) for line in call.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if "parentCommit" in header and header["parentCommit"] != repository.head.id:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.head.files)
        for line in lines:
            self._change(repository, files, line["key"], line["value"])
        commit = repository.add_commit(header["summary"], files)
        url = f"{call.endpoint}/{repository.repo_id}/commit/{commit.id}"
        return {"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""}

    def _change(self, repository: Repository, files: dict[str, StoredFile], key: str, value: dict):
        if key == "file":
            files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in repository.lfs:
                raise HubError(400, f"An LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = StoredFile(repository.lfs[value["oid"]], is_lfs=True)
        elif key == "deletedFile":
            del files[value["path"]]

    # Downloads

    @_route("GET", f"/{REPOSITORY}/resolve/{REVISION}/(?P<path>.+)")
    def _resolve(self, call: Call, repository: Repository, revision: str, path: str):
        commit = repository.find(revision)
        headers = {"X-Repo-Commit": commit.id}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        file = commit.files[path]
        headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.etag}"'}
        return Answer(file.content, headers=headers)

    # Collections

    @_route("POST", "/api/collections", writes=True)
    def _create_collection(self, call: Call):
        values = call.json
        title, owner = values["title"], values["namespace"]
        self._check_write(call, owner)
        if len(values.get("description", "")) > 150:
            raise HubError(400, '"description" length must be less than or equal to 150 characters long')
        identity = hashlib.sha1(repr((owner, title)).encode()).hexdigest()[:24]
        slug = f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}-{identity}"
        if slug in self.collections:
            raise HubError(409, "Collection already exists", slug=slug)
        self.collections[slug] = {
            "slug": slug,
            "title": title,
            "owner": {"name": owner},
            "description": values.get("description"),
            "private": values.get("private", False),
            "position": 0,
            "theme": "orange",
            "upvotes": 0,
            "lastUpdated": DATE,
            "items": [],
        }
        return self.collections[slug]

    @_route("GET", f"/api/collections/{SLUG}")
    def _get_collection(self, call: Call, slug: str):
        if slug not in self.collections:
            raise HubError(404, "Collection not found")
        return self.collections[slug]

    @_route("POST", f"/api/collections/{SLUG}/items", writes=True)
    def _add_item(self, call: Call, slug: str):
        self._check_write(call, slug.partition("/")[0])
        collection, item = self._get_collection(call, slug), call.json["item"]
        if item["id"] not in self.repositories:
            raise HubError(404, f"{item['id']} does not exist")
        if item["id"] in {each["id"] for each in collection["items"]}:
            raise HubError(409, "Item already in the collection")
        identity = hashlib.sha1(repr((slug, item)).encode()).hexdigest()[:24]
        collection["items"].append({"_id": identity, **item, "position": len(collection["items"])})
        return collection


class HubServer(ThreadingHTTPServer):
    """
    Serves a `Hub` on the loopback interface while it is entered as a context.

    `faults`, to which tests append what goes wrong, are tried in their order, and each is used up by the requests that
    it matches. `requests` is the log in order of arrival, `uploads` the bytes of LFS objects that came, by SHA-256,
    those of broken uploads included.

    Args:
        organizations (`tuple[str, ...]`): The namespaces in which the user `tester` may write, beside the own one.
        hub (`Hub`, *optional*): What is served. Default: a new one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, organizations: tuple[str, ...] = (), hub: Hub | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub or Hub({"hf_write": "write", "hf_read": "read"}, "tester", organizations)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.holds: list[Hold] = []
        self.requests: list[ReceivedRequest] = []
        self.uploads: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __enter__(self):
        # By default it polls rarely, and `shutdown` waits for the next time.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        for hold in self.holds:
            hold.drop()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # A client that was killed is nothing to report.
            super().handle_error(request, client_address)

    def hold(self, match: str, nth: int = 1, stage: str = "body") -> Hold:
        """
        Makes the `nth` request that matches from now on stand still: with `stage="headers"` before its body is read,
        with `"body"` when it has been read but nothing was done, with `"effect"` when it was done but not answered.
        """
        hold = Hold(match, nth, stage)
        with self.lock:
            self.holds.append(hold)
        return hold

    def count(self, match: str) -> int:
        """How many requests of the log match."""
        return sum(request.matches(match) for request in list(self.requests))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path to content."""
        return {path: file.content for path, file in self.hub.repositories[repo_id].find(revision).files.items()}

    def commits(self, repo_id: str) -> list[Commit]:
        """Of `main`, the first one first."""
        return list(self.hub.repositories[repo_id].commits.values())


class _Closed(Exception):
    """The connection ends here, without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args):
        pass

    def _handle(self):
        # Each connection has one request, so that an early close is seen as one.
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault, hold = self._register(ReceivedRequest(self.command, self.path))
        try:
            self._stand_still(hold, "headers")
            body = self._read_body(fault.cut_request_after)
            self._stand_still(hold, "body")
            if fault.status is None or fault.takes_effect:
                with self.server.lock:
                    answer = self.server.hub.answer(self.command, self.path, headers, body)
            self._stand_still(hold, "effect")
            self._send(answer if fault.status is None else fault.answer, fault.cut_after)
        except _Closed:
            pass

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _register(self, request: ReceivedRequest) -> tuple[Fault, Hold | None]:
        server = self.server
        with server.lock:
            server.requests.append(request)
            held = None
            for hold in server.holds:
                if hold.countdown > 0 and request.matches(hold.match):
                    hold.countdown -= 1
                    held = hold if hold.countdown == 0 else held
            for fault in server.faults:
                if fault.times != 0 and request.matches(fault.match):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault, held
        return Fault(""), held

    def _stand_still(self, hold: Hold | None, stage: str):
        if hold is not None and hold.stage == stage:
            hold.reached.set()
            hold.dropped.wait()
            raise _Closed

    def _read_body(self, cut_after: int | None) -> bytes:
        """All of it; ends the connection where it should be cut, or where the client ended it."""
        length, body = int(self.headers.get("Content-Length") or 0), bytearray()
        end = length if cut_after is None else min(cut_after, length)
        while len(body) < end:
            piece = self.rfile.read1(min(2**16, end - len(body)))
            if not piece:
                raise _Closed
            body += piece
            if self.path.startswith("/lfs-storage/"):
                with self.server.lock:
                    self.server.uploads[self.path.rpartition("/")[2]] += len(piece)
        if cut_after is not None:
            raise _Closed
        return bytes(body)

    def _send(self, answer: Answer, cut_after: int | None):
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut_after])


def client_environment(endpoint: str, token: str | None, hf_home: str | Path) -> dict[str, str]:
    """
    Environment of a process whose Hub is at `endpoint` and whose caches are in `hf_home`: online as far as the
    loopback interface, without Xet, and without any setting of whoever runs the tests.
    """
    others = re.compile("(hf|hugging|transformers|http_proxy|https_proxy|all_proxy|no_proxy)", re.IGNORECASE)
    environment = {name: value for name, value in os.environ.items() if not others.match(name)}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(hf_home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return environment | ({"HF_TOKEN": token} if token else {})


def start_client(server: HubServer, code: str, *arguments, cwd: Path, token: str | None = "hf_write"):
    """Starts `code` in a fresh interpreter whose Hub is `server`, with its caches in `cwd`; returns the `Popen`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = client_environment(server.endpoint, token, Path(cwd) / "hf_home")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def prepare_client(monkeypatch) -> list[float]:
    """
    Lets the client of this process reach a `HubServer` by `HfApi(endpoint=..., token=...)`, and its retries not wait:
    the list that is returned says how many seconds each would have.

    The client reads these constants whenever it calls; `HF_ENDPOINT` is only read at import, so that what takes no
    `endpoint`, like `from_pretrained`, needs a process of its own with `client_environment`.
    """
    waits = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for module in (huggingface_hub.utils._http, huggingface_hub.file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    huggingface_hub.close_session()  # The session that was made before knows other proxies.
    return waits
