"""fretsaw-hr: SAM 2 Hiera-T with HRSAM's parts in place of its global attention, taught by the network that it was made of.

paper    HRSAM (Huang et al. 2024), section 4 and appendix D, setting 2: distillation without labels
command  fretsaw train fretsaw_hr --set photos=FOLDER --set out=runs/hr
teacher  sam2-hiera-tiny, of which the student keeps every layer; three blocks get other attention
data     any folder of photos; no mask is read

    photo -> view (3, S, S) -> [blocks before the first global attention, frozen] -> entry (S/16, S/16, 384) -> the rest -> final (256, S/16, S/16)
                                                                                     |                       |
                                                     what the teacher's three blocks attend to      the teacher's embedding

Up to 1024 pixels an untrained student with the default anchor map is the teacher itself; so it learns from larger views, which the teacher sees as well.

What is frozen is computed once a view and kept on disk together with what the teacher makes of it, so that a step costs the blocks from the first changed
one on. Before the first step, the last layer of every block's attention and the projections to the embedding are fitted by least squares to the teacher's
maps: a minute of arithmetic that saves hundreds of steps.
"""
