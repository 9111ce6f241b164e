"""Prompt maps: disks of the right size in the right place, boxes as outlines."""

from __future__ import annotations

import torch

from fretsaw.clicks.encode import disk_maps


def test_a_disk_holds_the_pixels_within_its_radius():
    coords = torch.tensor([[[129.5, 69.5]]])  # model pixel 129.5 is the edge between 129 and 130: 130 / 4 = 32.5 in edge coordinates, pixel 32
    maps = disk_maps(coords, torch.tensor([[1]]), 256, 64)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    assert torch.equal(maps[0, 0] > 0, (columns - 32) ** 2 + (rows - 17) ** 2 <= 25)
    assert maps[0, 1].sum() == 0


def test_labels_choose_the_map_and_padding_draws_nothing():
    coords = torch.tensor([[[40.0, 40.0], [200.0, 200.0], [100.0, 10.0]]])
    maps = disk_maps(coords, torch.tensor([[1, 0, -1]]), 256, 64)
    alone = disk_maps(coords[:, :2], torch.tensor([[1, 0]]), 256, 64)
    assert torch.equal(maps, alone)
    assert maps[0, 0].sum() > 60
    assert maps[0, 1].sum() > 60
    assert (maps[0, 0] * maps[0, 1]).sum() == 0


def test_a_box_is_an_outline_in_the_positive_map():
    coords = torch.tensor([[[41.5, 21.5], [121.5, 81.5]]])  # edge coordinates 42 / 4 and so on: pixels 10, 5 and 30, 20
    maps = disk_maps(coords, torch.tensor([[2, 3]]), 256, 64)
    outline = maps[0, 0].nonzero()
    assert outline.min(0).values.tolist() == [5, 10]
    assert outline.max(0).values.tolist() == [20, 30]
    assert len(outline) == 2 * (21 + 16) - 4


def test_prompt_sets_do_not_mix():
    coords = torch.rand(3, 2, 2) * 256
    labels = torch.tensor([[1, 0], [0, 0], [1, 1]])
    together = disk_maps(coords, labels, 256, 64)
    for i in range(3):
        assert torch.equal(together[i], disk_maps(coords[i : i + 1], labels[i : i + 1], 256, 64)[0])
