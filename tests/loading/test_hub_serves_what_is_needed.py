"""A published model through the Hub's real client, from a server on loopback: what is fetched, what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import COMMIT, REPOSITORY, Handler, Hub, repository, serving
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from micro import micro
from model_files import write

import vcut
from vcut import hub
from vcut.errors import CheckpointError
from weights_tools.cli import main as weights

try:
    from huggingface_hub import close_session
except ImportError:
    pytest.skip("the server speaks to the Hub's client from version 1 on", allow_module_level=True)

UNET = "unet/diffusion_pytorch_model.safetensors"
WANTED = {
    "LICENSE.md",
    "unet/config.json",
    UNET,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The repository of a micro model as published: both precisions, single files, pictures."""
    folder = tmp_path_factory.mktemp("repository")
    write(micro("baseline"), folder / "micro.safetensors")
    single = str(folder / "micro.safetensors")
    assert weights(["convert", single, str(folder / "full"), "--to", "diffusers"]) == 0
    assert weights(["convert", single, str(folder / "half"), "--to", "diffusers", "--dtype", "float16"]) == 0
    found = repository(folder / "full")
    for path, content in repository(folder / "half").items():
        if path.endswith(".safetensors"):
            found[path.replace(".safetensors", ".fp16.safetensors")] = content
    found["svd_xt.safetensors"] = (folder / "micro.safetensors").read_bytes()
    return {**found, "LICENSE.md": b"licence", "README.md": b"readme", "output_tile.gif": b"GIF89a"}


