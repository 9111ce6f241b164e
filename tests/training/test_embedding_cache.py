"""The embedding cache: what is read is what was written in half precision, nothing is computed twice, and damage is named."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from fretsaw.errors import ChecksumError, ConfigError
from fretsaw.training.embedding_cache import SHARD_VIEWS, EmbeddingCache, counted
from fretsaw.types import ImageEmbedding


def embedding_of(key: str) -> ImageEmbedding:
    torch.manual_seed(int(key))
    return ImageEmbedding(torch.randn(1, 8, 4, 4), (torch.randn(1, 1, 16, 16), torch.randn(1, 2, 8, 8)))


KEYS = [str(i) for i in range(SHARD_VIEWS * 2 + 3)]


@pytest.fixture
def cache(tmp_path) -> EmbeddingCache:
    cache = EmbeddingCache(tmp_path / "cache", "weights-1", "squash-64")
    cache.fill(KEYS, embedding_of)
    return cache


def total(cache: EmbeddingCache, key: str) -> float:
    return float(cache.get(key).final.sum())


def test_what_is_read_is_what_was_written_in_half_precision(cache):
    for key in KEYS:
        found, expected = cache.get(key), embedding_of(key)
        assert torch.equal(found.final, expected.final.half().float())
        assert [torch.equal(a, b.half().float()) for a, b in zip(found.high_res, expected.high_res, strict=True)] == [True, True]


def test_an_interrupted_run_goes_on_and_loses_at_most_one_shard(tmp_path):
    def dies(key: str) -> ImageEmbedding:
        if key == str(SHARD_VIEWS + 5):
            raise KeyboardInterrupt
        return embedding_of(key)

    cache = EmbeddingCache(tmp_path, "w", "p")
    with pytest.raises(KeyboardInterrupt):
        cache.fill(KEYS, dies)
    again = EmbeddingCache(tmp_path, "w", "p")
    assert len(again) == SHARD_VIEWS
    assert again.fill(KEYS, embedding_of) == len(KEYS) - SHARD_VIEWS
    assert again.fill(KEYS, embedding_of) == 0
    assert all(key in EmbeddingCache(tmp_path, "w", "p") for key in KEYS)


def test_workers_read_side_by_side(cache):
    cache.get("0")  # an open file does not travel
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(total, [(cache, key) for key in KEYS[:6]])
    assert found == [total(cache, key) for key in KEYS[:6]]


def test_another_teacher_is_refused(cache, tmp_path):
    with pytest.raises(ConfigError, match="expected the embeddings of"):
        EmbeddingCache(tmp_path / "cache", "weights-2", "squash-64")
    with pytest.raises(ConfigError):
        EmbeddingCache(tmp_path / "cache", "weights-1", "squash-128")


def test_an_altered_shard_is_named(cache, tmp_path):
    cache.verify()
    path = tmp_path / "cache" / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match="shard-00001"):
        cache.verify()


def test_a_torn_index_line_and_a_lost_shard_are_made_anew(cache, tmp_path):
    index = tmp_path / "cache" / "index.jsonl"
    index.write_text(index.read_text()[:-20])
    again = EmbeddingCache(tmp_path / "cache", "weights-1", "squash-64")
    assert len(again) == 2 * SHARD_VIEWS
    (tmp_path / "cache" / "shard-00001.safetensors").unlink()
    again = EmbeddingCache(tmp_path / "cache", "weights-1", "squash-64")
    assert len(again) == SHARD_VIEWS
    again.fill(KEYS, embedding_of)
    again.verify()
    assert torch.equal(again.get(KEYS[-1]).final, embedding_of(KEYS[-1]).final.half().float())


def test_how_far_it_is_is_said_every_so_often_and_at_the_end(tmp_path):
    said: list[str] = []
    cache = EmbeddingCache(tmp_path, "weights", "frame")
    keys = [f"k{i}" for i in range(7)]
    cache.fill(keys[:2], lambda key: ImageEmbedding(torch.zeros(1, 2, 2, 2)))
    assert cache.missing(keys) == 5
    cache.fill(keys, lambda key: ImageEmbedding(torch.zeros(1, 2, 2, 2)), counted(5, said.append, every=2))
    assert said == ["2 of 5 views are encoded", "4 of 5 views are encoded", "5 of 5 views are encoded"]
