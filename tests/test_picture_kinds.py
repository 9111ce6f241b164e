"""Image files beyond the common ones: phones' formats, deep grey values, colour profiles, and what is said of those that are not read."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fretsaw import images
from fretsaw.errors import ImageError
from fretsaw.outputs import IMAGE_SUFFIXES, Sources
from fretsaw.picture_kinds import depth_of
from hostile import encoded, exif_photo, photo

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "interchange" / "images"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the odd pictures in ../shared/cases, which are not part of the repository")


# Formats


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"), [("AVIF", {"quality": 95}, 20), ("JPEG2000", {"irreversible": False}, 0), ("MPO", {"quality": 95}, 20)]
)
def test_more_formats_are_read_by_their_content(kind, options, tolerance, tmp_path):
    content = encoded(photo(), kind, **options)
    read = images.read_image(content)
    assert np.abs(read.astype(int) - photo()).mean() <= tolerance
    assert images.picture_size(content) == read.shape[:2] == photo().shape[:2]
    (tmp_path / "x.jpg").write_bytes(content)
    assert (images.read_image(tmp_path / "x.jpg") == read).all()
    for place in range(0, len(content), max(1, len(content) // 25)):
        with contextlib.suppress(ImageError):
            assert images.read_image(content[:place]).shape == read.shape


def test_heic_is_read_with_its_extra():
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, the extra heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(photo(48, 64))).save(buffer, quality=95)
    read = images.read_image(buffer.getvalue())
    assert images.picture_size(buffer.getvalue()) == read.shape[:2] == (48, 64)
    assert np.abs(read.astype(int) - photo(48, 64)).mean() < 8
    with pytest.raises(ImageError, match="bytes: expected"):
        images.read_image(buffer.getvalue()[:200])


def test_heic_without_its_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        content = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands
        with pytest.raises(
            ImageError, match=r"^bytes: expected an image that can be read here, got HEIC/HEIF, which needs an extra: pip install 'fretsaw\[heif\]'$"
        ):
            images.read_image(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"%PDF-1.7", "a PDF"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"8BPS\0", "a Photoshop file"), (b"hello", "another kind")],
)
def test_what_is_not_read_is_called_by_its_name(content, said):
    with pytest.raises(ImageError, match=said):
        images.read_image(content + bytes(60))


def test_a_folder_takes_them_and_names_the_rest(tmp_path):
    for name in ("a.JFIF", "b.heic", "c.avif", "d.jp2", "e.mpo", "notes.txt", "f.cr2", "g.txt", ".hidden", "none"):
        (tmp_path / name).write_bytes(b"x")
    sources = Sources([tmp_path])
    assert [below.name for _, below in sources.images] == ["a.JFIF", "b.heic", "c.avif", "d.jp2", "e.mpo"]
    [note] = sources.notes
    assert note.startswith(f"{tmp_path}: 4 files that are no pictures by their names are left out (2 .txt, 1 ")
    assert note.endswith("), first f.cr2")
    assert ".heif" in IMAGE_SUFFIXES


# DICOM


def dicom(pixels: np.ndarray, **changes: object) -> bytes:
    """A DICOM file of a picture, or of frames; with a patient's name that nobody may see."""
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom, the extra dicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = SecondaryCaptureImageStorage, "1.2.3", ExplicitVRLittleEndian
    found = pydicom.Dataset()
    found.file_meta, found.PatientName, found.SOPClassUID, found.SOPInstanceUID = meta, "Secret^Person", SecondaryCaptureImageStorage, "1.2.3"
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    found.Rows, found.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:3]
    if pixels.ndim == 3 and not colour:
        found.NumberOfFrames = len(pixels)
    found.SamplesPerPixel, found.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = pixels.dtype.itemsize * 8
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(found, name)
        else:
            setattr(found, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, found, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_is_read_by_its_window():
    values = (np.arange(600, dtype=np.int16) * 4 - 1000).reshape(20, 30)
    content = dicom(values, WindowCenter=40, WindowWidth=400, RescaleSlope=1, RescaleIntercept=0)
    read = images.read_image(content)
    assert images.picture_size(content) == read.shape[:2] == (20, 30)
    expected = np.rint(np.clip((values - (40 - 0.5 - 399 / 2)) / 399, 0, 1) * 255).astype(np.uint8)
    assert (read == expected[..., None]).all()
    inverse = dicom(values, WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")
    assert (images.read_image(inverse) == 255 - expected[..., None]).all()
    assert (images.read_image(dicom(values))[[0, -1], [0, -1], 0] == [0, 255]).all()  # without a window: all there is
    assert (images.read_image(dicom(np.stack([values, -values]), WindowCenter=40, WindowWidth=400)) == read).all()  # the first frame
    assert (images.read_image(dicom(photo())) == photo()).all()


def test_odd_dicom_is_refused_in_a_line_that_says_nothing_of_the_patient():
    content = dicom(np.zeros((20, 30), np.uint8))
    place = content.index(b"\xe0\x7f\x10\x00")
    cases = [
        (content[: place + 40], "pixels cannot be decoded"),
        (content[:180], "header cannot be read|without pixels"),
        (dicom(np.zeros((20, 30), np.uint8), Rows=9000), "at most 8192 x 8192"),
        (content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"), "another transfer syntax|header cannot be read"),
    ]
    for odd, message in cases:
        with pytest.raises(ImageError, match=message) as error:
            images.read_image(odd)
        assert "Secret" not in str(error.value)
        assert str(error.value).startswith("bytes: expected ")


def test_a_decoder_that_is_killed_costs_its_file(monkeypatch):
    from fretsaw import dicom as parent

    content = dicom(np.zeros((20, 30), np.uint8))
    monkeypatch.setattr(parent.sys, "executable", "/bin/false")
    with pytest.raises(ImageError, match="its decoder broke off"):
        images.read_image(content)


@pytest.mark.parametrize(
    "attempt",
    ["__import__('socket').socket()", "open('x', 'w')", "__import__('os').system('true')", "__import__('subprocess').run(['true'])", "bytes(3 * 2**30)"],
)
def test_a_decoder_may_not_do_anything_else(attempt):
    code = f"from fretsaw import dicom_child as child\nchild._limit()\ntry:\n    {attempt}\nexcept (PermissionError, MemoryError):\n    print('refused')\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "refused\n"


def test_dicom_without_its_extra_names_it(monkeypatch):
    from fretsaw import dicom as parent

    monkeypatch.setattr(parent, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"got DICOM, which needs an extra: pip install 'fretsaw\[dicom\]'"):
        images.read_image(bytes(128) + b"DICM" + bytes(100))


# Depth


def test_values_of_few_bits_use_their_own():
    assert [depth_of(value) for value in (0, 255, 256, 1023, 1024, 4095, 16383, 16384, 65535)] == [8, 8, 10, 10, 12, 12, 14, 16, 16]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "array"])
def test_grey_of_any_depth_fills_its_range(bits, kind):
    values = np.linspace(0, (1 << bits) - 1, 600).round().astype(np.uint16).reshape(20, 30)
    source = values if kind == "array" else encoded(Image.fromarray(values), kind)
    read = images.read_image(source)
    assert (read == (values >> (bits - 8))[..., None]).all()
    if kind != "array":
        assert (images.read_mask(source) == values).all()  # masks and labels are never scaled


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_so_do_colours(bits, kind):
    import cv2

    values = np.linspace(0, (1 << bits) - 1, 1800).round().astype(np.uint16).reshape(20, 30, 3)
    _, content = cv2.imencode(f".{kind}", values[..., ::-1])
    assert np.abs(images.read_image(content.tobytes()).astype(int) - (values >> (bits - 8))).max() <= (0 if bits < 16 else 1)


def test_floats_are_read_in_a_stated_range():
    values = np.linspace(-0.5, 1.5, 600, dtype=np.float32).reshape(20, 30)
    values[0, 0] = np.nan
    expected = np.rint(np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    for source in (values, values.astype(np.float64), encoded(Image.fromarray(values), "TIFF")):
        assert (images.read_image(source, value_range=(0, 1)) == expected[..., None]).all()
        with pytest.raises(ImageError, match="value_range"):
            images.read_image(source)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30)
    assert images.read_image(deep, value_range=(100, 200)).max() == 255
    for odd in ((1, 0), (0, 0), (0, float("nan"))):
        with pytest.raises(ImageError, match="expected a range of two finite numbers"):
            images.read_image(values, value_range=odd)


# Colours


def swapped_profile() -> bytes:
    """A profile unlike sRGB that needs no file: Lab's own primaries are not to be had, so sRGB's profile with red and green exchanged."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = int.from_bytes(content[128:132], "big")
    rows = {bytes(content[132 + 12 * k : 136 + 12 * k]): 132 + 12 * k for k in range(tags)}
    red, green = rows[b"rXYZ"], rows[b"gXYZ"]
    content[red + 4 : red + 12], content[green + 4 : green + 12] = content[green + 4 : green + 12], content[red + 4 : red + 12]
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_become_srgb_by_the_files_profile(kind):
    flat = np.full((20, 30, 3), (200, 60, 30), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    read = images.read_image(encoded(flat, kind, icc_profile=swapped_profile(), **options))
    assert np.abs(read[5, 5].astype(int) - (60, 200, 30)).max() <= 4
    same = images.read_image(encoded(flat, kind, **options))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (images.read_image(encoded(flat, kind, icc_profile=srgb, **options)) == same).all()
    for broken in (b"x" * 200, swapped_profile()[:300], swapped_profile()[:200] + bytes(400)):
        assert (images.read_image(encoded(flat, kind, icc_profile=broken, **options)) == same).all()


def test_transparent_and_palette_pictures_too():
    flat = np.full((20, 30, 4), (200, 60, 30, 255), np.uint8)
    assert np.abs(images.read_image(encoded(flat, "PNG", icc_profile=swapped_profile()))[5, 5].astype(int) - (60, 200, 30)).max() <= 4
    palette = Image.fromarray(flat[..., :3]).quantize(2)
    assert np.abs(images.read_image(encoded(palette, "PNG", icc_profile=swapped_profile()))[5, 5].astype(int) - (60, 200, 30)).max() <= 4


# Files that are cut short, and layouts that are not read


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_without_its_last_bytes_is_read_if_all_its_pixels_are_there(subsampling, caplog):
    content = encoded(photo(40, 64), "JPEG", subsampling=subsampling)
    with caplog.at_level(logging.WARNING, "fretsaw.images"):
        for short in (content[:-1], content[:-2]):
            assert (images.read_image(short) == images.read_image(content)).all()
    assert [record.getMessage() for record in caplog.records] == ["bytes: the file lacks its last bytes; all of its pixels are there"] * 2
    with pytest.raises(ImageError, match="truncated"):
        images.read_image(content[:-30])
    with pytest.raises(ImageError, match="truncated"):
        images.read_image(encoded(photo(40, 64), "JPEG", progressive=True)[:-2])
    turned = exif_photo(6)
    assert (images.read_image(turned[:-2]) == images.read_image(turned)).all()


@needs_cases
def test_reported_pictures(caplog):
    assert images.picture_size(CASES / "orient6.tif") == images.read_image(CASES / "orient6.tif").shape[:2] == (40, 30)
    for name in ("a.avif", "a.jp2", "lacks_eoi.jpg"):
        assert images.read_image(CASES / name).std() > 1
    assert images.read_image(CASES / "g12in16.png").max() > 200
    for name, message in (
        ("five_bands.tif", "got one of 5 channels of 8 bits"),
        ("planar16.tif", "each colour in a plane of its own"),
        ("fake.heic", "expected"),
    ):
        with pytest.raises(ImageError, match=message):
            images.read_image(CASES / name)
    with Image.open(CASES / "display_p3.png") as image:
        stored = np.asarray(image.convert("RGB"))
    assert np.abs(images.read_image(CASES / "display_p3.png").astype(int) - stored).max() > 5
