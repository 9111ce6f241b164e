"""Run a folder of cases against their READMEs, and print which come out right: `python tests/cases.py ../shared/cases/interchange`.

A case is `<case>.README`, one line of parts with bars between: where the trouble was reported, `run:` a command, `right:` what is right. The right value is
prose. This program knows the phrases that such a README uses ("1 object of 70 px", "or an error that names the annotation", "a word on the box") and
checks each one that it knows; what it does not know it does not count: a case of which it knows nothing is "not checked", and `--verbose` prints the
phrases that were checked. Two things are wrong whatever the README says: a traceback, and a refusal that is no single line.

What a command wrote is read with Pillow, json, ElementTree and pycocotools, not with Fretsaw.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

NOTES = {
    "ls_local_files_url_to_yolo": "the README says a.txt; the picture of its task is called a%20b.jpg, which is a b.jpg",
}
"""Where a README and its own case differ: the file's name as it must be, said in the table."""
INSTEAD = {"ls_local_files_url_to_yolo": ("a.txt", "a b.txt")}


@dataclass
class Outcome:
    """What a case's commands did.

    Attributes:
        code: The last exit status.
        said: All they printed, on both streams.
        errors: What they printed on standard error.
        objects: (class name, pixels or None, picture's file name) of each object in the last output.
        sizes: [H, W] of its pictures.
        files: Paths of the last output.
        out: The folder.
    """

    code: int
    said: str
    errors: str
    files: list[str]
    out: Path
    objects: list[tuple[str, int | None, str]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)

    @property
    def one_line(self) -> bool:
        return self.code != 0 and len([line for line in self.errors.splitlines() if line.strip()]) == 1


def read_output(out: Path) -> tuple[list[tuple[str, int | None, str]], list[list[int]]]:
    """Return the objects and the pictures' sizes of a folder in any of the formats that the cases ask for."""
    objects: list[tuple[str, int | None, str]] = []
    sizes: list[list[int]] = []
    for path in sorted(out.rglob("*")):
        if path.name == "objects.json":
            found = json.loads(path.read_text())
            sizes.append(found["size"])
            for row in found["objects"]:
                objects.append((row["name"], int((np.asarray(Image.open(path.parent / row["mask"])) > 127).sum()), found["file_name"]))
        elif path.suffix == ".json":
            found = json.loads(path.read_text())
            if "shapes" in found:
                sizes.append([found["imageHeight"], found["imageWidth"]])
                objects += [(row["label"], None, found["imagePath"]) for row in found["shapes"]]
            elif "images" in found:
                from pycocotools import mask as coco_mask

                names = {row["id"]: row["name"] for row in found["categories"]}
                pictures = {row["id"]: row for row in found["images"]}
                sizes += [[row["height"], row["width"]] for row in found["images"]]
                for row in found["annotations"]:
                    pixels = int(coco_mask.area(row["segmentation"])) if isinstance(row.get("segmentation"), dict) else None
                    objects.append((names[row["category_id"]], pixels, pictures[row["image_id"]]["file_name"]))
        elif path.suffix == ".xml":
            root = ElementTree.parse(path).getroot()
            label = out / "SegmentationObject" / path.relative_to(out / "Annotations").with_suffix(".png") if (out / "Annotations") in path.parents else None
            pixels = np.asarray(Image.open(label)) if label and label.exists() else None
            for number, row in enumerate(root.iter("object"), 1):
                objects.append((row.findtext("name", ""), None if pixels is None else int((pixels == number).sum()), root.findtext("filename", "")))
        elif path.suffix == ".txt" and "labels" in path.relative_to(out).parts:
            objects += [(line.split()[0], None, path.stem) for line in path.read_text().splitlines() if line.strip()]
    return objects, sizes


