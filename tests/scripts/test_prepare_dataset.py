"""The command line: exit codes, messages, and the push to a Hub on the loopback interface."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest

from tests.common import REPOSITORY
from tests.data.datasets_on_disk import make_label_map, write_ade20k, write_pascal_context
from tests.hub.hub_server import Answer, Hub, HubServer, client_environment, start_client


SCRIPT = REPOSITORY / "scripts" / "prepare_dataset.py"
SAMPLE = REPOSITORY.parent / "shared" / "data" / "ADEChallengeData2016"


# These addresses do not tell what kind of repository it is, or the server itself named them.
COMMON_PATHS = r"/api/repos/create|/api/validate-yaml|/lfs-storage/|/.*\.git/info/lfs/objects/verify"


class HubOfDatasets(Hub):
    """Keeps datasets in place of models: the Hub treats both alike, but for a prefix of their addresses."""

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        if "/datasets/" not in target and not re.match(COMMON_PATHS, target):
            return Answer({"error": f"{target} is not of datasets"}, 404, {"X-Error-Code": "RepoNotFound"})
        target = re.sub("^/api/datasets/", "/api/models/", re.sub("^/datasets/", "/", target))
        if target == "/api/repos/create":
            values = json.loads(body)
            assert values.pop("type") == "dataset"
            body = json.dumps(values).encode()
        return super().answer(method, target, headers, body)


@pytest.fixture
def server():
    with HubServer(hub=HubOfDatasets({"hf_write": "write", "hf_read": "read"}, "tester", ("lab",))) as server:
        yield server


@pytest.fixture
def run_main(tmp_path, monkeypatch, capfd):
    """Runs the script in this process, where importing torch and transformers costs nothing any more."""

    def run(*arguments) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return subprocess.CompletedProcess(sys.argv, exit.value.code, *capfd.readouterr())

    return run


def run_script(*arguments, cwd, server=None, token="hf_write") -> subprocess.CompletedProcess:
    """Runs the script as a user does."""
    environment = dict(os.environ) if server is None else client_environment(server.endpoint, token, cwd / "hf_home")
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_ade20k(tmp_path):
    write_ade20k(tmp_path / "ADEChallengeData2016")
    result = run_script("ade20k", "ADEChallengeData2016", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("out: 3 images for train, 2 images for validation, 0.0 MB")
    assert "--do_reduce_labels" in lines[1]
    assert lines[2] == "The terms of the data apply: https://sceneparsing.csail.mit.edu/"
    assert "warning: The train split has 3 images, the complete download has 20210." in result.stderr
    assert "5/5" in result.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "data", "id2label.json"]


@pytest.mark.parametrize(("arguments", "names"), [((), 60), (("--num_classes", 60), 60), (("--num_classes", 59), 59)])
def test_classes_of_pascal_context(tmp_path, run_main, arguments, names):
    write_pascal_context(tmp_path)
    result = run_main("pascal_context", ".", "out", *arguments)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr
    assert ("--do_reduce_labels" in result.stdout) == (names == 59)
    assert len(json.loads((tmp_path / "out" / "id2label.json").read_text())) == names


def test_errors(tmp_path, run_main):
    result = run_main("cityscapes", "nowhere", "out")
    assert result.returncode == 2
    assert result.stderr.startswith("prepare_dataset.py: error: nowhere is no folder of Cityscapes")
    assert "leftImg8bit/train/aachen/" in result.stderr
    write_ade20k(tmp_path / "source")
    make_label_map((0, 151)).save(tmp_path / "source" / "annotations" / "training" / "ADE_train_00000001.png")
    result = run_main("ade20k", "source", "out")
    assert result.returncode == 2 and "ADE_train_00000001.png holds 151" in result.stderr
    assert os.listdir(tmp_path) == ["source"]


def test_output_that_cannot_be_written(tmp_path, run_main):
    write_ade20k(tmp_path / "source")
    (tmp_path / "file").write_bytes(b"")
    result = run_main("ade20k", "source", "file/out")
    assert result.returncode == 2
    assert result.stderr.startswith("prepare_dataset.py: error: ") and str(tmp_path / "file") in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coco", "source", "out"), "invalid choice: 'coco'"),
        (("ade20k", "source"), "OUTPUT_DIR"),
        (("ade20k", "source", "out", "--num_classes", "59"), "--num_classes is for pascal_context"),
        (("ade20k", "source", "out", "--push_to_hub"), "--push_to_hub and --repo_id belong together"),
        (("ade20k", "source", "out", "--repo_id", "lab/ade"), "--push_to_hub and --repo_id belong together"),
    ],
)
def test_wrong_arguments(run_main, arguments, message):
    result = run_main(*arguments)
    assert result.returncode == 2 and message in result.stderr


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no sample")
def test_sample_of_ade20k(run_main):
    result = run_main("ade20k", SAMPLE, "out")
    assert result.returncode == 0 and result.stdout.startswith("out: 2 images for validation, 0.1 MB")


LOAD = """
import sys, numpy
from segmenter_hf.data.loading import load_segmentation_data
data = load_segmentation_data("lab/ade")
for name, split in data.splits.items():
    print(name, len(split), numpy.unique(split[0]['annotation']).tolist(), len(data.id2label))
