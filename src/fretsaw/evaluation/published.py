"""Figures as the papers print them, to be set beside measured ones.

Names of metrics are those of the reports; 5-mIoU is in percent, SPC in seconds on a CPU. HRSAM's SPC on a GPU is left out: nothing here compares with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fretsaw.evaluation.report import PublishedRow

_SAM_REF_1 = "SAM-REF (paper 004), table 1"
_SAM_REF_2 = "SAM-REF (paper 004), table 2"
_HRSAM_1 = "HRSAM (paper 003), table 1"

_NAN = float("nan")

# Method, training data, backbone, SPC, then NoC90 and NoC95 on GrabCut, Berkeley, DAVIS, SBD. A star marks data the decoder or a part was fine-tuned on.
_MAINSTREAM: tuple[tuple[str, str, str, float, tuple[float, ...]], ...] = (
    ("RITM", "COCO+LVIS", "HRNet18", _NAN, (1.54, 2.22, 2.26, 6.46, 5.74, 12.45, 6.05, 12.47)),
    ("RITM", "COCO+LVIS", "HRNet32", _NAN, (1.56, 2.48, 2.10, 5.41, 5.34, 11.52, 5.71, 12.00)),
    ("PseudoClick", "COCO+LVIS", "HRNet32", _NAN, (1.50, _NAN, 2.08, _NAN, 5.11, _NAN, 5.54, _NAN)),
    ("FocalClick", "COCO+LVIS", "SegF-B3-S2 384", 0.232, (1.68, 1.92, 1.71, 4.21, 4.90, 10.40, 5.59, 11.91)),
    ("SimpleClick", "COCO+LVIS", "ViT-H", 8.24, (1.50, 1.66, 1.75, 4.34, 4.78, 8.88, 4.70, 10.76)),
    ("InterFormer", "COCO+LVIS", "ViT-B", 0.153, (1.50, _NAN, 3.14, _NAN, 6.19, _NAN, 6.34, _NAN)),
    ("InterFormer", "COCO+LVIS", "ViT-L", 0.271, (1.36, _NAN, 2.53, _NAN, 5.21, _NAN, 5.51, _NAN)),
    ("SAM", "SA-1B", "ViT-H", 0.413, (1.88, 2.18, 2.09, 5.14, 5.19, 10.00, 7.62, 15.03)),
    ("SAM-HQ", "HQ-Seg*", "ViT-H", 0.443, (1.86, 2.16, 2.14, 4.94, 5.06, 9.65, 7.91, 15.08)),
    ("FocSAM", "COCO+LVIS*", "ViT-H", 0.467, (1.44, 2.60, 1.50, 3.44, 4.76, 10.77, 5.07, 11.67)),
    ("SAM-REF", "COCO+LVIS*", "ViT-B", 0.278, (1.40, 2.54, 1.58, 3.73, 4.75, 10.55, 5.56, 11.86)),
    ("SAM-REF", "COCO+LVIS*", "ViT-H", 0.511, (1.36, 2.36, 1.43, 3.18, 4.56, 9.28, 4.44, 10.61)),
)

# Method, training data, backbone, SAT latency in seconds, 5-mIoU, NoC90, NoC95, NoF95 on HQSeg-44K.
_HIGH_QUALITY: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    ("FocalClick", "COCO+LVIS", "SegF-B3-S2 256", (30.85, 84.63, 8.12, 12.63, 835)),
    ("FocalClick", "COCO+LVIS", "SegF-B3-S2 384", (40.14, 85.45, 7.03, 10.74, 649)),
    ("SimpleClick", "COCO+LVIS", "ViT-B", (88.5, 85.11, 7.47, 12.39, 797)),
    ("SAM", "SA-1B", "ViT-B", (4.0, 86.16, 7.46, 12.42, 811)),
    ("FocSAM", "COCO+LVIS*", "ViT-H", (18.6, 88.6, 5.74, 9.44, 580)),
    ("InterFormer", "COCO+LVIS", "ViT-B", (30.5, 82.62, 7.17, 10.77, 658)),
    ("SegNext", "COCO+LVIS", "ViT-B", (22.1, 85.71, 7.18, 11.52, 700)),
    ("SAM-REF", "COCO+LVIS*", "ViT-B", (5.1, 88.5, 6.19, 9.84, 603)),
    ("SAM-REF", "COCO+LVIS*", "ViT-H", (6.9, 89.6, 5.44, 9.16, 566)),
    ("HQ-SAM", "HQ-Seg*", "ViT-B", (4.7, 89.95, 6.49, 10.79, 671)),
    ("SegNext", "COCO+LVIS+HQ-Seg", "ViT-B", (22.1, 91.75, 5.32, 9.42, 583)),
    ("SAM-REF", "COCO+LVIS+HQ-Seg*", "ViT-B", (5.1, 92.3, 4.94, 8.79, 538)),
    ("SAM-REF", "COCO+LVIS+HQ-Seg*", "ViT-H", (6.9, 92.3, 4.54, 8.10, 510)),
)

# Method and input side, training data, then 5-mIoU, NoC90, NoC95 on HQSeg-44K and on DAVIS. "distilled": without labels, from SAM ViT-H.
_HRSAM: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("RITM HRNet32 400", "COCO+LVIS", (77.72, 10.01, 14.58, 89.75, 5.34, 11.45)),
    ("FocalClick SegF-B3-S2 256", "COCO+LVIS", (84.63, 8.12, 12.63, 90.82, 5.17, 11.42)),
    ("FocalClick SegF-B3-S2 384", "COCO+LVIS", (85.45, 7.03, 10.74, 91.22, 4.90, 10.40)),
    ("SimpleClick ViT-B 448", "COCO+LVIS", (85.11, 7.47, 12.39, 90.73, 5.06, 10.37)),
    ("InterFormer ViT-B 1024", "COCO+LVIS", (82.62, 7.17, 10.77, 87.79, 5.45, 11.88)),
    ("SAM ViT-B 1024", "SA-1B", (86.16, 7.46, 12.42, 90.95, 5.14, 10.74)),
    ("MobileSAM ViT-T 1024", "SA-1B", (81.98, 8.70, 13.83, 89.18, 5.83, 12.74)),
    ("EfficientSAM ViT-T 1024", "ImageNet+SA-1B", (77.90, 10.11, 14.60, 85.26, 7.37, 14.28)),
    ("EfficientSAM ViT-T 2048", "ImageNet+SA-1B", (74.20, 9.47, 13.13, 84.10, 8.00, 14.37)),
    ("EfficientSAM ViT-S 1024", "ImageNet+SA-1B", (79.01, 8.84, 13.18, 87.55, 6.37, 12.26)),
    ("EfficientSAM ViT-S 2048", "ImageNet+SA-1B", (74.91, 8.27, 11.97, 85.17, 6.86, 12.49)),
    ("SegNext SAx1 ViT-B 1024", "COCO+LVIS", (85.41, 7.47, 11.94, 90.13, 5.46, 13.31)),
    ("SegNext SAx2 ViT-B 1024", "COCO+LVIS", (85.71, 7.18, 11.52, 89.85, 5.34, 12.80)),
    ("HQ-SAM ViT-B 1024", "SA-1B+HQ", (89.85, 6.49, 10.79, 91.77, 5.26, 10.00)),
    ("SegNext SAx2 ViT-B 1024", "COCO+LVIS+HQ", (91.75, 5.32, 9.42, 91.87, 4.43, 10.73)),
    ("HRSAM ViT-B 1024", "COCO+LVIS+HQ", (90.84, 5.90, 9.95, 90.94, 5.10, 11.98)),
    ("HRSAM ViT-B 2048", "COCO+LVIS+HQ", (91.93, 5.22, 8.81, 91.78, 4.75, 9.67)),
    ("HRSAM++ ViT-B 1024", "COCO+LVIS+HQ", (90.94, 5.87, 9.89, 91.06, 4.92, 11.93)),
    ("HRSAM++ ViT-B 2048", "COCO+LVIS+HQ", (92.61, 4.87, 8.38, 92.11, 4.57, 9.59)),
    ("SAM ViT-H 1024", "SA-1B", (87.21, 6.85, 11.57, 90.82, 5.20, 10.04)),
    ("HRSAM ViT-B 1024", "COCO+LVIS, distilled", (85.86, 7.66, 12.54, 89.54, 5.48, 11.61)),
    ("HRSAM ViT-B 2048", "COCO+LVIS, distilled", (87.31, 6.76, 11.17, 90.36, 5.39, 10.15)),
    ("HRSAM++ ViT-B 1024", "COCO+LVIS, distilled", (86.25, 7.47, 12.33, 90.06, 5.41, 11.35)),
    ("HRSAM++ ViT-B 2048", "COCO+LVIS, distilled", (88.66, 6.11, 10.48, 90.78, 5.08, 9.73)),
    ("HRSAM ViT-B 1024", "COCO+LVIS, distilled, +HQ", (91.81, 5.42, 9.27, 91.34, 4.82, 11.86)),
    ("HRSAM ViT-B 2048", "COCO+LVIS, distilled, +HQ", (93.34, 4.37, 7.86, 92.63, 4.22, 8.83)),
    ("HRSAM++ ViT-B 1024", "COCO+LVIS, distilled, +HQ", (91.84, 5.32, 9.18, 91.25, 5.02, 11.64)),
    ("HRSAM++ ViT-B 2048", "COCO+LVIS, distilled, +HQ", (93.32, 4.20, 7.79, 92.73, 4.12, 8.72)),
)


def published_click_rows() -> list[PublishedRow]:
    """Return the click figures of SAM-REF's tables 1 and 2 and of HRSAM's table 1; what a table leaves out is missing from `metrics`."""
    rows: list[PublishedRow] = []
    for method, data, backbone, spc, values in _MAINSTREAM:
        for dataset, (noc90, noc95) in zip(("grabcut", "berkeley", "davis", "sbd"), _chunks(values, 2), strict=True):
            rows.append(PublishedRow(_SAM_REF_1, method, backbone, data, dataset, _given({"NoC@90": noc90, "NoC@95": noc95, "SPC": spc})))
    for method, data, backbone, (latency, miou, noc90, noc95, nof95) in _HIGH_QUALITY:
        metrics = {"SAT latency": latency, "5-mIoU": miou, "NoC@90": noc90, "NoC@95": noc95, "NoF@95": nof95}
        rows.append(PublishedRow(_SAM_REF_2, method, backbone, data, "hqseg44k", _given(metrics)))
    for method, data, values in _HRSAM:
        name, _, backbone = method.partition(" ")
        for dataset, (miou, noc90, noc95) in zip(("hqseg44k", "davis"), _chunks(values, 3), strict=True):
            rows.append(PublishedRow(_HRSAM_1, name, backbone, data, dataset, {"5-mIoU": miou, "NoC@90": noc90, "NoC@95": noc95}))
    return rows


def _chunks(values: Sequence[float], length: int) -> list[tuple[float, ...]]:
    return [tuple(values[i : i + length]) for i in range(0, len(values), length)]


def _given(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value == value}
