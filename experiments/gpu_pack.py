"""Pack what a GPU machine without network needs: photos at a reduced size, labelled sets, teachers' weights; in parts that travel one by one.

    python experiments/gpu_pack.py --out .carry --photos ../shared/data/unlabelled --photos ../shared/data/coco_mval/images --teacher sam2-hiera-tiny
    python experiments/gpu_pack.py --join parts --into pack      # over there, once all parts have arrived in one folder

Teachers travel in half precision and open by their path: `fretsaw train fretsaw_tiny --set teacher=pack/sam2-hiera-tiny.safetensors`. `--labelled
../shared/data` packs the train and val parts of coco_mval and human_seg with their masks, for `fretsaw train sam_ref --set data=pack/data`.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

import cv2

from fretsaw import catalog
from fretsaw.data.layouts import read_list
from fretsaw.data.views import list_photos
from fretsaw.errors import DataError
from fretsaw.images import encode_image, read_image, read_labels, read_mask, write_bytes, write_image, write_mask
from fretsaw.layers.resampling import resize_image
from fretsaw.weights import load_state_dict


def pack_photos(folders: list[Path], exclude: list[Path], out: Path, side: int, limit: int) -> None:
    photos = list_photos(folders, exclude)
    for photo in photos[:: -(-len(photos) // limit)] if limit else photos:
        image = read_image(photo)
        height, width = image.shape[:2]
        scale = min(1.0, side / min(height, width))
        small = resize_image(image, max(1, round(height * scale)), max(1, round(width * scale)))
        write_bytes(out / "photos" / f"{photo.parent.name}_{photo.stem}.jpg", encode_image(small, ".jpg"))
    print(f"{len(list((out / 'photos').iterdir()))} photos, {sum(p.stat().st_size for p in (out / 'photos').iterdir()) / 2**20:.1f} MiB")


def pack_labelled(data: Path, names: list[str], out: Path, side: int) -> None:
    """Pack the train and val parts of labelled sets as `fretsaw train sam_ref --set data=` takes them: reduced photos, masks of the same size, the splits."""
    for name in names:
        chosen = {stem for part in ("train", "val") for stem in read_list(data / "splits" / f"{name}_{part}.txt")}
        for part in ("train", "val"):
            write_bytes(out / "data" / "splits" / f"{name}_{part}.txt", (data / "splits" / f"{name}_{part}.txt").read_bytes())
        for photo in sorted((data / name / "images").iterdir()):
            if photo.stem not in chosen:
                continue
            image = read_image(photo)
            scale = min(1.0, side / min(image.shape[:2]))
            rows, columns = (max(1, round(scale * length)) for length in image.shape[:2])
            write_bytes(out / "data" / name / "images" / f"{photo.stem}.jpg", encode_image(resize_image(image, rows, columns), ".jpg"))
            for mask in sorted((data / name / "masks").glob(f"{photo.stem}.png")) + sorted((data / name / "masks").glob(f"*_{photo.stem}.png")):
                write_mask(out / "data" / name / "masks" / mask.name, cv2.resize(read_mask(mask), (columns, rows), interpolation=cv2.INTER_NEAREST) > 0)
    print(f"labelled sets: {sum(p.stat().st_size for p in (out / 'data').rglob('*') if p.is_file()) / 2**20:.1f} MiB")


def pack_maps(folder: Path, out: Path, side: int) -> None:
    """Pack a set of label maps as `fretsaw train grc_sam --set data=` takes it: reduced photos, maps of the same size, classes, splits."""
    name, splits = folder.resolve().name, folder.resolve().parent / "splits"
    for part in ("train", "val", "test"):
        write_bytes(out / "data" / "splits" / f"{name}_{part}.txt", (splits / f"{name}_{part}.txt").read_bytes())
    write_bytes(out / "data" / name / "classes.txt", (folder / "classes.txt").read_bytes())
    for photo in sorted((folder / "images").iterdir()):
        image, labels = read_image(photo), read_labels(folder / "masks" / f"{photo.stem}.png")
        scale = min(1.0, side / min(image.shape[:2]))
        rows, columns = (max(1, round(scale * length)) for length in image.shape[:2])
        write_bytes(out / "data" / name / "images" / f"{photo.stem}.jpg", encode_image(resize_image(image, rows, columns), ".jpg"))
        write_image(out / "data" / name / "masks" / f"{photo.stem}.png", cv2.resize(labels, (columns, rows), interpolation=cv2.INTER_NEAREST))
    print(f"label maps: {sum(p.stat().st_size for p in (out / 'data' / name).rglob('*') if p.is_file()) / 2**20:.1f} MiB")


def pack_teacher(name: str, out: Path) -> None:
    from safetensors.torch import save

    content = save({key: tensor.half().contiguous() for key, tensor in load_state_dict(catalog.weights_path(name)).items()})
    write_bytes(out / f"{name}.safetensors", content)
    print(f"{name}: {len(content) / 2**20:.1f} MiB")


def divide(folder: Path, out: Path, side: int) -> int:
    """Write a folder as one archive in numbered parts of at most `side` bytes; returns how many."""
    for old in out.glob("part.*"):
        old.unlink()
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(folder, ".")
        archive.seek(0)
        number = 0
        while content := archive.read(side):
            write_bytes(out / f"part.{number:03d}", content)
            number += 1
    return number


def join(folder: Path, into: Path) -> None:
    """Unpack the parts that lie in a folder.

    Raises:
        DataError: If one is missing.
    """
    parts = sorted(folder.glob("part.*"))
    if not parts or parts[-1].name != f"part.{len(parts) - 1:03d}":
        raise DataError(f"expected parts 000, 001, ... without a gap in {folder}, got {', '.join(part.name for part in parts) or 'none'}")
    with tempfile.TemporaryFile() as archive:
        for part in parts:
            archive.write(part.read_bytes())
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(into, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to fill: pack/ holds the files, part.000 and on the same in parts")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="folder of photos; repeat for more")
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="file that lists stems to leave out")
    parser.add_argument("--labelled", type=Path, help="folder of labelled sets and their splits, for SAM-REF: coco_mval and human_seg are packed")
    parser.add_argument("--maps", type=Path, help="folder of label maps with its classes.txt, for GrC-SAM; its splits lie beside it")
    parser.add_argument("--limit", type=int, default=0, help="at most so many photos, spread over the folders; 0 packs all")
    parser.add_argument("--side", type=int, default=512, help="shorter side of a packed photo")
    parser.add_argument("--teacher", action="append", default=[], help="name of a model whose weights come along in half precision; repeat for more")
    parser.add_argument("--file", type=Path, action="append", default=[], help="any file to bring along; repeat for more")
    parser.add_argument("--part", type=float, default=20.0, help="MiB of a part at most")
    parser.add_argument("--join", type=Path, help="folder that holds all parts")
    parser.add_argument("--into", type=Path, help="folder to unpack them into")
    options = parser.parse_args()
    if options.join:
        join(options.join, options.into)
        return
    pack = options.out / "pack"
    if options.photos:
        pack_photos(options.photos, options.exclude, pack, options.side, options.limit)
    if options.maps:
        pack_maps(options.maps, pack, options.side)
    if options.labelled:
        pack_labelled(options.labelled, ["coco_mval", "human_seg"], pack, options.side)
    for name in options.teacher:
        pack_teacher(name, pack)
    for file in options.file:
        write_bytes(pack / file.name, file.read_bytes())
    print(f"{divide(pack, options.out, round(options.part * 2**20))} parts in {options.out}")


if __name__ == "__main__":
    main()
