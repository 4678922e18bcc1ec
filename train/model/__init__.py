"""Define the student, the predictor and the augmentation of the student's input.

Read `jepa.py` first: it joins `student.py` and `predictor.py`. `initial.py` draws their weights, `augment.py` changes
the student's input. Others import `Jepa`, `Student`, `Predictor`, `student_grid`, `make_optimizer` and `augment`. This
room imports `masks` and `counter`.
"""
