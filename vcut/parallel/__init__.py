"""One clip made in parallel.

``team`` and ``world`` share it among several processes, each with a GPU of its own: ``team`` shares the frames among
ranks, ``world`` starts, leads and ends them. ``threads`` shares it between two threads of one process.
"""

from vcut.parallel.team import Team, shared_unet, shared_vae
from vcut.parallel.threads import on_two_threads
from vcut.parallel.world import together

__all__ = ["Team", "on_two_threads", "shared_unet", "shared_vae", "together"]
