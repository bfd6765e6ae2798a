"""One clip made by several processes, each with a GPU of its own: equal to the clip of one process.

``team`` shares the frames of a clip among ranks, ``world`` starts, leads and ends them.
"""

from vcut.parallel.team import Team, shared_unet, shared_vae
from vcut.parallel.world import together

__all__ = ["Team", "shared_unet", "shared_vae", "together"]
