"""Arguments and options that several commands take, each with one name and one explanation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IMAGES = "Images, folders of images, patterns in quotes ('photos/*.jpg'), https:// or data: addresses, or - for an image file on standard input."
Inputs = Annotated[list[str], typer.Argument(metavar="IMAGES...", help=IMAGES, show_default=False)]
OneInput = Annotated[str, typer.Argument(metavar="IMAGE", help="The image: a file, an address, or - for standard input.", show_default=False)]
Private = Annotated[
    bool, typer.Option("--allow-private-network", help="Addresses may lead to machines of a private network, this one included, and begin with http.")
]
Range = Annotated[
    str | None,
    typer.Option("--range", metavar="LOW,HIGH", help="Values that become black and white, for grey images of floats or many bits.", show_default=False),
]
Watch = Annotated[bool, typer.Option("--watch", help="Then wait for more images to come into the folders, until Ctrl-C.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="A file for one input, else a folder; never over an input, nor among the inputs. - is standard output.", show_default=False
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Go into subfolders, hidden ones and OUT left out; the tree is kept in OUT.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write again what exists already; otherwise it is skipped.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps; default: the best there is.", show_default=False)]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16, of the image encoder and a refiner.", show_default=False)]
Size = Annotated[int | None, typer.Option("--size", help="Side of the model's input; default: the model's own.", show_default=False)]
Refiner = Annotated[str | None, typer.Option("--refiner", help="Mend masks around the clicks: sam-ref, or a refiner's weight file.", show_default=False)]
Zoom = Annotated[
    bool | None,
    typer.Option(
        "--zoom/--no-zoom",
        help="From the third click on look at a small object's surroundings alone; default: as the model chooses.",
        show_default=False,
    ),
]
ClickTrue = Annotated[
    bool | None,
    typer.Option(
        "--click-true/--no-click-true",
        help="Hold answers to the clicks: each on its own side of the outline, own masks changed there alone; default: yes.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON, and no progress.")]
