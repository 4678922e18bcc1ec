"""Define the student, the predictor, the projector and the augmentation of the student's input.

Read `jepa.py` first: it joins `student.py` and `predictor.py`. `initial.py` draws their weights, `augment.py` changes
the student's input; `contrast.py` joins student and projector, `crops.py` cuts images for pairs. Others import `Jepa`,
`Student`, `Predictor`, `student_grid`, `Contrast`, `make_optimizer`, `augment` and `random_crops`. This room imports
`masks` and `counter`.
"""
