"""Scores of the clips of a sweep: the paper's consistencies, fidelity to a baseline, and what can be said of them.

``consistency`` and ``fidelity`` are plain functions of tensors, ``statistics`` of numbers. ``vit`` and ``features``
turn frames into features. ``groups`` says which scores there are and what each needs, ``cache`` keeps what is
computed, ``vbench`` hands clips to VBench and reads its results, ``report`` and ``table`` put everything
side by side, ``page`` shows the clips.
"""