"""


PUSH = ("ade20k", "source", "out", "--push_to_hub", "--repo_id", "lab/ade")


def files_in(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_push_to_hub(tmp_path, server):
    write_ade20k(tmp_path / "source")
    result = run_script(*PUSH, cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("lab/ade: uploaded\n")
    files = server.files("lab/ade")
    files.pop(".gitattributes")
    assert files == files_in(tmp_path / "out")
    assert server.hub.repositories["lab/ade"].private


@pytest.mark.slow
def test_pushed_dataset_is_loaded(tmp_path, server):
    """It loads in a process that has nothing else, and its labels come along."""
    write_ade20k(tmp_path / "source")
    assert run_script(*PUSH, cwd=tmp_path, server=server).returncode == 0
    client = start_client(server, LOAD, cwd=tmp_path)
    output, errors = client.communicate()
    assert client.returncode == 0, errors
    assert output.splitlines() == ["train 3 [0, 1, 150] 150", "validation 2 [0, 1, 150] 150"]

    # Most datasets on the Hub have no file of label names.
    repository = server.hub.repositories["lab/ade"]
    files = {path: file for path, file in repository.head.files.items() if path != "id2label.json"}
    repository.add_commit("Remove the names", files)
    client = start_client(server, LOAD, cwd=tmp_path)
    assert "lab/ade has no id2label.json, and its features name no classes" in client.communicate()[1]
    with_names = LOAD.replace('"lab/ade"', '"lab/ade", labels="ade20k"')
    client = start_client(server, with_names, cwd=tmp_path)
    assert client.communicate()[0].splitlines() == output.splitlines()


@pytest.mark.slow
def test_push_again_with_other_data(tmp_path, server):
    """Shards that are gone here go there too."""
    write_ade20k(tmp_path / "source")
    assert run_script(*PUSH, cwd=tmp_path, server=server).returncode == 0
    repository = server.hub.repositories["lab/ade"]
    files = repository.head.files
    shard = files["data/train-00000-of-00001.parquet"]
    more = {f"data/train-{index:05d}-of-00002.parquet": shard for index in range(2)}
    repository.add_commit("As if there had been more", {**files, **more})
    write_ade20k(tmp_path / "source", num_train=4)
    result = run_script(*PUSH, "--overwrite", cwd=tmp_path, server=server)
    assert result.returncode == 0, result.stderr
    files = server.files("lab/ade")
    files.pop(".gitattributes")
    assert files == files_in(tmp_path / "out")
    assert server.count("/api/models") == 0


def test_public_dataset(tmp_path, server):
    write_ade20k(tmp_path / "source")
    assert run_script(*PUSH, "--public", cwd=tmp_path, server=server).returncode == 0
    assert not server.hub.repositories["lab/ade"].private


@pytest.mark.parametrize(("token", "status"), [("hf_read", 403), (None, 401)])
def test_tokens_that_may_not_push(tmp_path, server, token, status):
    write_ade20k(tmp_path / "source")
    result = run_script(*PUSH, cwd=tmp_path, server=server, token=token)
    assert result.returncode == 2
    assert "error: lab/ade was not uploaded" in result.stderr
    assert str(status) in result.stderr and "hf auth login" in result.stderr
    # What was prepared stays, and can be pushed without doing it again.
    assert "hf upload lab/ade out --repo-type dataset" in result.stderr
    assert (tmp_path / "out" / "id2label.json").is_file()
