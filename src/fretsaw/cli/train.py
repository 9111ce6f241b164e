"""`fretsaw train`: one command from a folder of photos to a checkpoint, continued where it was interrupted."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from fretsaw.cli.progress import Steps
from fretsaw.errors import ConfigError, OutputError
from fretsaw.outputs import Sources, named_files, remove_unfinished, require_writable
from fretsaw.ownership import own

RECIPES = {
    "fretsaw_hr": "put HRSAM's parts in place of SAM 2 Hiera-T's global attention, and teach them by it: large images at linear cost",
    "fretsaw_tiny": "cut SAM 2 Hiera-T down to the model that ships, and teach it by the whole one",
    "grc_sam": "train the prompt-free model for foreground or classes over a frozen encoder",
    "hrsam_lite": "distil SAM 2 Hiera-T into HRSAM's recipe at a small size, over EfficientNet-Lite0",
    "hrsam": "train HRSAM or HRSAM++ by one of the paper's three settings",
    "pmg_sam": "train the automatic cut: fusion, pre-mask and guided decoder over frozen encoders",
    "pseudo_masks": "make masks for unlabelled photos where saliency map and decoder agree, for pmg_sam",
    "sam_ref": "train the refiner that looks at the image again, over a frozen model",
}

PHOTOS = ("photos", "data", "pseudo", "train", "val")
"""Settings that name folders to learn from, with commas between them, perhaps a layout before a colon and a number of photos behind an @."""

WEIGHTS = (".safetensors", ".pt", ".pth")
"""Suffixes of the files that a run writes into its folder."""


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.", show_default=False)],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe; repeat for more.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe's settings and stop.")] = False,
) -> None:
    """Train a model by a recipe. The same command run again continues a run that was interrupted.

    [b]Examples[/b]

      fretsaw train fretsaw_tiny --show

      fretsaw train fretsaw_tiny --set photos=photos/ --set out=runs/tiny --set steps=5000
    """
    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        raise ConfigError(f"expected a recipe out of {', '.join(RECIPES)}; got {recipe!r}{f', did you mean {near[0]}?' if near else ''}")
    module = import_module(f"fretsaw.recipes.{recipe}.run")
    config = configure(module.Config, settings or (), placeholders=show)
    if show:
        for field in fields(config):
            print(f"{field.name} = {getattr(config, field.name)}")
        return
    out = Path(config.out)
    check_folder(config, out)
    # Of several processes that share a run, only the first one prints and owns the folder.
    chief = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))
    length = module.length(config)
    if not chief:
        module.run(config, Steps(length, "steps", quiet=True))
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: expected a folder for the run, got: {error.strerror}") from error
    with own(out, f"the training run {recipe!r}"):
        remove_unfinished([out], 0)
        with Steps(length, "steps") as steps:
            done = module.run(config, steps)
        from fretsaw.training.curves import draw_run

        draw_run(out)
        print(f"{done} of {length} steps are made; the run lies in {config.out}", file=sys.stderr)


def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The picture (.png, .pdf, .svg); default: RUN/curves.png.", show_default=False)] = None,
) -> None:
    """Draw the learning curves of training runs, finished or not, into one picture.

    [b]Examples[/b]

      fretsaw curves runs/hrsam

      fretsaw curves runs/a runs/b -o both.png
    """
    from fretsaw.training.curves import draw

    place = out or runs[0] / "curves.png"
    Sources(also=[run / "log.jsonl" for run in runs]).refuse(place)
    require_writable([place])
    print(draw(runs, place))


def check_folder(config: Any, out: Path) -> None:
    """Raise if a run's folder is one of those that it learns from, or lies in one, or cannot be written, or a run would write over weights that it starts from.

    Raises:
        OutputError: If so.
    """
    texts = {field.name: text for field in fields(config) if field.name != "out" and isinstance(text := getattr(config, field.name), str)}
    parts = [part for name in PHOTOS if name in texts for text in texts[name].split(",") for part in (text, text.rpartition("@")[0])]
    photos = [place for part in parts for place in (part, part.partition(":")[2]) if place]
    Sources(also=map(Path, photos)).refuse_folder(out)
    weights = [place for place in named_files(*texts.values()) if place.suffix in WEIGHTS and place.resolve().parent == out.resolve()]
    if weights:
        raise OutputError(
            f"{out}: expected a folder for the run that holds no weights which it starts from, got one with {weights[0].name}; choose another out"
        )
    require_writable([out / "checkpoint.pt"])


def configure(kind: type, settings: Sequence[str], placeholders: bool = False) -> Any:
    """Make a recipe's configuration from KEY=VALUE texts.

    Args:
        kind: The recipe's `Config`, a dataclass.
        settings: Texts; a value is read as the field's type.
        placeholders: Give fields that must be set "" instead of refusing.

    Raises:
        ConfigError: If a text has no "=", a key is unknown, a value does not fit or a needed one is missing.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(kind)]
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE after --set, got {text!r}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"expected a setting out of {', '.join(known)}; got {key!r}{f', did you mean {near[0]}?' if near else ''}")
        values[key] = value.split(",") if value and str(kind.__annotations__[key]).startswith("tuple") else value
    if placeholders:
        values = {field.name: "" for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING} | values
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem.get('input')!r}") from error
