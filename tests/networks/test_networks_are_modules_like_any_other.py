"""What torch offers for any module works on these, in every form: copies, transforms, hooks, checkpoints, threads.

What does not work is refused by us, or by torch in its own words where no line of ours is involved.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO, micro
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from vcut.config import PRESETS, Level, UNetConfig
from vcut.errors import ConfigError
from vcut.layers import pack
from vcut.unet import UNet, fold
from vcut.unet.model import Layer
from vcut.vae import VAE
from vcut.vae.decoder import DecoderLevel, DecoderResnet

ROOT = Path(__file__).parents[2]
SMALL = UNetConfig(levels=(Level(32, 2),), layers=1, context_dim=24, time_id_dim=16)
G = torch.Generator().manual_seed(0)
X, CONTEXT, IDS = (
    torch.randn(1, 3, 8, 4, 6, generator=G),
    torch.randn(1, 1, 24, generator=G),
    torch.ones(1, 3),
)
FORMS = pytest.mark.parametrize("form", ["baseline", "lossless", "vcut"])


def unet(form: str = "lossless") -> UNet:
    torch.manual_seed(0)
    preset = PRESETS[form]
    return fold(UNet(SMALL).eval().requires_grad_(False), tca=preset.tca, sca=preset.sca)


def packed() -> UNet:
    made = unet()
    if not pack(made):
        pytest.skip("nothing to pack on this CPU")
    return made


def call(network: nn.Module, x: Tensor = X, context: Tensor = CONTEXT, ids: Tensor = IDS) -> Tensor:
    out: Tensor = network(x, 0.3, context, ids)
    return out


@FORMS
@torch.no_grad()
def test_a_batch_of_calls_is_the_calls(form: str) -> None:
    network, xs = unet(form), torch.stack([X, 2 * X])
    together = vmap(lambda x: call(network, x))(xs)
    torch.testing.assert_close(together, torch.stack([call(network, x) for x in xs]), rtol=1e-4, atol=1e-5)


@FORMS
def test_a_derivative_forwards_is_a_difference_of_calls(form: str) -> None:
    network, towards = unet(form).double(), torch.randn_like(X)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no forward mode
        _, found = jvp(lambda x: call(network, x), (X.double(),), (towards.double(),))
        with forward_ad.dual_level():
            again = forward_ad.unpack_dual(call(network, forward_ad.make_dual(X.double(), towards.double())))
    with torch.no_grad():
        ahead, behind = (call(network, X.double() + step * towards) for step in (1e-5, -1e-5))
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.tangent, found)


@FORMS
def test_gradients_reach_everything_that_is_trained(form: str) -> None:
    network = unet(form).requires_grad_(True)
    x, context = X.clone().requires_grad_(), CONTEXT.clone().requires_grad_()
    call(network, x, context).square().mean().backward()
    for tensor in (x, context, *network.parameters()):
        assert tensor.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad(lambda x: call(network, x).square().mean())(X))


@FORMS
def test_gradients_of_each_item_of_a_batch(form: str) -> None:
    network, xs = unet(form), torch.stack([X, 2 * X])
    weights = dict(network.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, weights, (x, 0.3, CONTEXT, IDS)).square().mean()

    each = vmap(grad(loss), (None, 0))(weights, xs)
    for i, x in enumerate(xs):
        for name, expected in grad(loss)(weights, x).items():
            torch.testing.assert_close(each[name][i], expected, rtol=1e-3, atol=1e-5)


@FORMS
def test_second_derivatives(form: str) -> None:
    network, x = unet(form), X.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
        (first,) = torch.autograd.grad(call(network, x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@FORMS
def test_a_copy_is_another_network_with_equal_calls(form: str) -> None:
    network = unet(form)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    copies: list[UNet] = [
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(buffer, weights_only=False),
    ]
    expected = call(network)
    for other in copies:
        assert torch.equal(call(other), expected)
        other.conv_out.bias.data.add_(1)
    assert torch.equal(call(network), expected)


@FORMS
def test_nothing_is_computed_on_the_meta_device_but_shapes(form: str) -> None:
    with torch.device("meta"):
        network = UNet(SMALL)
        network = fold(network, tca=PRESETS[form].tca, sca=PRESETS[form].sca)
    assert network(X.to("meta"), 0.3, CONTEXT.to("meta"), IDS.to("meta")).shape == (1, 3, 4, 4, 6)


def silent(network: nn.Module, run: Any) -> set[type[nn.Module]]:
    """Kinds of module on which a hook never fires."""
    fired: set[nn.Module] = set()

    def hook(module: nn.Module, *_: Any) -> None:
        fired.add(module)

    handles = [module.register_forward_hook(hook) for module in network.modules()]
    run()
    for handle in handles:
        handle.remove()
    return {type(module) for module in network.modules() if module not in fired}


@torch.no_grad()
def test_hooks_fire_on_everything_with_a_forward() -> None:
    """Lists have none, and those parts whose own call would hold memory; their layers fire."""
    network, pipe = unet("baseline"), micro()
    lists = {type(network.down)}
    assert silent(network, lambda: call(network)) == {Layer} | lists

    def there_and_back(vae: VAE) -> None:
        vae.decoder(vae.encoder(torch.rand(1, 1, 32, 32, 3))[..., : MICRO.vae.latent_channels])

    assert silent(pipe.vae.decoder, lambda: there_and_back(pipe.vae)) == {DecoderLevel, DecoderResnet} | lists
    assert not silent(pipe.vae.encoder, lambda: there_and_back(pipe.vae))
    assert not silent(pipe.clip, lambda: pipe.clip.embed(torch.rand(1, 3, 32, 32)))


def test_torchs_wrapper_checkpoints_the_levels() -> None:
    """Activation checkpointing is torch's own: it needs no switch here, and changes no gradient."""
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrapping

    plain, wrapped = (unet("baseline").requires_grad_(True) for _ in range(2))
    wrapping.apply_activation_checkpointing(
        wrapped, check_fn=lambda module: type(module).__name__ in ("SpatioTemporalResnet", "Transformer")
    )
    grads = []
    for network in (plain, wrapped):
        call(network).square().mean().backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    assert any(isinstance(module, wrapping.CheckpointWrapper) for module in wrapped.modules())
    for a, b in zip(*grads, strict=True):
        assert a is not None
        torch.testing.assert_close(b, a)


