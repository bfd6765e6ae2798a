"""Every way in which a checkpoint can fail to be found ends in one sentence that says what to do."""

from __future__ import annotations

import errno
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from vcut import hub, loading
from vcut.errors import CheckpointError, ConfigError

Download = Callable[..., str]
FILES = [
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
]


def raised(error: BaseException, cause: BaseException | None = None) -> Download:
    def download(repo_id: str, **options: Any) -> str:
        raise error from cause

    return download


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    class Response:  # whichever HTTP library the client uses, this is what an error keeps of it
        status_code = status
        headers: dict[str, str] = {}  # noqa: RUF012
        request = None

    return kind(f"{status} Client Error.\n\nfor url: https://huggingface.co/...", response=Response())  # type: ignore[arg-type]


def message(monkeypatch: pytest.MonkeyPatch, download: Download, **options: Any) -> str:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError) as error:
        hub.find("svd-xt", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


PAGE = "https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt"


def test_a_gated_repository_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gated = http_error(errors.GatedRepoError, 403)
    assert isinstance(gated, errors.RepositoryNotFoundError)
    text = message(monkeypatch, raised(gated))
    assert "is gated" in text
    assert f"accept the licence at {PAGE}" in text
    assert "hf auth login" in text


@pytest.mark.parametrize(
    ("kind", "status", "says"),
    [
        (errors.RepositoryNotFoundError, 401, "wants a valid token"),  # how the Hub answers a stranger
        (errors.HfHubHTTPError, 401, "wants a valid token"),
        (errors.HfHubHTTPError, 403, "this token may not read"),
        (errors.DisabledRepoError, 403, "this token may not read"),
        (errors.RepositoryNotFoundError, 404, "was not found on the Hub"),
        (errors.RevisionNotFoundError, 404, "has no such revision"),
        (errors.HfHubHTTPError, 429, "no more requests for now"),
        (errors.HfHubHTTPError, 503, "in trouble (status 503)"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_each_status_has_its_advice(
    monkeypatch: pytest.MonkeyPatch, kind: type[errors.HfHubHTTPError], status: int, says: str, wrapped: bool
) -> None:
    error = http_error(kind, status)
    local = errors.LocalEntryNotFoundError("cannot find an appropriate cached snapshot folder")
    assert says in message(monkeypatch, raised(local, error) if wrapped else raised(error))


@pytest.mark.parametrize(
    ("error", "cause", "options", "says"),
    [
        (errors.LocalEntryNotFoundError("x"), errors.OfflineModeIsEnabled("x"), {}, "HF_HUB_OFFLINE is set"),
        (errors.LocalEntryNotFoundError("x"), None, {"local_only": True}, "the network was not to be used"),
        (errors.LocalEntryNotFoundError("x"), ConnectionError("x"), {}, "cannot be reached"),
        (ConnectionResetError("reset by peer"), None, {}, "cannot be reached"),
        (errors.LocalEntryNotFoundError("x"), errors.FileMetadataError("no commit"), {}, "Error: no commit)"),
        (errors.LocalTokenNotFoundError("x"), None, {}, "wants a valid token"),
        (TimeoutError("timed out"), None, {}, "did not answer in time"),
        (errors.LocalEntryNotFoundError("x"), TimeoutError("x"), {}, "did not answer in time"),
        (OSError(errno.ENOSPC, "No space left on device"), None, {}, "the disk is full: svd-xt needs 9.0 GB"),
        (RuntimeError("IO Error: No space left on device (os error 28)"), None, {}, "the disk is full"),
        (OSError(errno.ENOSPC, "x"), None, {"variant": "fp16"}, "needs 4.5 GB"),
        (OSError(errno.ENOSPC, "x"), None, {"parts": ["unet"]}, "needs 6.1 GB"),
        (PermissionError(errno.EACCES, "Permission denied"), None, {}, "HF_HOME"),
        (ValueError("something\nnew"), None, {}, "could not be fetched (ValueError: something)"),
        (ValueError(), None, {}, "could not be fetched (ValueError)"),
    ],
)
def test_each_failure_has_its_advice(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    cause: Exception | None,
    options: dict[str, Any],
    says: str,
) -> None:
    assert says in message(monkeypatch, raised(error, cause), **options)


def test_an_interrupt_is_not_a_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raised(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        hub.find("svd")


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int, dict[str, str]], None]]:
    """A Hub of our own that answers everything with one status, and an empty cache."""
    answer: list[Any] = [200, {}]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer[0])
            for key, value in answer[1].items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def reply(status: int, headers: dict[str, str]) -> None:
        answer[:] = [status, headers]

    yield reply
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "is gated"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated"),
        (401, {"X-Error-Code": "RepoNotFound"}, "wants a valid token"),
        (401, {}, "wants a valid token"),
        (403, {}, "this token may not read"),
        (404, {"X-Error-Code": "RepoNotFound"}, "was not found on the Hub"),
    ],
)
def test_the_real_client_leads_to_the_same_advice(
    server: Callable[[int, dict[str, str]], None], status: int, headers: dict[str, str], says: str
) -> None:
    server(status, headers)
    with pytest.raises(CheckpointError, match=says) as error:
        hub.find("svd-xt", token="hf_expired")
    assert "hf_expired" not in str(error.value)


