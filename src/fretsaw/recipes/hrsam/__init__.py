"""HRSAM and HRSAM++: the paper's three settings, each one command from photos to a checkpoint that loads by its path.

paper    HRSAM (Huang et al. 2024), section 4.1 and appendix D.3
command  1 clicks    fretsaw train hrsam --set stage=clicks --set photos=coco/instances_train2017.json,lvis/lvis_v1_train.json --set click_decay=0.6,0.9 \
                     --set start=mae_pretrain_vit_base.pth --set out=runs/clicks --set devices=4 --set device=cuda --set dtype=bfloat16
         2 distil    fretsaw train hrsam --set stage=distil --set photos=coco/train2017 --set start=mae_pretrain_vit_base.pth --set out=runs/distil
         3 finetune  fretsaw train hrsam --set stage=finetune --set photos=hqseg44k-train:hqseg44k --set start=runs/distil/model.safetensors \
                     --set out=runs/finetune
         with anchor=512: HRSAM++
teacher  sam-vit-h, whose prompt encoder and mask decoder the student keeps
data     folders of photos; folders with images and masks; COCO and LVIS files

The same command run again continues. `out` holds checkpoint.pt, log.jsonl, curves.png, model.safetensors and, for distil, the teacher's embeddings.
"""
