"""Pack what a GPU machine without network needs into one folder: photos at a reduced size, and the teacher's weights in two halves.

    python benchmarks/gpu_pack.py --out .carry --photos ../shared/data/unlabelled --photos ../shared/data/coco_mval/images --side 512
    python benchmarks/gpu_pack.py --join .carry --into teacher.safetensors      # over there, once both halves have arrived

The teacher travels in half precision; `fretsaw train hrsam_lite --set teacher=teacher.safetensors` takes the joined file. `--labelled ../shared/data` also
packs the train and val parts of coco_mval and human_seg with their masks, for `fretsaw train sam_ref --set data=.carry/data`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch

from fretsaw import catalog
from fretsaw.data.layouts import read_list
from fretsaw.data.views import list_photos
from fretsaw.frames import resize_image
from fretsaw.images import encode_image, read_image, read_labels, read_mask, write_bytes, write_image, write_mask
from fretsaw.weights import load_state_dict

TEACHER = "sam2-hiera-tiny"


def pack_photos(folders: list[Path], exclude: list[Path], out: Path, side: int) -> None:
    for photo in list_photos(folders, exclude):
        image = read_image(photo)
        height, width = image.shape[:2]
        scale = min(1.0, side / min(height, width))
        small = resize_image(image, max(1, round(height * scale)), max(1, round(width * scale)))
        write_bytes(out / "photos" / f"{photo.parent.name}_{photo.stem}.webp", encode_image(small, ".webp"))
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
            write_bytes(out / "data" / name / "images" / f"{photo.stem}.webp", encode_image(resize_image(image, rows, columns), ".webp"))
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
        write_bytes(out / "data" / name / "images" / f"{photo.stem}.webp", encode_image(resize_image(image, rows, columns), ".webp"))
        write_image(out / "data" / name / "masks" / f"{photo.stem}.png", cv2.resize(labels, (columns, rows), interpolation=cv2.INTER_NEAREST))
    print(f"label maps: {sum(p.stat().st_size for p in (out / 'data' / name).rglob('*') if p.is_file()) / 2**20:.1f} MiB")


def pack_teacher(out: Path) -> None:
    from safetensors.torch import save

    content = save({name: tensor.half().contiguous() for name, tensor in load_state_dict(catalog.weights_path(TEACHER)).items()})
    half = len(content) // 2
    write_bytes(out / "teacher.0", content[:half])
    write_bytes(out / "teacher.1", content[half:])
    print(f"teacher: two halves of {half / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to fill")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="folder of photos; repeat for more")
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="file that lists stems to leave out")
    parser.add_argument("--labelled", type=Path, help="folder of labelled sets and their splits, for SAM-REF: coco_mval and human_seg are packed")
    parser.add_argument("--maps", type=Path, help="folder of label maps with its classes.txt, for GrC-SAM; its splits lie beside it")
    parser.add_argument("--side", type=int, default=512, help="shorter side of a packed photo")
    parser.add_argument("--join", type=Path, help="folder with both halves")
    parser.add_argument("--into", type=Path, help="file to write the joined teacher to, float32")
    options = parser.parse_args()
    if options.join:
        from safetensors.torch import load, save_file

        state = load((options.join / "teacher.0").read_bytes() + (options.join / "teacher.1").read_bytes())
        save_file({name: tensor.to(torch.float32) for name, tensor in state.items()}, options.into)
        return
    if options.photos:
        pack_photos(options.photos, options.exclude, options.out, options.side)
    if options.maps:
        pack_maps(options.maps, options.out, options.side)
    if options.labelled:
        pack_labelled(options.labelled, ["coco_mval", "human_seg"], options.out, options.side)
    pack_teacher(options.out)


if __name__ == "__main__":
    main()
