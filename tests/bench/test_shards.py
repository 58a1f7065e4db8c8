"""Batches of samples on the disk: a damaged one is drawn again, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.run.samples import read_shard, read_shards, write_shard

IMAGES = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)


def test_a_shard_returns_its_images_and_seconds(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npz", IMAGES, 1.5, None)
    found = read_shard(tmp_path / "a.npz", None)
    assert found is not None
    assert np.array_equal(found[0], IMAGES)
    assert found[1] == 1.5


def test_a_shard_with_a_wrong_bit_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_shard(path, IMAGES, 1.5, None)
    good, damaged = path.read_bytes(), 0
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        damaged += read_shard(path, None) is None
    assert damaged > len(good) / 2
    path.write_bytes(good[:-1])
    with pytest.raises(ValueError, match=r"a\.npz: not a whole batch of samples"):
        read_shards([path], None)
