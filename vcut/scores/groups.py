"""Groups of measures: what is computed together, of what, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vcut.errors import MediaError
from vcut.scores import consistency as equations
from vcut.scores import fidelity
from vcut.scores.cache import Measure, Scores
from vcut.scores.features import Encoder
from vcut.sweeps.manifest import Record


@dataclass(frozen=True)
class Clip:
    """A clip to score. What is not needed by every measure is read when it is asked for."""

    record: Record
    # [f, 3, H, W] in 0..1
    frames: Tensor
    # [3, H, W] in 0..1, as the model saw it
    picture: Callable[[], Tensor]
    # frames of the baseline's clip of the same name and number
    reference: Callable[[], Tensor]


@dataclass(frozen=True)
class Group:
    """Measures that are computed together; ``name`` is that of their file.

    ``source`` gives what a score depends on besides the clip, or None if the clip cannot have it.
    """

    name: str
    measures: tuple[Measure, ...]
    source: Callable[[Record], str | None]
    score: Callable[[Clip], Scores]
    needs_picture: bool = False
    needs_reference: bool = False


def pixels() -> Group:
    """Flicker, which needs nothing but the frames."""
    measure = Measure("temporal_flicker_vbench_style", "Temporal flicker", "higher", "pixels")

    def score(clip: Clip) -> Scores:
        return {measure.name: 100 * equations.flicker(clip.frames)}

    return Group("pixels", (measure,), lambda record: "" if record.frames > 1 else None, score)


def consistency(
    name: str, subject: str, encoder: Encoder, *, clip: bool, mix: Encoder | None = None
) -> Group:
    """Consistency of the frames and with the picture: equations 5 and 6, or 7 and 8, as the encoder decides.

    Args:
        name: of the group; one that does not clip is another group.
        subject: what the encoder looks at: ``"subject"``, ``"background"``, ``"CLIP"``.
        encoder: what turns frames into features.
        clip: negative cosines count as 0, as in VBench.
        mix: encoder for VBench's mix of cosines; without one there is no mix.
    """
    style, key = "vbench_style" if clip else "unclipped", subject.lower()
    label = f"{subject[0].upper()}{subject[1:]} consistency"
    inner = Measure(f"{key}_consistency_{style}", label, "higher", encoder.label)
    outer = replace(inner, name=f"video_image_{inner.name}", label=f"Video-image {subject} consistency")
    mixed = replace(inner, name=f"i2v_{key}_vbench_style", label=f"I2V {subject}")

    def score(scored: Clip) -> Scores:
        frames, picture = scored.frames, scored.picture()[None]
        features, reference = encoder.features(frames), encoder.features(picture)[0]
        scores: Scores = {
            inner.name: 100 * equations.consistency(features, clip=clip),
            outer.name: 100 * equations.reference_consistency(features, reference, clip=clip),
        }
        if mix is not None:
            if mix is not encoder:
                features, reference = mix.features(frames), mix.features(picture)[0]
            scores[mixed.name] = 100 * equations.i2v_mix(features, reference)
        return scores

    def source(record: Record) -> str | None:
        fits = record.frames > 1
        return f"{encoder.sha256}, picture {record.image_sha256}, {style}" if fits else None

    measures = (inner, outer, mixed) if mix is not None else (inner, outer)
    return Group(name if clip else f"{name}-unclipped", measures, source, score, needs_picture=True)


def baseline_fidelity(
    out: Path, baseline: str, clips: Mapping[tuple[str, int], Record], *, with_ssim: bool = True
) -> Group:
    """Fidelity to the clips of a baseline setting, which are given by name and number.

    Those of another seed or shape are not compared frame by frame.
    """
    psnr = Measure("psnr", "PSNR", "higher", baseline, "dB")
    ssim = replace(psnr, name="ssim", label="SSIM", unit="")
    latents = replace(psnr, name="latent_distance", label="Latent distance", better="lower", unit="")

    def source(record: Record) -> str | None:
        reference = clips.get((record.name, record.index))
        alike = ("seed", "frames", "height", "width")
        if reference is None or record.setting == baseline:
            return None
        if any(getattr(record, name) != getattr(reference, name) for name in alike):
            return None
        kept = record.latents and reference.latents
        return f"{reference.file_sha256}{', latents' if kept else ''}{'' if with_ssim else ', no SSIM'}"

    def score(clip: Clip) -> Scores:
        record, reference = clip.record, clips[clip.record.name, clip.record.index]
        frames = clip.reference()
        scores: Scores = {
            psnr.name: fidelity.psnr(clip.frames, frames),
            "psnr_curve": fidelity.psnr_curve(clip.frames, frames),
        }
        if with_ssim:
            scores[ssim.name] = fidelity.ssim(clip.frames, frames)
        if record.latents and reference.latents:
            ours, theirs = (_latents(out / path) for path in (record.latents, reference.latents))
            scores[latents.name] = fidelity.latent_distance(ours, theirs)
        return scores

    return Group("fidelity", (psnr, ssim, latents), source, score, needs_reference=True)


def _latents(file: Path) -> Tensor:
    try:
        return load_file(file)["latents"]
    except (OSError, SafetensorError, LookupError) as error:
        # the records of older sweeps have no hash of them
        raise MediaError(f"{file} holds no latents ({error}): remove it and run the sweep again") from error
