"""`fretsaw text`: cut by name; `fretsaw layers`: what each layer of the networks behind it tells apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fretsaw.cli.batch import Record, finish, run, shares
from fretsaw.cli.loading import load_for
from fretsaw.cli.options import IMAGES, Device, Json, Out, Overwrite, Private
from fretsaw.cli.pipes import inputs_of, require_one, results_at
from fretsaw.cli.progress import Steps
from fretsaw.errors import ConfigError, OutputError
from fretsaw.outputs import PICTURES, ImageTask, Sources, find_images, named_files

if TYPE_CHECKING:
    from fretsaw.segmentation import LabelMap

FORMATS = {"labels": (".png",), "overlay": PICTURES, "json": (".json",), "masks": ()}
"""What a file of each format may end in; masks are a folder of files."""

Model = Annotated[str, typer.Option("--model", help="s2clip, trident, maskclip, or another with the mode text.")]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="ROLE=NAME",
        help="Exchange a network, by name or weight file; repeat for more. clip: what names mean; dino: which patches belong together; "
        "sam: what refines, anything that takes clicks (SAM, SAM 2, HRSAM, a student that fretsaw train hrsam_lite wrote).",
    ),
]


def text(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help=f"One of: {IMAGES}", show_default=False)],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help='What to look for; "sofa; couch" gives other words for the same.', show_default=False)],
    out: Out,
    format: Annotated[
        str, typer.Option("--format", help="labels (palette PNG and a legend), overlay, json, or masks (one PNG a name, in a folder).")
    ] = "labels",
    background: Annotated[
        list[str] | None,
        typer.Option("--background", metavar="WORD", help="A word for what is none of the names; repeat for more. Default: common surroundings."),
    ] = None,
    no_background: Annotated[bool, typer.Option("--no-background", help="Give every pixel one of the names.")] = False,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0, max=1, help="Less probable pixels are background; default 0.2. Lower it for many names.")
    ] = None,
    short_side: Annotated[int | None, typer.Option("--short-side", min=16, help="The image's shorter side for CLIP; larger finds smaller things.")] = None,
    model: Model = "s2clip",
    networks: With = None,
    overwrite: Overwrite = False,
    private: Private = False,
    device: Device = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of SAM's input; default: its own.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Cut by name, without training: every pixel gets one of the names, or none.

    [b]Examples[/b]

      fretsaw text room.jpg cat "sofa; couch" -o labels.png

      fretsaw text photos/ person dog -o cut/ --format overlay

      fretsaw text street.jpg road car sky -o labels.png --no-background --with sam=sam2-hiera-tiny

      fretsaw text room.jpg cat -o labels.png --with sam=runs/tiny/student.safetensors

      fretsaw text - cat sofa -o - --format overlay < room.jpg > overlay.png
    """
    if format not in FORMATS:
        raise OutputError(f"expected a format out of {', '.join(FORMATS)}; got {format!r}")
    exchanged = _pairs(networks)
    files = _mask_files(names) if format == "masks" else {}
    given = inputs_of([image], private)
    endings = FORMATS[format]
    with results_at(out, endings[0] if endings else "", as_json) as place:
        sources = Sources(given, out=place, also=named_files(model, *(exchanged or {}).values()))
        require_one(out, sources)
        jobs = sources.plan(place, endings, lambda target: _beside(target, format, files))
        for note in sources.notes:
            print(f"fretsaw: {note}", file=sys.stderr)
        todo = {job for job in jobs if overwrite or not job.done}
        segmenter, settings = None, None
        if todo:
            from fretsaw.methods.s2clip.settings import TextSettings

            chosen = {"background_threshold": threshold, "short_side": short_side}
            settings = TextSettings(**{key: value for key, value in chosen.items() if value is not None})
            segmenter = load_for("text", model, size=size, networks=exchanged, device=device)
        words = [] if no_background else background or None

        def cut(job: ImageTask) -> Record:
            assert segmenter is not None
            result = segmenter.text(job.image, names, words, settings)
            _write(result, job.target, format, files)
            return {"areas": result.areas}

        def describe(record: Record) -> str:
            return "; ".join(f"{name} {share} of what was found" for name, share in shares(record).items()) or "nothing found"

        finish(run(jobs, cut, lambda job: job not in todo, as_json), as_json, describe)


layers = typer.Typer(name="layers", help="Measure what each layer of CLIP, and other networks, tell apart.", no_args_is_help=True, rich_markup_mode="rich")


