"""Settings of a run as one value, and what follows from them for one model.

:class:`Settings` is the only list of a run's settings: the keywords of :meth:`vcut.pipeline.Pipeline.generate`, the
options of the command, the cost of a run and the manifest of a sweep are all made from its fields. It checks
whatever can be checked without a model. :func:`resolve` adds the model and the preset, and gives a :class:`Run`:
every number filled in, the plan of the steps, and what they cost.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vcut.config import (
    LARGEST,
    Defaults,
    Fit,
    Preset,
    Sampler,
    SigmaName,
    SVDConfig,
    number,
    whole_number,
)
from vcut.errors import ConfigError, UnknownSettingError
from vcut.sampling import (
    MEAN,
    Branch,
    Churn,
    Guidance,
    Mix,
    Plan,
    Ramp,
    Summary,
    branch_of,
    check_sampler,
    check_sigmas,
    frame_scales,
    named_sigmas,
    plan,
    scale_of,
    summarize,
    without_guidance,
)

LARGEST_SEED = 2**63 - 1

OTHER_NAMES = {
    "num_frames": "frames",
    "video_frames": "frames",
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "sampler_name": "sampler",
    "scheduler": "sampler or sigmas",
    "use_karras_sigmas": 'sigmas="karras"',
    "min_guidance_scale": "guidance=(minimum, maximum)",
    "max_guidance_scale": "guidance=(minimum, maximum)",
    "min_cfg": "guidance=(minimum, maximum)",
    "cfg": "guidance=(minimum, maximum)",
    "fps_id": "fps=fps_id + 1",
    "motion_bucket_id": "motion_bucket",
    "noise_aug_strength": "noise_aug",
    "cond_aug": "noise_aug",
    "augmentation_level": "noise_aug=2 * augmentation_level",
    "decode_chunk_size": "decode_chunk",
    "chunk": "decode_chunk",
    "decoding_t": "decode_chunk",
    "num_videos_per_prompt": "clips",
    "generator": "seed",
    "latents": "noise",
    "callback_on_step_end": "callback",
    "callback_on_step_end_tensor_inputs": "callback, whose record has everything",
    "init_image": "image, the first argument",
    "input_path": "image, the first argument",
    "output_type": "vcut.media.to_pil(frames) or vcut.media.to_bytes(frames)",
    "return_dict": "the tensor that generate returns",
}
"""Our names for the arguments of diffusers, of the official script and of ComfyUI (docs/coming_from.md)."""


def _setting(default: Any, says: str, usual: str | None = None) -> Any:
    """A field, the sentence that explains it wherever it is offered, and its default in words."""
    return field(default=default, metadata={"says": says, "usual": usual or str(default)})


@dataclass(frozen=True)
class Settings:
    """Settings of a run. Equal settings, weights and pictures make equal clips, to rounding.

    None stands for what the model was made for, and is filled in by :func:`vcut.settings.resolve`. Numbers may be of
    any numeric type, counts of any whole one, sequences of any kind; they are stored as plain numbers and tuples. A
    value that a setting cannot have raises :class:`ConfigError`, which names the setting, the expected and the found.
    """

    frames: int | None = _setting(
        None, "frames of a clip", "the model's: 14 of tiny, 14 or 25 of the published"
    )
    height: int | None = _setting(
        None,
        "height of the frames in pixels, a multiple of 64 for the published models",
        "the model's: 64 of tiny, 576",
    )
    width: int | None = _setting(
        None,
        "width of the frames in pixels, a multiple of 64 for the published models",
        "the model's: 64 of tiny, 1024",
    )
    fit: Fit = _setting(
        "crop",
        "how a picture of another shape becomes that size: crop fills the frame and cuts, resize squashes, pad adds "
        "black bars",
    )
    steps: int = _setting(25, "number of denoising steps N")
    sampler: Sampler = _setting(
        "euler",
        "how a step goes on to the next noise level: euler is of first order, heun of second at two evaluations a "
        "step but the last, dpmpp_2m of second at one; lcm is for models distilled to few steps",
    )
    sigmas: SigmaName | Sequence[float] = _setting(
        "karras",
        "noise levels: karras, or ays, which Align Your Steps found best for 10 steps; in Python and in a table of "
        "settings also falling numbers of your own, one for each step",
    )
    cut: int | Literal["preset"] | None = _setting(
        "preset",
        "first step without guidance, counted from 1; N + 1 or none never cuts",
        "the preset's, of vcut 17 of 25",
    )
    after: Branch | tuple[Mix, Mix] = _setting(
        MEAN,
        "context and latents of the single pass of a cut step, each cond, mean or uncond",
        "mean and cond",
    )
    embedding: Collection[int] | None = _setting(
        None,
        "numbers of the steps whose passes are given the image embedding; the others are given zeros (the paper's "
        "figure 2)",
        "all",
    )
    guidance: Guidance = _setting(
        Ramp(),
        "guidance scale at the first and at the last frame, linear between; or one scale for all frames; or a "
        "vcut.sampling.Ramp; or a function of the number of frames",
        "1.0 and 3.0",
    )
    guidance_interval: tuple[float, float] | None = _setting(
        None,
        "lowest and highest noise level at which steps are guided (Kynkaanniemi et al. 2024); the others before the "
        "cut take one pass, with all of the embedding",
        "all levels",
    )
    fps: int | None = _setting(
        None,
        "frames per second of the clip; the model is told this number - 1",
        "the model's: 12 of tiny, 7 of the published",
    )
    motion_bucket: int | None = _setting(
        None, "amount of motion, from 0 to about 255; a higher number moves more", "the model's, 127"
    )
    noise_aug: float = _setting(
        0.02,
        "standard deviation of the noise that is added to the picture (in -1..1); with more the clip follows the "
        "picture less",
    )
    churn: Churn | None = _setting(
        None, "fresh noise at each step (EDM, algorithm 2), as a vcut.sampling.Churn", "none"
    )
    decode_chunk: int | None = _setting(
        14,
        "frames decoded at a time, none for all; fewer need less memory and change the frames a little",
    )
    sequential: bool = _setting(
        False,
        "run the two passes of a guided step one after the other: slower, less memory, equal output to rounding",
    )
    seed: int | Sequence[int] = _setting(
        0, "clip i of each picture is made from seed + i; or one seed for each clip"
    )
    clips: int | None = _setting(None, "clips of each picture", "1")

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width", "fps", "decode_chunk", "clips"):
            self._keep(name, _optional_whole(name, getattr(self, name)))
        self._keep("steps", whole_number("steps", self.steps, most=LARGEST))
        self._keep("motion_bucket", _optional_whole("motion_bucket", self.motion_bucket, least=0))
        self._keep("noise_aug", number("noise_aug", self.noise_aug, 0, LARGEST))
        if not (isinstance(self.fit, str) and self.fit in get_args(Fit)):
            raise ConfigError(f"fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        if not isinstance(self.sigmas, str):
            self._keep("sigmas", tuple(check_sigmas(self.sigmas).tolist()))
            if self.steps not in (DEFAULTS["steps"], len(self.sigmas) - 1):
                raise ConfigError(
                    f"{len(self.sigmas) - 1} sigmas (the final 0 aside) are as many steps, got steps={self.steps}"
                )
            self._keep("steps", len(self.sigmas) - 1)
        self.levels()
        if not (self.cut is None or (isinstance(self.cut, str) and self.cut == "preset")):
            self._keep("cut", whole_number("cut", self.cut, most=self.steps + 1))
        self._keep("after", branch_of(self.after))
        if self.embedding is not None:
            self._keep("embedding", _step_numbers(self.embedding, self.steps))
        self._keep("guidance", scale_of(self.guidance))
        if self.guidance_interval is not None:
            self._keep("guidance_interval", _interval(self.guidance_interval))
        if self.churn is not None:
            self._keep("churn", _churn(self.churn))
        check_sampler(self.sampler, self.churn)
        if not isinstance(self.sequential, bool):
            raise ConfigError(f"sequential must be True or False, got {self.sequential!r}")
        self._keep("seed", check_seeds(self.seed))

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def levels(self) -> tuple[float, ...]:
        """N falling noise levels and the final 0."""
        if isinstance(self.sigmas, str):
            return tuple(named_sigmas(self.sigmas, self.steps, self.sampler).tolist())
        return tuple(self.sigmas)

    def replace(self, **changes: Any) -> Settings:
        """The same settings with some changed. New ``steps`` take the place of old ``sigmas`` that are numbers.

        Raises:
            UnknownSettingError: a name that is no setting; the message has the nearest one.
            ConfigError: a value that a setting cannot have.
        """
        check_names(changes)
        if "steps" in changes and isinstance(self.sigmas, tuple):
            changes.setdefault("sigmas", DEFAULTS["sigmas"])
        if not isinstance(changes.get("sigmas", ""), str):
            changes.setdefault("steps", DEFAULTS["steps"])
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as plain JSON values; :meth:`from_dict` reads them back.

        Raises:
            ConfigError: guidance is a function of the caller's own, which no file can hold.
        """
        changed = {name: getattr(self, name) for name in NAMES if getattr(self, name) != DEFAULTS[name]}
        if isinstance(self.sigmas, tuple):
            changed.pop("steps", None)
        return {name: _plain(name, value) for name, value in changed.items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Settings:
        """Settings from names and plain values, as in JSON or TOML; what is left out has its default.

        The word ``'none'`` is read as None, which TOML cannot say.

        Raises:
            UnknownSettingError: a name that is no setting.
            ConfigError: a value that a setting cannot have.
        """
        check_names(data)
        values: dict[str, Any] = {
            name: None if isinstance(value, str) and value == "none" else value
            for name, value in data.items()
        }
        return Settings(**values)


NAMES = tuple(each.name for each in dataclasses.fields(Settings))
"""Names of all settings."""

DEFAULTS = {each.name: each.default for each in dataclasses.fields(Settings)}
"""Default of each setting."""

SAYS = {
    each.name: f"{each.metadata['says']} (default: {each.metadata['usual']})"
    for each in dataclasses.fields(Settings)
}
"""The sentence that explains each setting, with its default: for docstrings and help texts."""


def _described(text: str | None) -> str:
    """A docstring with a list of all settings at its end."""
    lines = (
        textwrap.fill(f"{name}: {says}", 104, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, says in SAYS.items()
    )
    return "\n".join([inspect.cleandoc(text or ""), "", "Attributes:", *lines])


Settings.__doc__ = _described(Settings.__doc__)

OFFICIAL: dict[int, dict[str, Any]] = {
    14: {"steps": 25, "guidance": Ramp(1.0, 2.5)},
    25: {"steps": 30, "guidance": Ramp(1.5, 3.0)},
}
"""Settings of Stability's script and its configurations (generative-models, scripts/sampling), by the number of
frames that a model was made for: 14 of svd, 25 of svd-xt and svd-xt-1-1."""


FAST: dict[str, Any] = {"steps": 10, "sigmas": "ays", "cut": None, "guidance_interval": (0.3, 25.0)}
"""A rule of vcut's own, not the paper's: 16 passes of the UNet in place of 50. The levels are those of Align Your
Steps, and guidance is kept to an interval of them. It was found on the model in the box (docs/better-cut.md)."""


def defaults(name: Defaults, config: SVDConfig) -> Settings:
    """Settings to start from, by name.

    ``paper`` is ``Settings()``, as in diffusers; ``official`` is :data:`OFFICIAL`; ``fast`` is :data:`FAST`, from
    which the preset ``fast`` starts.

    ``defaults("official", svd.config).replace(steps=20)`` has all but the steps from Stability.

    Raises:
        ConfigError: there is no such name, or nothing official for a model of so many frames.
    """
    if name not in get_args(Defaults):
        raise ConfigError(f"defaults must be one of {', '.join(get_args(Defaults))}, got {name!r:.300}")
    if name == "paper":
        return Settings()
    if name == "fast":
        return Settings(**FAST)
    if config.frames not in OFFICIAL:
        raise ConfigError(
            f"there are official defaults for models of {' and '.join(map(str, OFFICIAL))} frames, and "
            f"{config.name} has {config.frames}: take the defaults paper"
        )
    return Settings(**OFFICIAL[config.frames])


@dataclass(frozen=True)
class Run:
    """Settings with one model and one preset: every number known before the first step.

    ``plan`` is what :func:`vcut.sampling.sample` takes; at guidance 1 on every frame its guided steps have one pass.
    """

    settings: Settings
    preset: Preset
    frames: int
    height: int
    width: int
    fps: int
    motion_bucket: int
    # N falling levels and the final 0
    sigmas: tuple[float, ...]
    # first step without guidance, N + 1 if there is none
    cut: int
    plan: Plan
    # guidance of each frame
    scales: tuple[float, ...]
    # frames, channels, height and width of a clip's latents
    latent: tuple[int, int, int, int]

    @property
    def passes(self) -> Summary:
        """Cost of the steps, in passes of the UNet."""
        return summarize(self.plan, self.settings.sampler)

    @property
    def sampling(self) -> str:
        """Steps and guidance in words."""
        return f"{self.settings.steps} steps, guidance {min(self.scales):g} to {max(self.scales):g}"

    @property
    def lossy(self) -> bool:
        """Whether the form or the plan leaves out something that the published model computes."""
        whole = plan(self.settings.steps)
        if all(scale == 1 for scale in self.scales):
            whole = without_guidance(whole)
        kept = [step.branches for step in self.plan] == [step.branches for step in whole]
        return self.preset.lossy or not kept

    @property
    def summary(self) -> str:
        """One line: the preset, what it leaves out of the published model, and what the steps cost."""
        return f"{self.preset.name}{' (lossy)' if self.lossy else ''}: {self.preset.form}, {self.passes}"


def resolve(settings: Settings, config: SVDConfig, preset: Preset) -> Run:
    """Fill in what the model and the preset decide, and check the settings against them.

    Raises:
        ConfigError: a size that is no multiple of the model's stride, guidance that is not one number per frame.
    """
    frames = settings.frames or config.frames
    height, width = settings.height or config.height, settings.width or config.width
    check_size(height, width, config.stride)
    given = 2 * config.vae.latent_channels
    if (config.unet.in_channels, config.unet.out_channels) != (given, config.vae.latent_channels):
        raise ConfigError(
            f"the UNet takes {config.unet.in_channels} channels and gives {config.unet.out_channels}; clips are made "
            f"from {given}, noisy latents and the picture's. What the others are only its own project knows: call "
            "the UNet itself, as pipe.unet"
        )
    steps = settings.steps
    cut = preset.cut_step(steps) if settings.cut == "preset" else settings.cut
    sigmas = settings.levels()
    low, high = settings.guidance_interval or (0.0, math.inf)
    # levels are computed, and an end of the interval may be meant to be one
    guided = [
        number
        for number, sigma in enumerate(sigmas[:-1], start=1)
        if low * (1 - 1e-9) <= sigma <= high * (1 + 1e-9)
    ]
    evaluated = plan(steps, cut, settings.after, settings.embedding, guided)
    scales = tuple(frame_scales(scale_of(settings.guidance), frames).tolist())
    if all(scale == 1 for scale in scales):
        evaluated = without_guidance(evaluated)
    return Run(
        settings=settings,
        preset=preset,
        frames=frames,
        height=height,
        width=width,
        fps=settings.fps or config.fps,
        motion_bucket=config.motion_bucket if settings.motion_bucket is None else settings.motion_bucket,
        sigmas=sigmas,
        cut=steps + 1 if cut is None else cut,
        plan=evaluated,
        scales=scales,
        latent=(frames, config.vae.latent_channels, height // config.vae.stride, width // config.vae.stride),
    )


def beyond(run: Run, config: SVDConfig) -> str | None:
    """A sentence about a run that is far larger than what the model was made for, None if it is not."""
    times = run.frames * run.height * run.width / (config.frames * config.height * config.width)
    if times <= 4:
        return None
    return (
        f"{config.name} was made for {config.frames} frames of {config.width}x{config.height}: {run.frames} of "
        f"{run.width}x{run.height} are {times:,.0f} times as many pixels, and look like nothing it has learnt"
    )


def check_size(height: int, width: int, stride: int) -> None:
    """Raise :class:`ConfigError` unless both sides are positive multiples of ``stride``, naming the nearest."""
    faults = []
    for side, size in (("height", height), ("width", width)):
        if size < 1 or size % stride:
            below, above = size // stride * stride, (size // stride + 1) * stride
            near = f"{below} or {above}" if below > 0 else f"{stride}"
            faults.append(f"{side} {size} is not a multiple of {stride} (nearest: {near})")
    if faults:
        raise ConfigError("; ".join(faults))


def check_names(given: Collection[str], known: Collection[str] = NAMES) -> None:
    """Raise :class:`UnknownSettingError` for the first of ``given`` that is not known, with the nearest that is."""
    for name in given:
        if name in known:
            continue
        hint = OTHER_NAMES.get(name)
        if hint is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = near[0] if near else None
        advice = f"did you mean {hint}?" if hint else f"choose from {', '.join(known)}"
        raise UnknownSettingError(f"there is no setting {name!r}: {advice}")


def _optional_whole(name: str, value: object, least: int = 1) -> int | None:
    return None if value is None else whole_number(name, value, least, LARGEST)


def _interval(levels: Any) -> tuple[float, float]:
    try:
        low, high = levels
    except (TypeError, ValueError):
        raise ConfigError(f"guidance_interval must be two noise levels, got {levels!r}") from None
    low, high = (number("guidance_interval", level, 0, LARGEST) for level in (low, high))
    if low > high:
        raise ConfigError(f"guidance_interval must be the lowest noise level and the highest, got {levels!r}")
    return low, high


def _step_numbers(numbers: Any, steps: int) -> tuple[int, ...]:
    try:
        return tuple(sorted({whole_number("a step with embedding", n, most=steps) for n in numbers}))
    except TypeError:
        raise ConfigError(f"embedding must be a list of step numbers, got {numbers!r}") from None


def _churn(churn: Any) -> Churn:
    try:
        return churn if isinstance(churn, Churn) else Churn(**dict(churn))
    except ConfigError:
        raise
    except (TypeError, ValueError):
        raise ConfigError(f"churn must be a vcut.sampling.Churn or have its fields, got {churn!r}") from None


def check_seed(value: Any) -> int:
    """A seed as a plain number; :class:`ConfigError` unless torch's generators take it."""
    return whole_number("a seed", value, least=0, most=LARGEST_SEED)


def check_seeds(seed: Any) -> int | tuple[int, ...]:
    """One seed, or one for each clip as a tuple; :class:`ConfigError` unless torch's generators take them."""
    several = isinstance(seed, Sequence) and not isinstance(seed, str | bytes)
    if not (several or getattr(seed, "ndim", 0) == 1):
        return whole_number("seed", seed, least=0, most=LARGEST_SEED)
    if not len(seed):
        raise ConfigError("seed must be a whole number, or one for each clip, got none")
    return tuple(check_seed(value) for value in seed)


def _plain(name: str, value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, Ramp):
        return dataclasses.asdict(value)
    if isinstance(value, Churn):
        return {key: each for key, each in dataclasses.asdict(value).items() if math.isfinite(each)}
    if isinstance(value, Branch):
        return value._asdict()
    if isinstance(value, tuple):
        return list(value)
    if callable(value):
        raise ConfigError(
            f"{name} is a function, which no file can hold: give two numbers or a vcut.sampling.Ramp"
        )
    return value
