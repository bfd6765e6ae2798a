"""`import vcut.unet` costs torch alone, and no package reaches up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "vcut/errors.py": {"weights_tools.errors"},
    "vcut/config.py": {"vcut.errors", "weights_tools.model"},
    "vcut/kernels/": {"vcut.errors", "vcut.kernels"},
    "vcut/layers/": {"vcut.errors", "vcut.kernels", "vcut.layers"},
    "vcut/unet/": {"vcut.config", "vcut.errors", "vcut.kernels", "vcut.layers", "vcut.unet"},
    "vcut/vae/": {"vcut.config", "vcut.errors", "vcut.kernels", "vcut.layers", "vcut.vae"},
    "vcut/clip/": {"vcut.config", "vcut.errors", "vcut.clip"},
    "vcut/sampling/": {"vcut.config", "vcut.errors", "vcut.sampling"},
    "vcut/settings.py": {"vcut.config", "vcut.errors", "vcut.sampling"},
    "vcut/media/": {"vcut.config", "vcut.errors", "vcut.media", "weights_tools.outputs"},
    "vcut/hub.py": {"vcut.errors", "weights_tools.checkpoint", "weights_tools.structure"},
    "vcut/conditioning.py": {"vcut.sampling", "vcut.unet"},
    "vcut/parallel/": {
        "vcut.conditioning",
        "vcut.config",
        "vcut.errors",
        "vcut.kernels",
        "vcut.layers",
        "vcut.parallel",
        "vcut.pipeline",
        "vcut.sampling",
        "vcut.settings",
        "vcut.unet",
        "vcut.vae",
    },
    "vcut/analysis/": {
        "vcut.analysis",
        "vcut.clip",
        "vcut.config",
        "vcut.errors",
        "vcut.kernels",
        "vcut.layers",
        "vcut.media",
        "vcut.sampling",
        "vcut.settings",
        "vcut.unet",
        "vcut.vae",
    },
    "vcut/sweeps/": {
        "vcut.__version__",
        "vcut.config",
        "vcut.errors",
        "vcut.media",
        "vcut.pipeline",
        "vcut.settings",
        "vcut.sweeps",
        "weights_tools.outputs",
    },
    "vcut/scores/": {
        "vcut.__version__",
        "vcut.analysis",
        "vcut.clip",
        "vcut.config",
        "vcut.errors",
        "vcut.loading",
        "vcut.media",
        "vcut.scores",
        "vcut.settings",
        "vcut.sweeps",
        "weights_tools.outputs",
        "weights_tools.tensor_file",
    },
    "vcut/integrations/": {
        "vcut.conditioning",
        "vcut.config",
        "vcut.errors",
        "vcut.integrations",
        "vcut.sampling",
        "vcut.unet",
        "weights_tools.configs",
        "weights_tools.fold",
    },
    "weights_tools/": {"weights_tools"},
}

IMPORT_EVERYTHING = """
import gc, importlib, logging, os, pkgutil, random, signal, sys, threading, warnings
import av, einops, huggingface_hub, numpy, PIL.Image, safetensors, torch, tqdm  # these may change what they like

def state():
    return {
        "environment": (dict(os.environ), os.getcwd(), list(sys.path), sys.getrecursionlimit()),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()),
        "modes": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
        "products": (torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "others": (threading.active_count(), numpy.geterr(), PIL.Image.MAX_IMAGE_PIXELS, gc.get_threshold()),
    }

before = state()
import vcut, weights_tools
for package in (vcut, weights_tools):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
after = state()
print("changed:", *[name for name in before if before[name] != after[name]])
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_importing_the_unet_loads_torch_alone() -> None:
    loaded = run(
        "import torch, sys; before = set(sys.modules); import vcut.unet; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    assert set(loaded.split()) <= {"vcut", "weights_tools"} | set(sys.stdlib_module_names)


@pytest.mark.slow
def test_the_unet_needs_nothing_of_weights_tools_but_errors_and_configurations() -> None:
    loaded = run(
        "import sys, vcut.unet, vcut.vae, vcut.clip; print(*sorted(m for m in sys.modules if 'weights_tools' in m))"
    )
    assert loaded.split() == ["weights_tools", "weights_tools.errors", "weights_tools.model"]


def test_importing_vcut_loads_nothing() -> None:
    assert run("import sys, vcut; print('torch' in sys.modules)") == "False"


@pytest.mark.slow
def test_a_model_is_loaded_without_torchs_compiler() -> None:
    """Half of the time that a short command took."""
    loaded = run("import sys, vcut; vcut.load(device='cpu'); print(*sorted(sys.modules))").split()
    assert "vcut.unet" in loaded
    assert not {"torch._dynamo", "torch._inductor", "torch.onnx", "sympy"} & set(loaded)


@pytest.mark.slow
def test_importing_prints_nothing_and_touches_no_setting() -> None:
    assert run(IMPORT_EVERYTHING) == "changed:"


@pytest.mark.parametrize("place", ALLOWED)
def test_no_module_imports_what_stands_above_it(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.split(".")[0] in ("vcut", "weights_tools"):
                    assert any(name == ok or name.startswith(ok + ".") for ok in ALLOWED[place]), (file, name)


def test_the_library_never_imports_diffusers_or_transformers() -> None:
    for file in [*(ROOT / "vcut").rglob("*.py"), *(ROOT / "weights_tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not any(n.split(".")[0] in ("diffusers", "transformers", "sgm") for n in names), file


def test_the_library_never_imports_the_scripts_around_it() -> None:
    for file in [*(ROOT / "vcut").rglob("*.py"), *(ROOT / "weights_tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                around = ("experiments", "benchmarks", "training", "tests")
                assert not any(n.split(".")[0] in around for n in names), file
