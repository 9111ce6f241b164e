"""Drop-in replacements for segment-anything: the same names, arguments, shapes and dict keys, on any model of Fretsaw that takes clicks.

    from fretsaw.compat import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

    sam = sam_model_registry["vit_b"](checkpoint="sam_vit_b_01ec64.pth").to("cuda")
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    masks, scores, low_res_masks = predictor.predict(point_coords=np.array([[120, 80]]), point_labels=np.array([1]))
    records = SamAutomaticMaskGenerator(sam).generate(image)

New code is better served by `fretsaw.load` and sessions; this module is for code that exists.

Frames here are segment-anything's: points and boxes are pixels of the original image, a box in a record is x, y, width, height up to and including the last
column and row.

Errors: what segment-anything raises as `RuntimeError` (no image set) is an `ImageNotSetError`, a `RuntimeError` too, and an unknown model name is a
`KeyError` too. What it leaves to `assert` or to torch (wrong shapes, unknown modes, a checkpoint of another size) is the fitting `FretsawError` alone.

Deviation: with a model whose frame is a stretched square (SAM 2), `set_torch_image` takes images of S x S, and coordinates scale by axis.
Deviation: images are resized by `fretsaw.frames`, published SAM uses Pillow: values differ by at most one of 255 levels, from rounding.
"""

from fretsaw.compat.generator import SamAutomaticMaskGenerator
from fretsaw.compat.predictor import ImageNotSetError, ResizeTransform, SamPredictor
from fretsaw.compat.registry import UnknownModelError, sam_model_registry

__all__ = ["ImageNotSetError", "ResizeTransform", "SamAutomaticMaskGenerator", "SamPredictor", "UnknownModelError", "sam_model_registry"]