@pytest.mark.parametrize("token", ["", "\n", "hf_secret\x00", "hf_secret more", "hf_sécret"])
def test_what_can_be_no_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="token must be one word") as error:
        hub.find("svd-xt", token=token)
    assert "secret" not in str(error.value)


def test_a_token_from_a_file_may_end_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_into(tmp_path, calls))
    hub.find("svd-xt", token=" hf_x\n")
    assert calls[0][1]["token"] == "hf_x"


def test_the_real_client_without_a_server_says_that_it_cannot_be_reached(
    server: Callable[[int, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.find("svd-xt")
    with pytest.raises(CheckpointError, match="the network was not to be used"):
        hub.find("svd-xt", local_only=True)


def fetch_into(folder: Path, calls: list[tuple[str, dict[str, Any]]], leave_out: str = "") -> Download:
    def download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        for name in options["allow_patterns"]:
            if "*" not in name and name != leave_out:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        return str(folder)

    return download


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("name", ["svd", "svd-xt", "svd-xt-1-1"])
def test_only_the_needed_files_of_the_right_repository_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variant: str | None
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_into(tmp_path, calls))
    assert hub.find(name, variant=variant, token="hf_x", local_only=True) == tmp_path
    repository, options = calls[0]
    assert repository == "stabilityai/stable-video-diffusion-img2vid" + name.removeprefix("svd")
    wanted = [f.replace(".safetensors", ".fp16.safetensors") if variant else f for f in FILES]
    assert options["allow_patterns"] == [*wanted, "LICENSE*"]
    assert (options["token"], options["local_files_only"]) == ("hf_x", True)


def test_a_repository_without_the_variant_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = fetch_into(tmp_path, [], leave_out=FILES[1])
    assert f"has no {FILES[1]} at this revision" in message(monkeypatch, download)


def test_local_files_and_folders_are_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raised(AssertionError("no download is needed")))
    file = tmp_path / "weights.safetensors"
    file.touch()
    assert hub.find(file) == hub.find(str(file)) == file
    assert hub.find(tmp_path) == hub.find(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svd").mkdir()
    assert hub.find(Path("svd")) == hub.find("./svd") == Path("svd")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            "nowhere",
            "no file or folder nowhere, and no model of that name (names: tiny, svd, svd-xt, svd-xt-1-1)",
        ),
        ("nowhere/svd.safetensors", "no file or folder nowhere/svd.safetensors"),
        ("SVD_XT", "did you mean svd-xt?"),
        ("svd_xt_1_1.safetensors", "did you mean svd-xt-1-1?"),
        ("stabilityai/stable-video-diffusion-img2vid-xt", "did you mean svd-xt?"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(model: str, says: str) -> None:
    with pytest.raises(CheckpointError) as error:
        hub.find(model)
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["svd.ckpt", "svd.pt", "svd.pth", "svd.bin"])
def test_a_pickle_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="is a pickle"):
        loading.find(tmp_path / name)


def test_another_file_and_another_variant_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(CheckpointError, match=r"photo\.jpg is not a \.safetensors file"):
        loading.find(tmp_path / "photo.jpg")
    with pytest.raises(ConfigError, match="'fp16', got 'int8'"):
        hub.find("svd", variant="int8")
    with pytest.raises(ConfigError, match=r"a revision is of the models on the Hub .*, not of tiny"):
        loading.find("tiny", revision="main")
