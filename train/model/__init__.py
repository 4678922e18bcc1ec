"""Define the student, the predictor and the augmentation of the student's input.

Read `jepa.py` first, then `student.py` and `predictor.py`. Others import `Jepa` and `build_student`.
"""
