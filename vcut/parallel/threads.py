"""One clip on two threads of this process: for a model of small layers on a CPU.

Threads that share a layer, as torch's own do, meet at its end. Where waking a thread takes about as long as a layer,
much of what the second one gives is lost (docs/benchmarks.md, *Threads that wait*). Here each thread has layers of
its own: those of a branch of guidance, or, where there is one branch and in the decoder, those of half the frames.
They meet at the end of a step, or at the temporal layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import torch
from torch import Tensor

from vcut.conditioning import Conditioning, bind
from vcut.parallel.team import Team, shared_unet, shared_vae
from vcut.pipeline import Pipeline
from vcut.sampling import Branch, Network
from vcut.settings import Run

Post = SimpleQueue[Tensor | BaseException]


@dataclass(frozen=True)
class ThreadTeam(Team):
    """Threads that share frames: ``posts[i][j]`` brings tensors from thread i to thread j."""

    posts: Sequence[Sequence[Post]] = field(kw_only=True)

    def gathered(self, x: Tensor) -> Tensor:
        return torch.stack(self._swapped([x] * self.size))

    def _exchange(self, received: Tensor, sent: Tensor, coming: list[int], going: list[int]) -> None:
        torch.cat(self._swapped(sent.split(going)), out=received)

    def _swapped(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Give each thread its part; return the parts that this one is given."""
        for post, part in zip(self.posts[self.number], parts, strict=True):
            post.put(part)
        return [self._taken(posts[self.number]) for posts in self.posts]

    @staticmethod
    def _taken(post: Post) -> Tensor:
        if isinstance(found := post.get(), BaseException):
            raise found
        return found

    @torch.no_grad()  # a setting of the thread
    def do(self, compute: Callable[[Team], Tensor]) -> Tensor:
        """Do this thread's part of a computation. An error ends the others' parts too."""
        try:
            return compute(self)
        except BaseException as error:
            for post in self.posts[self.number]:
                post.put(error)
            raise


def _teams(size: int) -> list[ThreadTeam]:
    """The team as each of its threads sees it."""
    posts = [[Post() for _ in range(size)] for _ in range(size)]
    return [ThreadTeam(size, number, posts=posts) for number in range(size)]


@dataclass(frozen=True, repr=False)
class OnTwoThreads(Pipeline):
    """A pipeline of which two threads compute a half each; see :class:`vcut.pipeline.Pipeline`."""

    def _bound(self, conditioning: Conditioning, run: Run) -> Network:
        if run.settings.sequential:
            return super()._bound(conditioning, run)
        unet, frames = self.placed(self.unet), run.frames
        whole = bind(unet, conditioning, run.plan, frames, sequential=True)
        single = tuple(step for step in run.plan if not step.guided)
        teams = _teams(min(2, frames))
        halves = [bind(shared_unet(unet, team, frames), conditioning, single, frames) for team in teams]
        threads = ThreadPoolExecutor(2)  # they end with the network

        def network(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
            if len(branches) > 1:
                of_branch = torch.no_grad()(lambda branch: whole(x, c_noise, (branch,)))
                return torch.cat(list(threads.map(of_branch, branches)))

            def of_team(team: Team) -> Tensor:
                return halves[team.number](x[:, team.own(frames)], c_noise, branches)

            return torch.cat(list(threads.map(lambda team: team.do(of_team), teams)), dim=2)

        return network

    def _decoded(self, latents: Tensor, chunk: int | None) -> Tensor:
        vae = self.placed(self.vae)
        vae.check_latents(latents, chunk)

        def decoded(z: Tensor) -> Tensor:
            """Frames ``[f, 3, H, W]`` of the latents ``[f, 4, h, w]`` of one chunk."""

            def of_team(team: Team) -> Tensor:
                return shared_vae(vae, team, len(z)).decode(z[None, team.own(len(z))])[0]

            return torch.cat(list(threads.map(lambda team: team.do(of_team), _teams(min(2, len(z))))))

        with ThreadPoolExecutor(2) as threads:
            clips = [[decoded(z) for z in clip.split(chunk or len(clip))] for clip in latents]
        return torch.stack([torch.cat(clip) for clip in clips])


def on_two_threads(pipe: Pipeline) -> Pipeline:
    """The same model, which two threads compute: faster where its layers are small, and slower where they are not.

    Call ``torch.set_num_threads(1)`` first: each of the two has so many threads. The output is that of one thread up
    to rounding, and the same in every run. Runs that ask for ``sequential`` take one thread for each evaluation.
    """
    return OnTwoThreads(**vars(pipe))
