"""Numbers are written as in print, the same on all pages."""

import numpy as np

from nnunet_synth.pages.formatting import (
    count,
    duration,
    file_size,
    interval,
    listing,
    number,
    percent,
    points,
    probability,
    significant,
)


def test_numbers_are_written_as_in_print():
    signed = [points(0.019), points(-0.0061), points(-0.0001), points(0.019, sign=False)]
    assert signed == ["+1.9", "−0.6", "0.0", "1.9"]
    assert [probability(p) for p in (0.0004, 0.0123, 0.41, np.nan)] == ["< 0.001", "0.012", "0.41", "–"]
    assert interval(-0.006, 0.012, scale=100) == "−0.6 to 1.2"
    assert interval(np.nan, 1) == "–"
    assert number(-0.04, 1) == "0.0"
    assert [significant(value) for value in (-0.01234, 1234.5, np.nan)] == ["−0.0123", "1.23e+03", "–"]
    assert [percent(share) for share in (0, 0.004, 0.0312, 0.47, 1)] == ["0 %", "0.4 %", "3.1 %", "47 %", "100 %"]


def test_counts_and_sizes_have_their_units():
    assert [count(1, "file"), count(1024, "file")] == ["1 file", "1,024 files"]
    assert [file_size(size) for size in (12, 12_345, 9_050_000, 2.5e9)] == ["12 bytes", "12.3 kB", "9.05 MB", "2.5 GB"]
    assert [listing(words) for words in (["4"], ["4", "8"], ["4", "8", "16"])] == ["4", "4 and 8", "4, 8 and 16"]
    assert [duration(seconds) for seconds in (43, 720, 12600)] == ["43 s", "12 min", "3.5 h"]