@pytest.fixture
def server(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, as the Hub of this process, with an empty cache; it waits for no retry."""
    with serving(dict(files)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        url = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for module in (file_download, _http):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
        close_session()  # a client that an earlier test left behind
        yield running


def refused(**options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        hub.find("svd-xt", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetched(server: Hub) -> set[str]:
    return {line.split(f"/resolve/{COMMIT}/")[1].split()[0] for line in server.got("") if "/resolve/" in line}


def on_file(path: str, act: Callable[[Handler], object], times: int = 10**6) -> Callable[[Handler], bool]:
    """A fault of the body of one file, the first few times."""
    left = [times]

    def fault(request: Handler) -> bool:
        if request.command != "GET" or not request.path.endswith(path) or not left[0]:
            return False
        left[0] -= 1
        act(request)
        return True

    return fault


def test_three_networks_their_configurations_and_the_licence_are_asked_for_and_nothing_else(
    server: Hub,
) -> None:
    pipe = vcut.load("svd-xt")
    assert fetched(server) == WANTED
    assert all(
        torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), micro().unet.parameters(), strict=True)
    )
    assert pipe.config.name == "svd-xt"


def test_a_part_is_asked_for_alone(server: Hub) -> None:
    vcut.load_unet("svd-xt")
    assert fetched(server) == {"LICENSE.md", "unet/config.json", UNET}


def test_half_precision_is_asked_for_in_place_of_full(server: Hub) -> None:
    assert vcut.load_unet("svd-xt", variant="fp16").dtype == torch.float32  # cast while it is read
    weights_files = {path for path in fetched(server) if path.endswith(".safetensors")}
    assert weights_files == {UNET.replace(".safetensors", ".fp16.safetensors")}


def test_a_variant_that_the_repository_lacks_is_said(server: Hub) -> None:
    server.files = {path: content for path, content in server.files.items() if ".fp16." not in path}
    assert "has no unet/diffusion_pytorch_model.fp16.safetensors" in refused(variant="fp16")


@pytest.mark.parametrize("revision", [COMMIT, "v1"])
def test_a_revision_is_pinned(server: Hub, revision: str) -> None:
    assert hub.find("svd-xt", revision=revision, parts=["clip"]).name == COMMIT
    # a commit needs no look-up of what it means
    assert bool(server.got(f"/revision/{revision}")) == (revision == "v1")


def test_a_revision_that_does_not_exist_is_said(server: Hub) -> None:
    assert f"{REPOSITORY} has no such revision" in refused(revision="v9")


def test_what_is_there_is_not_fetched_again_and_is_found_without_network(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.find("svd-xt")
    before = len(server.got(".safetensors"))
    for file in folder.rglob("*.*"):
        os.utime(file, (0, 0))  # long ago
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("9 GB are read again"))
    assert hub.find("svd-xt") == folder
    assert len(server.got(".safetensors")) == before
    asked = len(server.asked)
    assert hub.find("svd-xt", local_only=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find("svd-xt") == folder
    assert len(server.asked) == asked


def test_offline_with_a_part_of_the_files_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.find("svd-xt", parts=["clip"])
    assert "not whole on this machine and the network was not to be used" in refused(local_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not whole on this machine and HF_HUB_OFFLINE is set" in refused()


def test_a_cut_connection_goes_on_where_it_was_cut(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.fault = on_file(UNET, lambda request: request.cut(UNET, 100_000), times=1)
    path = hub.find("svd-xt") / UNET
    assert path.read_bytes() == server.files[UNET]
    assert server.got(UNET)[1].endswith("bytes=100000-")


def test_a_connection_that_is_cut_again_and_again_is_said(server: Hub) -> None:
    server.fault = on_file(UNET, lambda request: request.cut(UNET, 0))
    assert "was cut in the middle of a file: run again" in refused()
    server.fault = lambda request: False
    assert hub.find("svd-xt").is_dir()


def test_a_truncated_file_is_refused_and_the_next_run_mends_it(server: Hub) -> None:
    server.fault = on_file(UNET, lambda request: request.answer_file(UNET, server.files[UNET][:-8]))
    assert "was cut in the middle of a file: run again" in refused()
    server.fault = lambda request: False
    assert (hub.find("svd-xt") / UNET).read_bytes() == server.files[UNET]


def test_a_file_of_another_checksum_is_removed_and_the_next_run_mends_it(server: Hub, tmp_path: Path) -> None:
    other = server.files[UNET][:-1] + bytes([server.files[UNET][-1] ^ 1])
    server.fault = on_file(UNET, lambda request: request.answer_file(UNET, other))
    text = refused()
    assert "diffusion_pytorch_model.safetensors arrived damaged" in text
    assert hashlib.sha256(other).hexdigest()[:12] in text
    assert UNET.split("/") not in [list(path.parts[-2:]) for path in tmp_path.rglob("*")]
    server.fault = lambda request: False
    assert (hub.find("svd-xt") / UNET).read_bytes() == server.files[UNET]


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "is gated: accept the licence"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: accept the licence"),
        (401, {}, "wants a valid token"),
        (403, {}, "this token may not read"),
        (404, {}, "was not found on the Hub"),
        (500, {}, "in trouble (status 500)"),
        (503, {}, "in trouble (status 503)"),
    ],
)
@pytest.mark.parametrize("where", ["/api/", "/resolve/"])
def test_each_status_is_answered_by_what_to_do(
    server: Hub, status: int, headers: dict[str, str], says: str, where: str
) -> None:
    def fault(request: Handler) -> bool:
        if where in request.path:
            request.answer(status, headers=headers)
        return where in request.path

    server.fault = fault
    assert says in refused()


def test_too_many_requests_are_answered_by_patience(server: Hub) -> None:
    def fault(request: Handler) -> bool:
        request.answer(429)
        return True

    server.fault = fault
    assert "run again in some minutes" in refused()


def test_a_mirror_without_the_headers_of_a_hub_is_named(server: Hub) -> None:
    def fault(request: Handler) -> bool:
        if "/resolve/" in request.path:
            request.answer(200, b"x" * 100)
        return "/resolve/" in request.path

    server.fault = fault
    text = refused()
    assert "what answers in the place of the Hub is none" in text
    assert "X-Repo-Commit" in text
    assert "HF_ENDPOINT" in text


LOGIN = b"<!DOCTYPE html><html><title>Log in to the network</title></html>"


@pytest.mark.parametrize("where", ["/revision/", "/tree/"])
@pytest.mark.parametrize(
    "body",
    [
        LOGIN,
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"sha": null}',
        b'{"id": "x", "sha": null}',
        b'[{"type": "file"}]',
        b"3",
    ],
)
def test_a_login_page_in_the_place_of_json_is_named(server: Hub, where: str, body: bytes) -> None:
    def fault(request: Handler) -> bool:
        if where in request.path:
            request.answer(200, body, {"Content-Type": "text/html"})
        return where in request.path

    server.fault = fault
    text = refused()
    # an empty listing is a repository without files
    empty = where == "/tree/" and body in (b"[]", b"{}")
    assert ("has no " if empty else "what answers in the place of the Hub is none") in text


def test_a_login_page_in_the_place_of_a_file_is_no_file(server: Hub) -> None:
    server.fault = on_file(UNET, lambda request: request.answer(200, LOGIN, {"Content-Type": "text/html"}))
    assert "was cut in the middle of a file: run again" in refused()


def test_a_redirect_to_a_store_elsewhere_is_followed(server: Hub, files: dict[str, bytes]) -> None:
    with serving(files) as store:

        def fault(request: Handler) -> bool:
            if "/resolve/" not in request.path:
                return False
            path = request.path.split(f"{COMMIT}/")[1]
            content = server.files[path]
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{store.url}{request.path}",
            }
            request.answer(302, headers=headers)
            return True

        server.fault = fault
        assert (hub.find("svd-xt", token="hf_x") / UNET).read_bytes() == files[UNET]
        assert store.got(UNET)
        assert "Bearer hf_x" in server.tokens
        assert set(store.tokens) == {None}


def test_a_redirect_to_a_login_page_is_named(server: Hub) -> None:
    def fault(request: Handler) -> bool:
        if "/login" in request.path:
            request.answer(200, LOGIN, {"Content-Type": "text/html"})
        else:
            request.answer(302, headers={"Location": f"{server.url}/login"})
        return True

    server.fault = fault
    assert "what answers in the place of the Hub is none" in refused()


def test_a_full_disk_is_said(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    real = Path.open

    def opened(path: Path, mode: str = "r", *args: object, **options: object) -> object:
        return real(full if path.name.endswith(".incomplete") else path, mode, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", opened)
    assert "the disk is full: svd-xt needs 9.0 GB" in refused()


def test_a_cache_that_cannot_be_written_is_said(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.makedirs

    def refuse(path: str, *args: object, **options: object) -> None:
        if "blobs" in str(path) or "snapshots" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "makedirs", refuse)
    assert "set HF_HOME to one that can" in refused()


FETCH = "from vcut import hub; print(hub.find('svd-xt', parts=['unet', 'clip']))"


@pytest.mark.slow
def test_two_processes_at_once_both_get_whole_files(server: Hub, tmp_path: Path) -> None:
    server.fault = lambda request: time.sleep(0.05) is not None
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    runs = [
        subprocess.Popen([sys.executable, "-c", FETCH], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    (folder,) = folders
    assert (Path(folder) / UNET).read_bytes() == server.files[UNET]
    assert not list((tmp_path / "home").rglob("*.incomplete"))
