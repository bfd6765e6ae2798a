"""Find a checkpoint: a file or folder on this machine, or one of Stability AI's repositories on the Hub."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vcut.errors import CheckpointError, ConfigError
from weights_tools.checkpoint import FOLDERS
from weights_tools.structure import PARTS, Part

REPOSITORIES = {
    "svd": "stabilityai/stable-video-diffusion-img2vid",
    "svd-xt": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd-xt-1-1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}

_VARIANTS = (None, "fp16")
_GIGABYTES: dict[Part, float] = {"unet": 6.1, "vae": 0.4, "clip": 2.5}  # in float32


def find(
    model: str | Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    parts: Sequence[Part] = PARTS,
    token: str | None = None,
    local_only: bool = False,
) -> Path:
    """The path of a checkpoint, downloaded first if it has to be.

    Of a repository only the weights of the three networks and their configurations are fetched: 9.0 GB in
    float32, 4.5 GB as ``variant='fp16'``, and never the 9.5 GB single files beside them.

    Args:
        model: ``'svd'``, ``'svd-xt'`` or ``'svd-xt-1-1'``; or a folder or .safetensors file, returned as it is.
            A name wins over a folder of the same name: write ``./svd`` for the folder.
        variant: which weights of a repository to fetch, None or ``'fp16'``.
        revision: commit, tag or branch of the repository, by default the newest of ``main``. A commit that was
            fetched before is found without the network.
        parts: the networks to fetch, by default all three.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be fetched; the message says what to do.
        ConfigError: there is no such variant, or the token cannot be one.
    """
    if variant not in _VARIANTS:
        raise ConfigError(f"variant must be None or 'fp16', got {variant!r}")
    if str(model) not in REPOSITORIES or isinstance(model, Path):
        if revision is not None:
            raise ConfigError(
                f"a revision is of the models on the Hub ({', '.join(REPOSITORIES)}), not of {model}"
            )
        return _local(Path(model))
    repository = REPOSITORIES[str(model)]
    files = _files(variant, parts)
    # a line's end, as of a file, is no part of a token; of what else fits no header the client's error would show all
    token = None if token is None else token.strip()
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise ConfigError("the token must be one word of letters, digits and marks, as the Hub gave it")
    # imported here, since a local file needs none of it
    import huggingface_hub

    begun = time.time()
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[*files, "LICENSE*"],
            token=token,
            local_files_only=local_only,
        )
    except Exception as error:  # from the network, the Hub, the disk and the transfer library alike
        raise CheckpointError(_advice(error, str(model), _size(variant, parts), local_only)) from error
    paths = [Path(folder) / file for file in files]
    missing = [file for file, path in zip(files, paths, strict=True) if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{repository} has no {', '.join(missing)} at this revision: try another variant than {variant}, or "
            "another revision"
        )
    for path in paths:
        _check_arrival(path, begun)
    return Path(folder)


def _check_arrival(path: Path, begun: float) -> None:
    """Remove a file that arrived after ``begun`` if it is not what its name in the cache, a SHA-256, says, and raise.

    The Hub's client compares sizes alone.
    """
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name) or blob.stat().st_mtime < begun - 2:
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} arrived damaged (its SHA-256 is {found[:12]}..., the Hub says {blob.name[:12]}...) and was "
            "removed: run again"
        )


def _files(variant: str | None, parts: Sequence[Part]) -> list[str]:
    """The files of a repository that make these networks."""
    dot = f".{variant}" if variant else ""
    places = [FOLDERS[part] for part in PARTS if part in parts]
    return [
        f"{folder}/{file}" for folder, stem in places for file in ("config.json", f"{stem}{dot}.safetensors")
    ]


def _size(variant: str | None, parts: Sequence[Part]) -> str:
    gigabytes = sum(_GIGABYTES[part] for part in parts)
    return f"{gigabytes / 2 if variant else gigabytes:.1f} GB"


def _local(path: Path) -> Path:
    path = path.expanduser()
    if os.path.exists(path):  # noqa: PTH110  # unlike Path's, False for a name too long to be one
        return path
    plain = str(path).lower().replace("_", "-").replace(".", "-").removesuffix("-safetensors")
    by_repository = {repository: name for name, repository in REPOSITORIES.items()}
    name = by_repository.get(str(path), plain)
    hint = f"; did you mean {name}?" if name in ("tiny", *REPOSITORIES) else ""
    raise CheckpointError(
        f"there is no file or folder {path}, and no model of that name{hint} "
        f"(names: tiny, {', '.join(REPOSITORIES)})"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes in turn. The Hub's client wraps the decisive one in 'not found locally'."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _advice(error: Exception, name: str, size: str, local_only: bool) -> str:
    """One sentence: what went wrong and what to do about it."""
    from huggingface_hub import errors

    repository, page = REPOSITORIES[name], f"https://huggingface.co/{REPOSITORIES[name]}"
    elsewhere = "or give the path of a .safetensors file or diffusers folder instead of a name"
    chain = list(_causes(error))
    texts = " ".join(str(cause) for cause in chain)
    status = next((code for cause in chain if (code := _status(cause))), 0)

    def caused(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    def named(*names: str) -> bool:
        # compared by name: the Hub's client has changed its HTTP library twice
        return any(part in type(cause).__name__ for cause in chain for part in names)

    # the first that holds; a GatedRepoError is a RepositoryNotFoundError too, so it is asked about first
    cases = (
        (
            caused(errors.GatedRepoError),
            f"{repository} is gated: accept the licence at {page}, then run `hf auth login`",
        ),
        (
            "No space left" in texts or any(getattr(cause, "errno", None) == errno.ENOSPC for cause in chain),
            f"the disk is full: {name} needs {size}; make room, or set HF_HOME to a folder on a larger disk",
        ),
        (
            status == 401 or caused(errors.LocalTokenNotFoundError),
            f"the Hub wants a valid token for {repository} (none was given, or it has expired): accept the licence "
            f"at {page}, then run `hf auth login`",
        ),
        (
            status == 403,
            f"this token may not read {repository}: accept the licence at {page} with the same account, and give a "
            "fine-grained token the right to read gated repositories",
        ),
        (
            caused(errors.RevisionNotFoundError),
            f"{repository} has no such revision: its commits are listed at {page}/commits/main",
        ),
        (
            status == 404,
            f"{repository} was not found on the Hub: see whether {page} opens and HF_ENDPOINT is right",
        ),
        (
            status == 429,
            "the Hub allows no more requests for now: run again in some minutes, `hf auth login` helps",
        ),
        (
            local_only,
            f"{name} is not whole on this machine and the network was not to be used: allow it, {elsewhere}",
        ),
        (
            caused(errors.OfflineModeIsEnabled),
            f"{name} is not whole on this machine and HF_HUB_OFFLINE is set: unset it, {elsewhere}",
        ),
        (
            caused(TimeoutError) or named("Timeout"),
            "the Hub did not answer in time: run again, files that have arrived are kept",
        ),
        (status >= 500, f"the Hub is in trouble (status {status}): run again later, {elsewhere}"),
        (
            caused(PermissionError),
            f"the download folder cannot be written ({_first_line(error)}): set HF_HOME to one that can",
        ),
        (
            caused(errors.FileMetadataError, json.JSONDecodeError, AssertionError, KeyError, TypeError)
            or 300 <= status < 400,
            f"what answers in the place of the Hub is none ({_first_line(chain[-1])}): look for a login page of the "
            f"network, and at HF_ENDPOINT, {elsewhere}",
        ),
        (
            "Consistency check failed" in texts or named("ReadError", "RemoteProtocolError"),
            "the connection was cut in the middle of a file: run again, files that have arrived are kept",
        ),
        (
            caused(errors.LocalEntryNotFoundError, ConnectionError)
            or named("ConnectError", "ConnectionError", "NetworkError", "ProxyError", "SSLError")
            # after a failed connection the client closes the session under its other threads
            or "client has been closed" in texts
            or "no attribute 'request'" in texts,
            f"the Hub cannot be reached and {name} is not whole on this machine: check the network, {elsewhere}",
        ),
        (True, f"{repository} could not be fetched ({_first_line(error)}): run again, {elsewhere}"),
    )
    return next(advice for holds, advice in cases if holds)


def _status(error: BaseException) -> int | None:
    """The HTTP status of whichever client library's error this is."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