@layers.command()
def entropy(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="An image, or a folder of images.", show_default=False)],
    model: Model = "s2clip",
    networks: With = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of SAM's input; default: its own.", show_default=False)] = None,
    short_side: Annotated[int, typer.Option("--short-side", min=16, help="The images' shorter side for CLIP.")] = 448,
    crop: Annotated[int, typer.Option("--crop", min=16, help="Side of the windows.")] = 336,
    recursive: Annotated[bool, typer.Option("--recursive", help="Go into subfolders.")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print the spatial entropy of CLIP's layers over a folder of images (S2CLIP, algorithm 1 and figure 4), and how often each layer is chosen.

    [b]Example[/b]

      fretsaw layers entropy photos/ --recursive
    """
    from fretsaw.evaluation.layers import layer_entropies

    found = [path for path, _ in find_images([photos], recursive)]
    segmenter = _load(model, networks, device, size)
    with Steps(len(found), "images", as_json) as steps:
        rows = layer_entropies(segmenter.parts.text, found, short_side, crop, steps.advance)
    _print_rows(rows, as_json)


@layers.command()
def precision(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images; or a data set with label maps.", show_default=False)],
    names: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="Compare with what the model itself finds under these names; repeat for more.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Layout of a data set with label maps; default: by the folder's name.", show_default=False)
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Go into subfolders of a folder of images.")] = False,
    model: Model = "s2clip",
    networks: With = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of SAM's input; default: its own.", show_default=False)] = None,
    short_side: Annotated[int, typer.Option("--short-side", min=16, help="The images' shorter side for CLIP.")] = 448,
    crop: Annotated[int, typer.Option("--crop", min=16, help="Side of the windows.")] = 336,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many images only.", show_default=False)] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print how well patch similarities tell whether two patches belong together: average precision (AP) of CLIP's layers and of the other networks
    (S2CLIP, figure 3).

    What belongs together is said by, in this order: the names of --name, as the model itself finds them; the label maps of a data set; or, in a plain folder of
    images, the objects that the model's automatic mode finds. Only label maps are a truth: the other two compare the networks with a stand-in, and the table's
    column "compared with" says so.

    [b]Examples[/b]

      fretsaw layers precision photos/ --limit 50

      fretsaw layers precision photos/ --name cat --name dog --name grass

      fretsaw layers precision ADEChallengeData2016 --dataset ade20k --limit 200
    """
    from fretsaw.evaluation.layers import layer_precisions

    truth = "names" if names else truth_of(data, dataset)
    if truth != "labels":
        find_images([data], recursive)  # before the model is loaded
    segmenter = _load(model, networks, device, size)
    truths = _truths(segmenter, truth, data, dataset, names or [], recursive, short_side)[:limit]
    with Steps(len(truths), "images", as_json) as steps:
        rows = layer_precisions(segmenter.parts.text, truths, short_side, crop, steps.advance)
    _print_rows([{**row, "compared with": COMPARED[truth]} for row in rows], as_json)


COMPARED = {
    "labels": "label maps",
    "objects": "objects of the automatic mode (a stand-in, no truth)",
    "names": "the model's own labels (a stand-in, no truth)",
}


def truth_of(data: Path, dataset: str | None) -> str:
    """Say what patches of a folder are compared with: "labels" where it is a data set with label maps, else "objects"."""
    from fretsaw.data.class_sets import CLASS_SETS
    from fretsaw.data.datasets import guess_name
    from fretsaw.data.layouts import LABEL_FOLDERS

    if dataset is not None:
        return "labels"
    named = data.is_dir() and guess_name(data, CLASS_SETS) != "folder"
    return "labels" if named or any((data / name).is_dir() for name in LABEL_FOLDERS) else "objects"


def _truths(segmenter: Any, truth: str, data: Path, dataset: str | None, names: list[str], recursive: bool, short_side: int) -> list[Any]:
    """Return one function an image that returns it with its classes, or what stands for them."""
    from functools import partial

    from fretsaw.data.class_sets import CLASS_SETS
    from fretsaw.data.datasets import open_dataset
    from fretsaw.evaluation.layers import names_as_truth, regions_as_truth
    from fretsaw.methods.s2clip.settings import TextSettings

    if truth == "labels":
        return [sample.read for sample in open_dataset(data, dataset, CLASS_SETS).samples]
    photos = [path for path, _ in find_images([data], recursive)]
    if truth == "names":
        return [partial(names_as_truth, segmenter, names, TextSettings(short_side=short_side), photo) for photo in photos]
    if segmenter.parts.automatic is None:
        raise ConfigError(f"expected --name, or label maps, for {segmenter.name}: it has no automatic mode whose objects could stand for them")
    return [partial(regions_as_truth, segmenter, photo) for photo in photos]


def _load(model: str, networks: list[str] | None, device: str | None, size: int | None) -> Any:
    return load_for("text", model, networks=_pairs(networks), device=device, size=size)


def _pairs(texts: list[str] | None) -> dict[str, str] | None:
    """Read "ROLE=NAME" texts."""
    pairs = {}
    for text in texts or ():
        role, equals, name = text.partition("=")
        if not equals or not role or not name:
            raise ConfigError(f"expected ROLE=NAME after --with, such as sam=sam2-hiera-tiny; got {text!r}")
        pairs[role] = name
    return pairs or None


def _mask_files(names: list[str]) -> dict[str, str]:
    """Return the file of each name's mask.

    Raises:
        ConfigError: If names cannot be used.
        OutputError: If two would share a file.
    """
    from fretsaw.methods.s2clip.words import read_names

    files = {words[0]: f"{''.join(c if c.isalnum() or c in '-_ ' else '_' for c in words[0])}.png" for words in read_names(names)}
    for name, file in files.items():
        if twins := [other for other in files if other != name and files[other].casefold() == file.casefold()]:
            raise OutputError(f"expected names whose masks have files of their own, got {name!r} and {twins[0]!r} for {file}")
    return files


def _beside(target: Path, format: str, files: dict[str, str]) -> list[Path]:
    if format == "masks":
        return [target / file for file in files.values()]
    return [target.with_suffix(".json")] if format == "labels" else []


def _write(result: LabelMap, target: Path, format: str, files: dict[str, str]) -> None:
    if format != "masks":
        result.save(target, format=format)
        return
    from fretsaw.images import write_mask

    for name in result.names:
        write_mask(target / files[name], result.mask(name))


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()) + " |")