def run(command: str, folder: Path, place: Path) -> Outcome:
    """Run a case's commands, one after the other, in the folder of cases."""
    said, errors, code, out = "", "", 0, place
    for part in command.split(";"):
        words = shlex.split(part.strip())
        words = [str(place / word) if re.fullmatch(r"OUT\d?", word) else word for word in words]
        if "-o" in words:
            out = Path(words[words.index("-o") + 1])
        if words[:1] == ["fretsaw"]:
            words = [sys.executable, "-m", "fretsaw", *words[1:]]
        try:
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return Outcome(124, "took more than 120 s", "took more than 120 s", [], out)
        code = done.returncode
        # The case's own name may hold the very word that is looked for.
        own = command.split()[2].partition("/")[0]
        heard, complaint = done.stdout.replace(own, "<case>"), done.stderr.replace(own, "<case>")
        said, errors = said + heard + complaint, errors + complaint
        if code:
            break
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) if out.is_dir() else []
    outcome = Outcome(code, said, errors, files, out)
    outcome.objects, outcome.sizes = read_output(out) if out.is_dir() else ([], [])
    return outcome


Check = Callable[["re.Match[str]", Outcome, str], bool]
WORDS = {"one": 1, "two": 2, "both": 2, "1": 1}


def _count(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    number = int(WORDS.get(found["n"], found["n"])) * (2 if "each from" in text else 1)
    pixels = int(found["px"]) if found["px"] else None
    right = [row for row in outcome.objects if pixels is None or row[1] is None or abs(row[1] - pixels) <= pixels * 0.08 * ("about" in text)]
    if found["more"] or "rest kept" in text:
        return len(right) >= number
    return len(outcome.objects) == len(right) == number


def _near(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    return any(row[1] is not None and abs(row[1] - int(found["px"])) <= 0.1 * int(found["px"]) for row in outcome.objects)


def _words(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    nouns = re.findall(r"\bthe (\w+)", found[0])
    return all(noun.rstrip("s") in outcome.said for noun in nouns) and "left out" in outcome.said


def _label_files(outcome: Outcome) -> list[str]:
    return [name for name in outcome.files if name.startswith("labels/") and (outcome.out / name).stat().st_size]


def _file_name(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    name = found["name"].rstrip(";,")
    return any(row[2] == name for row in outcome.objects) or f"labels/{Path(name).stem}.txt" in outcome.files


def _written(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    return outcome.code in (0, 1) and any(Path(name).stem == Path(found["name"]).stem for name in outcome.files)


def _named(found: re.Match[str], outcome: Outcome, text: str) -> bool:
    """A file that is named, or has become readable."""
    return f"{found['name']}." in outcome.errors or any(Path(name).stem == found["name"] for name in outcome.files)


CHECKS: list[tuple[str, Check]] = [
    (r"(?P<n>\d+|one|two) (?P<more>more )?objects?(?: of (?:about )?(?:\S+=)?(?P<px>\d+) px)?", _count),
    (r"about \S*?= ?(?P<px>\d+) px|keeps its (?P<px2>\d+) px", lambda f, o, t: any(abs((row[1] or 0) - int(f["px"] or f["px2"])) < 6 for row in o.objects)),
    (r'(?:object|annotation:) "(?P<name>[^"]+)"', lambda f, o, t: f["name"] in {row[0] for row in o.objects}),
    (r"with some name", lambda f, o, t: bool(o.objects) and all(row[0].strip() for row in o.objects)),
    (r"^(?:an |a |a clear )?(?:error|refusal|refuse)\b(?! with)", lambda f, o, t: o.code != 0 and bool(o.errors.strip())),
    (r"nam(?:es|ing) (?:the )?annotation", lambda f, o, t: "annotation" in o.errors),
    (r"names the formats", lambda f, o, t: sum(name in o.errors.lower() for name in ("coco", "labelme", "yolo", "voc")) >= 2),
    (r"one line", lambda f, o, t: o.one_line),
    (r"exit (?P<code>\d)", lambda f, o, t: o.code == int(f["code"]) or ("named" in t and o.code == 0 and "left out" not in o.said)),
    (r"a word on .*|(?:leave them|skip it).* with a word", _words),
    (r"the orphan named", lambda f, o, t: "annotation 2" in o.said and "left out" in o.said),
    (r"a word that n objects lost pixels", lambda f, o, t: bool(re.search(r"object.*(lose|lost|vanish|pixel)", o.said))),
    (r"(?P<name>[\w./-]+\.(?:txt|json)) with", _written),
    (r"labels/(?P<name>[\w./ -]+\.txt)", lambda f, o, t: f"labels/{f['name']}" in o.files),
    (r"(?P<name>\w+)\.json written", _written),
    (r"(?P<name>\b\w) named", _named),
    (r"nothing written", lambda f, o, t: not o.files),
    (r"file_name (?P<name>\S+)|^(?P<other>\.\./\S+);", lambda f, o, t: _file_name(f, o, t) if f["name"] else any(row[2] == f["other"] for row in o.objects)),
    (r"never a name with backslashes", lambda f, o, t: not any("\\" in row[2] for row in o.objects)),
    (r"differ by more than case", lambda f, o, t: len({name.casefold() for name in _label_files(o)}) == 2),
    (r"\(two files\)", lambda f, o, t: len(_label_files(o)) == 2),
    (r"size \[(?P<h>\d+), ?(?P<w>\d+)\]", lambda f, o, t: [int(f["h"]), int(f["w"])] in o.sizes),
    (r"size from the header \((?P<h>\d+) x (?P<w>\d+)", lambda f, o, t: [int(f["h"]), int(f["w"])] in o.sizes),
    (r"that names a\.png", lambda f, o, t: "a.png" in o.errors),
    (r"size from imageData", lambda f, o, t: len(o.objects) == 1),
    (r"which key", lambda f, o, t: "imageHeight" in o.errors),
    (r"panoptic", lambda f, o, t: "panoptic" in o.errors.lower() and "PNG" in o.errors),
    (r"say that these are boxes", lambda f, o, t: "box" in o.said),
    (r"XML that can be read back", lambda f, o, t: o.code == 0 and any(name.endswith(".xml") for name in o.files)),
    (r"error with file, line and number", lambda f, o, t: all(word in o.errors for word in ("a.txt", "line 2", "5"))),
    (r"other files not lost", lambda f, o, t: bool(o.objects)),
    (r"this one a picture without objects", lambda f, o, t: o.code == 0),
]


def judge(right: str, outcome: Outcome) -> tuple[bool | None, list[str]]:
    """Return whether an outcome is right, None where no phrase of the README is known, and the phrases that were checked."""
    if "Traceback (most recent call last)" in outcome.said:
        return False, ["no traceback"]
    right = re.sub(r"[;,] (?:today|never one)\b.*", "", right)
    checked: list[str] = []
    for option in re.split(r"[,;]? \(?or (?!\.\./|refusal)|[,;]? or (?=\.\./)", right):
        held = []
        for pattern, check in CHECKS:
            if (found := re.search(pattern, option.strip())) is not None:
                held.append(check(found, outcome, right))
                checked.append(f"{found[0]!r}: {'yes' if held[-1] else 'no'}")
        if held and all(held):
            return True, checked
    return (False if checked else None), checked


@dataclass
class Row:
    """A line of the table: a case, and whether it is right (None: not checked)."""

    name: str
    right: bool | None
    why: str
    checked: list[str] = field(default_factory=list)


def cases(folder: Path) -> Iterator[Row]:
    """Yield a row for every case of a folder, and for every picture of a README that has no command."""
    for readme in sorted(folder.glob("*.README")):
        text, name = readme.read_text().strip(), readme.name.removesuffix(".README")
        parts = re.fullmatch(r"(?P<source>.*?)\|\s*run:\s*(?P<run>.*?)\s*\|\s*right:\s*(?P<right>.*)", text, re.S)
        if parts is None:
            yield from pictures(folder / name, text)
            continue
        commands, right = [parts["run"]], parts["right"]
        if (also := re.search(r"\s*\(and (\S+)\)$", commands[0])) is not None:
            first = commands[0][: also.start()]
            commands = [first, re.sub(r"/[^/ ]+\.\w+(?= )", f"/{also[1]}", first, count=1)]
        if name in INSTEAD:
            right = right.replace(*INSTEAD[name])
        row = Row(name, None, "", [])
        for command in commands:
            with tempfile.TemporaryDirectory() as place:
                outcome = run(command, folder, Path(place))
                good, checked = judge(right, outcome)
            row.checked += checked
            said = " / ".join(line for line in outcome.said.replace(place, "").splitlines() if line.strip())
            if good is not True:
                row.why = f"expected {right}; exit {outcome.code}, {len(outcome.objects)} objects: {said[-160:]}"
            row.right = good if row.right is None or good is False else row.right
        if row.right and name in NOTES:
            row.why = NOTES[name]
        yield row


def pictures(folder: Path, text: str) -> Iterator[Row]:
    """Yield a row for each picture of a README that says what `read_image` should give."""
    from fretsaw.errors import ImageError
    from fretsaw.images import read_image

    for part in text.split("|"):
        names, _, about = part.strip().partition(":")
        for name in re.findall(r"[\w.]+\.\w+", names) or ["(no file)"]:
            row = Row(f"{folder.name}/{name}", None, f"not checked by machine: {about.strip()}")
            try:
                image, error = read_image(folder / name), ""
            except ImageError as found:
                image, error = None, str(found)
            except Exception as found:
                yield Row(row.name, False, f"{type(found).__name__}: {found}")
                continue
            came = error or f"opened, {image.shape}"  # type: ignore[union-attr]
            if size := re.search(r"right:? \((\d+), (\d+)\)", about):
                row.right = image is not None and image.shape[:2] == (int(size[1]), int(size[2]))
            elif pixel := re.search(r"pixel \((\d+),(\d+)\) should be \((\d+),(\d+),(\d+)\)", about):
                x, y, *value = map(int, pixel.groups())
                row.right = image is None or image[x, y].tolist() == value or image[y, x].tolist() == value
            elif "name the format" in about:
                row.right = image is not None or {"avif": "AVIF", "jp2": "JPEG 2000", "heic": "HEI"}[name.rpartition(".")[2]] in error
            elif "an option or a repair" in about:
                row.right = image is not None
            elif said := re.search(r'right: "([^"]+)"', about):
                row.right = image is not None or said[1] in error
            if row.right is not None:
                row.why = "" if row.right else f"expected {about.strip()}; {came[:120]}"
            yield row


def main() -> int:
    """Print the table and the share that is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print the phrases that were checked")
    parser.add_argument("--only", default="", help="run cases whose name contains this")
    options = parser.parse_args()
    rows = list(_chosen(options.folder.resolve(), options.only))
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        state = {True: "ok", False: "WRONG", None: "not checked"}[row.right]
        print(f"{row.name:{width}}  {state:11}  {row.why}".rstrip())
        if options.verbose:
            print("".join(f"{'':{width}}    {phrase}\n" for phrase in row.checked), end="")
    right, checked = sum(row.right is True for row in rows), sum(row.right is not None for row in rows)
    print(f"{right} of {checked} checked cases are right ({100 * right / max(1, checked):.0f} %); {len(rows) - checked} of {len(rows)} are not checked")
    return 0 if right == checked else 1


def _chosen(folder: Path, only: str) -> Iterator[Row]:
    if not only:
        yield from cases(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        for path in folder.iterdir():
            if only in path.name:
                (Path(place) / path.name).symlink_to(path)
        yield from cases(Path(place))


if __name__ == "__main__":
    sys.exit(main())
