"""The benchmarks' GFLOP/s count no multiplication by the zeros around a map, which no good kernel does."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.padding import padding_macs
from vcut.analysis.counting import macs
from vcut.layers import TemporalConv, UpsamplingConv


@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    stride=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_what_is_left_are_the_products_of_pixels(size, kernel, padding, stride, channels):
    if any(length + 2 * pad < taps for length, pad, taps in zip(size, padding, kernel, strict=True)):
        return
    c, o = channels
    x, weight = torch.ones(2, c, *size), torch.ones(o, c, *kernel)

    def convolve():
        return F.conv2d(x, weight, stride=stride, padding=padding)

    products_of_pixels = convolve().sum()  # each is 1
    assert macs(convolve).total - padding_macs(convolve) == products_of_pixels


def test_a_third_of_the_time_taps_of_two_frames_are_outside():
    with torch.device("meta"):
        conv, x = TemporalConv(8, 8), torch.empty(1, 2, 3, 3, 8)
    assert padding_macs(lambda: conv(x)) == pytest.approx(macs(lambda: conv(x)).total / 3)


def test_an_upsampled_map_is_counted_at_its_own_size():
    with torch.device("meta"):
        conv, x = UpsamplingConv(8, 8), torch.empty(1, 1, 2, 2, 8)
    inside = (2 * 4 + 2) ** 2 * 8 * 8  # along an axis of 4 pixels: 2, 3, 3 and 2 taps
    assert macs(lambda: conv(x)).total - padding_macs(lambda: conv(x)) == inside
