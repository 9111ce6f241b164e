"""SAM-REF: fine-tune the decoder of a frozen model on clicks (stage 1), then train a refiner on top of it (stage 2).

paper    SAM-REF (Yu et al. 2024), sections 3.5 and 4.1.3
command  fretsaw train sam_ref --set data=FOLDER --set photos=FOLDER --set out=runs/sam_ref
         fretsaw train sam_ref --set stage=decoder --set data=FOLDER --set out=runs/sam_ref_decoder      (stage 1; optional)
         on a GPU: --set device=cuda --set dtype=bfloat16 --set batch=8 --set workers=8
model    sam2-hiera-tiny, or any that takes clicks
data     objects of labelled sets (train parts; by default coco_mval, ccp and human_seg), masks that the model finds by itself on photos
         without labels, and objects pasted on photos
chosen   on the val parts of the sets: the refiner with the lowest mean of NoC@90 + NoC@95 is stored as refiner.safetensors,
         the one of the last step as last.safetensors

Every photo is encoded once. A step clicks a batch of objects with the model in the loop. Stage 1 learns from the answer to the last click, stage 2 from crops
of the answers to all clicks.

Deviation: Stage 2 learns from the answers to all clicks of an object alike, InterFormer's strategy from one, the n-th with probability gamma^n: at its gamma,
0.6, n rarely goes beyond three, the refiner is there for the later ones, and clicking is what takes the time. Stage 1 learns from one, at gamma 0.75.

Deviation: GlobalDiff learns on crops of half the map's side, since errors are where the object is and a crop costs a quarter.

Deviation: Targets are the share of a map's pixel that the object covers, not a decision, so that a mask enlarged four times keeps its edge.

Deviation: The best of SAM's three masks is refined at every click, as sessions answer, not token 0 from the second click on.

Deviation: Stage 1 learns dice and predicted IoU beside the normalised focal loss, since sessions choose among three masks by that prediction.

Deviation: The paper learns from COCO and LVIS. Outlines drawn by people lie beside the edge; photos with pasted objects, whose masks are exact, are mixed in.

Deviation: AdamW at 5e-4 for some thousand steps in place of 1e-4 for 80 thousand.
"""
