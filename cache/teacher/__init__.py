"""Load a frozen teacher and compute its latents in stored precision.

Read `teacher.py` first (what a teacher is), then `vit.py`, `fitting.py` and `timm_models.py` (those that timm builds,
from weights that `checkpoints/` reads and `layouts/` translates), `adapters.py` (others, from outside), `resolve.py`
and `names/` (which one `--teacher` names), `exported.py` (proves what usjepa-train exported), and `layers.py`,
`computing.py` and `quantiser.py` (from pixels to stored latents). Others import `Teacher`, `load_teacher`,
`resolve_teacher`, `choose_device`, `ModelInput`, `build_timm`, `teacher_layers` and what proves an export; adapters
import what docs/how-to/add-a-teacher.md shows.
"""
