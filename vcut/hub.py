"""Find a checkpoint: a file or folder on this machine, or one of Stability AI's repositories on the Hub."""

from __future__ import annotations

import errno
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
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def find(
    model: str | Path,
    *,
    variant: str | None = None,
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
        parts: the networks to fetch, by default all three.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be fetched; the message says what to do.
        ConfigError: there is no such variant.
    """
    if variant not in _VARIANTS:
        raise ConfigError(f"variant must be None or 'fp16', got {variant!r}")
    if str(model) not in REPOSITORIES or isinstance(model, Path):
        return _local(Path(model))
    repository = REPOSITORIES[str(model)]
    files = _files(variant, parts)
    # imported here, since a local file needs none of it
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            allow_patterns=[*files, "LICENSE*"],
            token=token,
            local_files_only=local_only,
        )
    except Exception as error:  # from the network, the Hub, the disk and the transfer library alike
        raise CheckpointError(_advice(error, str(model), _size(variant, parts), local_only)) from error
    missing = [file for file in files if not (Path(folder) / file).exists()]
    if missing:
        raise CheckpointError(
            f"{repository} was fetched without {', '.join(missing)}; "
            f"delete {folder} and run again, or try another variant than {variant}"
        )
    return Path(folder)


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
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened: use the .safetensors file"
        )
    if path.is_file():
        raise CheckpointError(f"{path} is not a .safetensors file")
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
    status = next((code for cause in chain if (code := _status(cause))), None)

    # a GatedRepoError is a RepositoryNotFoundError too, so it is asked about first
    if any(isinstance(cause, errors.GatedRepoError) for cause in chain):
        return f"{repository} is gated: accept the licence at {page}, then run `hf auth login`"
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in chain) or "No space left" in texts:
        return (
            f"the disk is full: {name} needs {size}; make room, or set HF_HOME to a folder on a larger disk"
        )
    if status == 401 or any(isinstance(cause, errors.LocalTokenNotFoundError) for cause in chain):
        return (
            f"the Hub wants a valid token for {repository} (none was given, or it has expired): "
            f"accept the licence at {page}, then run `hf auth login`"
        )
    if status == 403:
        return (
            f"this token may not read {repository}: accept the licence at {page} with the same account, "
            "and give a fine-grained token the right to read gated repositories"
        )
    if status == 404:
        return f"{repository} was not found on the Hub: see whether {page} opens and HF_ENDPOINT is right"
    if status == 429:
        return "the Hub allows no more requests for now: run again in some minutes, `hf auth login` helps"
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in chain):
        return f"{name} is not on this machine and HF_HUB_OFFLINE is set: unset it, {elsewhere}"
    if local_only:
        return f"{name} is not on this machine and the network was not to be used: allow it, {elsewhere}"
    if any(isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__ for cause in chain):
        return "the Hub did not answer in time: run again, what has arrived is kept"
    if status is not None and status >= 500:
        return f"the Hub is in trouble (status {status}): run again later, {elsewhere}"
    if any(isinstance(cause, PermissionError) for cause in chain):
        return f"the download folder cannot be written ({_first_line(error)}): set HF_HOME to one that can"
    if any(_is_network(cause) for cause in chain):
        return f"the Hub cannot be reached and {name} is not on this machine: check the network, {elsewhere}"
    return f"{repository} could not be fetched ({_first_line(error)}): run again, {elsewhere}"


def _status(error: BaseException) -> int | None:
    """The HTTP status of whichever client library's error this is."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_network(error: BaseException) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError

    # compared by name: the Hub's client has changed its HTTP library twice
    return isinstance(error, LocalEntryNotFoundError | ConnectionError) or type(error).__name__ in (
        "ConnectError",
        "ConnectionError",
        "NetworkError",
        "ProxyError",
        "ReadError",
        "RemoteProtocolError",
        "SSLError",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