def test_one_pipeline_serves_several_threads() -> None:
    pipe, picture = micro("lossless"), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))

    def clip(seed: int) -> Tensor:
        return pipe.generate(picture, steps=2, frames=2, seed=seed)

    expected = [clip(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(clip, range(3)), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("what", ["x", "context", "vmap", "jvp", "dual"])
def test_packed_weights_are_not_differentiated_nor_transformed(what: str) -> None:
    network = packed()
    ways: dict[str, Any] = {
        "x": lambda: call(network, X.clone().requires_grad_()),
        "context": lambda: call(network, context=CONTEXT.clone().requires_grad_()),
        "vmap": lambda: vmap(lambda x: call(network, x))(torch.stack([X, X])),
        "jvp": lambda: jvp(lambda x: call(network, x), (X,), (X,)),
    }

    def dual() -> Tensor:
        with forward_ad.dual_level():
            return call(network, forward_ad.make_dual(X, X))

    with pytest.raises(ConfigError, match=r"trained, differentiated or transformed by torch\.func"):
        ways.get(what, dual)()
    assert torch.isfinite(call(network)).all()


@pytest.mark.parametrize("axis", [0, 1, 3, 4])
def test_nothing_to_compute_is_refused(axis: int) -> None:
    with pytest.raises(ConfigError, match=r"latents are \[b, f, 8, h, w\]"):
        call(unet(), X.narrow(axis, 0, 0))


WORKER = """
import sys
import torch
from test_networks_are_modules_like_any_other import CONTEXT, IDS, X, call, unet

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
network = torch.nn.parallel.DistributedDataParallel(unet(sys.argv[3]).requires_grad_(True))
call(network, (1 + rank) * X).square().mean().backward()
torch.save({name: p.grad for name, p in network.module.named_parameters()}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@FORMS
def test_two_processes_share_their_gradients(form: str, tmp_path: Path) -> None:
    places = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank), form], env=environment)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    network = unet(form).requires_grad_(True)
    call(network, torch.cat([X, 2 * X]), CONTEXT.repeat(2, 1, 1), IDS.repeat(2, 1)).square().mean().backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, parameter in network.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("frames", [0, -1, 2.0, "3", None])
def test_frames_of_a_context_are_a_whole_number(frames: Any) -> None:
    with pytest.raises(ConfigError, match="frames must be a whole number of at least 1"):
        unet().cache_context(CONTEXT, frames)


@pytest.mark.slow
def test_one_exported_program_serves_any_number_of_frames() -> None:
    network, frames = unet("vcut"), torch.export.Dim("frames", min=2, max=64)
    given = (X, torch.tensor([0.3]), CONTEXT, IDS)
    program = torch.export.export(network, given, dynamic_shapes=({1: frames}, None, None, None))
    for count in (5, 14, 25):
        x = torch.randn(1, count, 8, 4, 6)
        torch.testing.assert_close(program.module()(x, *given[1:]), call(network, x), rtol=1e-4, atol=1e-5)
