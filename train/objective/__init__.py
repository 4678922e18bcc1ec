"""Choose the targets that `train.objective` names, and compute the loss that `train.loss` names.

Read `targets.py` first: it decides what is predicted. `pixel_targets.py` makes targets of pixels, `target_norm.py`
normalises any targets, `loss.py` compares predictions with them; `contrast_loss.py` compares images. Others import
`Targets`, `choose_targets`, `stored_latents`, `TargetNorm`, `measured`, `loss` and `image_losses`. This room imports
`model` alone.
"""
