"""Pack what a GPU machine without network needs into one folder: photos at a reduced size, and the teacher's weights in two halves.

    python benchmarks/gpu_pack.py --out .carry --photos ../shared/data/unlabelled --photos ../shared/data/coco_mval/images --side 512
    python benchmarks/gpu_pack.py --join .carry --into teacher.safetensors      # over there, once both halves have arrived

The teacher travels in half precision; `fretsaw train fretsaw_tiny --set teacher=teacher.safetensors` takes the joined file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fretsaw import catalog
from fretsaw.data.views import list_photos
from fretsaw.frames import resize_image
from fretsaw.images import encode_image, read_image, write_bytes
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
    pack_teacher(options.out)


if __name__ == "__main__":
    main()
