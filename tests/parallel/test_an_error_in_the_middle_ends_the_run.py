"""After an error in a call that is shared the others wait in the middle of it: nothing more is asked of them."""

from __future__ import annotations

import pytest
import torch
from micro import micro
from ranks import made_up

from vcut.errors import ConfigError, OutOfMemoryError, PeerError
from vcut.parallel.world import Leader, Load, World


def test_nothing_more_is_told() -> None:
    with made_up(2):
        world = World()
        with world.told(Load()):
            pass
        with pytest.raises(ZeroDivisionError), world.told(Load()):
            raise ZeroDivisionError
        with pytest.raises(PeerError, match="start the run again"), world.told(Load()):
            pytest.fail("the block was entered")


def test_latents_that_cannot_be_decoded_again_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with made_up(2):
        leader = Leader(**vars(micro()), world=World())
        monkeypatch.setattr(Leader, "_decoded", full)
        with pytest.raises(OutOfMemoryError, match="decoding does not fit into memory") as found:
            leader.decode(torch.zeros(1, 3, 4, 4, 4))
        assert found.value.latents is None


def test_a_shared_model_stays_as_every_process_loaded_it() -> None:
    with made_up(2), pytest.raises(ConfigError, match="several processes hold this model"):
        Leader(**vars(micro()), world=World()).to("cpu")
