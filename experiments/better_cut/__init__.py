"""The search for a training-free rule with the quality of the paper's cut at 20 for the cost of its cut at 10.

Clips of the world that the small model was trained on have a known future. Every candidate makes the same clips from
the same seeds; they are judged by their error against that future, and by their distance from the baseline's frames.

    python -m experiments.better_cut --out better-cut                    # all candidates, on the model in the box
    python -m experiments.better_cut new.safetensors --out better-cut-new
    python -m experiments.better_cut --scenes 16 --tuning --only interval # a first look, on scenes that judge nothing
    python -m experiments.better_cut --only peers "Align Your Steps"     # beside diffusers, DeepCache and T-GATE

The peers need ``pip install -e ".[bench]"``.

What was computed is kept in the folder, so the same command goes on where it was stopped, and a candidate that is new
costs its own clips alone. It writes ``better-cut.json``, ``.md`` and ``.png`` there.
"""
