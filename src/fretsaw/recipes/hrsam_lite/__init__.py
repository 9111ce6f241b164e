"""hrsam-lite: a small encoder learns to stand in for SAM 2 Hiera-T's, whose prompt encoder and mask decoder stay as they are.

paper    HRSAM (Huang et al. 2024), section 4 and appendix D, setting 2 (distillation without labels), at a size that ships
command  fretsaw train hrsam_lite --set photos=FOLDER --set out=runs/lite
teacher  sam2-hiera-tiny
data     any folder of photos; no mask is read

Two losses, added: the student's three maps against the teacher's (equation 20), and, through the frozen decoder, the student's masks against the
teacher's on random prompts. The second says which errors of the maps matter.
"""
