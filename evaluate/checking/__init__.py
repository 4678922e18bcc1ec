"""Find what makes a task's scores doubtful: leaks, near-equal frames, wrong labels.

Reading order: `near_duplicates.py`, `leakage.py`, `hygiene.py`. Others import `hygiene.facts_of` and
`leakage.leakage_of` with what they return.
"""
