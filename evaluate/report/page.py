"""The report's page: one HTML template with its style inside. It asks for nothing from anywhere.

Colours are Okabe and Ito's, told apart by colour-blind readers; what colour says is said by shape or words too.
"""

from __future__ import annotations

from string import Template

_SERIES = "\n".join(f"svg .c{i} {{ stroke: var(--c{i}); }} svg .mark.c{i} {{ fill: var(--c{i}); }}" for i in range(7))

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --quiet: #59626c; --rule: #d5dade; --soft: #f3f5f7;
  --ours: #0072b2; --other: #6b7480; --second: #d55e00; --warn: #fdf3dc; --heat: 0, 114, 178;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0518a; --c4: #a67100; --c5: #2b94cf; --c6: #555e68; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e9ec; --quiet: #a3adb7; --rule: #3a424a;
  --soft: #1e2328; --ours: #56b4e9; --other: #9aa4ae; --second: #e69f00; --warn: #3a3014; --heat: 86, 180, 233;
  --c0: #56b4e9; --c1: #ee8a45; --c2: #35c79c; --c3: #dd94bd; --c4: #e6b13c; --c5: #8fa8ff; --c6: #aab4be; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li, dd { max-width: 44rem; }
.quiet, figcaption, dd { color: var(--quiet); }
.lead { font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; white-space: normal; }
td small { display: block; color: var(--quiet); }
tr.ours th, tr.ours td { background: var(--soft); font-weight: 600; }
tr.ours small, tr.floor th { font-weight: 400; }
tr.floor td, tr.floor th { color: var(--quiet); }
.scores th:first-child, .measures th:first-child { position: sticky; left: 0; background: var(--paper);
  white-space: normal; }
tr.ours th:first-child { background: var(--soft); }
.counts tbody th { font-weight: 400; } .counts tr:nth-last-child(-n+2) th { font-weight: 600; }
.best::after { content: " *"; }
tr.published th, tr.published td { color: var(--quiet); font-weight: 400; padding-top: .2rem; padding-bottom: .2rem; }
tr.first th, tr.first td { border-top: 2px solid var(--rule); padding-top: .5rem; }
.measures { font-size: .92rem; } .measures td, .measures th { padding-left: .45rem; padding-right: .45rem; }
.measures th:first-child { min-width: 7.5rem; padding-left: 0; } .measures thead th { font-weight: 400; }
.measures tbody th { font-weight: 400; } .measures tr.ours th { font-weight: 600; }
.download { font-size: .95rem; } a { color: var(--ours); }
figure { margin: 1rem 0; max-width: 40rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--quiet); font-family: inherit; }
svg text.ours { fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .even { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 1.5 2.5; }
svg .floor { stroke: var(--second); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg circle.ours { fill: var(--ours); fill-opacity: .55; } svg circle.other { fill: var(--other); fill-opacity: .55; }
svg .mean { stroke-width: 2.5; } svg .mean.ours { stroke: var(--ours); } svg .mean.other { stroke: var(--other); }
svg .knn { fill: var(--paper); fill-opacity: .6; stroke: var(--ink); stroke-width: 1.4; }
svg .interval { stroke-width: 1; } svg .interval.ours { stroke: var(--ours); }
svg .interval.other { stroke: var(--other); }
svg .curve { fill: none; stroke-width: 1.8; } svg .whisker { stroke-width: 1; stroke-opacity: .6; }
svg .mark { stroke-width: 1.2; } svg .frame { fill: none; stroke: var(--rule); }
svg .map .mark { fill-opacity: .55; }
SERIES
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0; }
.legend li { display: flex; align-items: center; gap: .4rem; font-size: .9rem; } .sign { width: 34px; height: 14px; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .5rem 1.5rem; }
.multiples figure { margin: .5rem 0; } .multiples figcaption { font-size: .85rem; line-height: 1.35; }
h4 { font-size: .95rem; margin: .3rem 0; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } svg polyline.train { stroke: var(--ours); }
svg polyline.validation { stroke: var(--second); stroke-dasharray: 5 3; } svg circle.validation { fill: var(--second); }
.key { display: inline-block; width: 1.6em; border-top: 3px solid var(--ours); vertical-align: middle; }
.key.validation { border-top: 3px dashed var(--second); }
.pair { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.confusion { font-size: .88rem; } .confusion td, .confusion th { padding: .35rem .38rem; }
.confusion td { text-align: center; border: 2px solid var(--paper); min-width: 3.2rem; }
.confusion thead th { text-align: center; border-bottom: 0; font-weight: 400; }
.confusion tbody th { text-align: right; border-bottom: 0; font-weight: 400; padding-left: 0; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; padding: 0; }
.frames figure { margin: 0; } .frames img { width: 100%; height: auto; display: block; background: #000; }
.frames figcaption { font-size: .85rem; line-height: 1.35; padding-top: .3rem; color: var(--ink); }
.frames .wrong { color: var(--second); font-weight: 600; }
.note { background: var(--warn); border-left: 4px solid var(--second); padding: .5rem .8rem; margin: .75rem 0; }
.note ul { margin: 0; padding-left: 1.1rem; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
code, .mono { font: .82rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
td.mono, .facts td { text-align: left; white-space: normal; } .facts th { font-weight: 400; white-space: normal; }
@media (max-width: 34rem) { main { padding: 1rem .8rem 3rem; } th, td { padding: .35rem .45rem; }
  h1 { font-size: 1.35rem; }  .frames { grid-template-columns: repeat(2, 1fr); } .confusion { font-size: .8rem; }
  .confusion td, .confusion th { padding: .3rem .2rem; }
  .confusion td { min-width: 1.7rem; } .confusion tbody th { white-space: normal; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #444; --rule: #bbb; --soft: #f0f0f0;
  --ours: #0072b2; --other: #6b7480; --second: #d55e00; --warn: #fff; --heat: 0, 114, 178; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } body { font-size: 10.5pt; }
  figure, table, .note, .frames figure { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; } .frames { grid-template-columns: repeat(6, 1fr); }
  .multiples { grid-template-columns: repeat(3, 1fr); } .download { display: none; }
  :root { --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0518a; --c4: #a67100; --c5: #2b94cf; --c6: #555e68; } }
""".replace("SERIES", _SERIES)

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
"""
)

MEANING = """
<dl>
<dt>Macro F1</dt>
<dd>For each class, how well frames of that class are found without false alarms, from 0 to 100; then the plain average
over the classes, so that a rare finding counts as much as a common one. 100 is faultless.</dd>
<dt>Mean ± spread</dt>
<dd>A linear classifier is trained on the frozen features several times, each time from another random start. The spread
is the standard deviation over those starts. It doesn't cover the choice of patients.</dd>
<dt>95 % interval</dt>
<dd>How far the score may be off because these patients were tested and not others: the test patients are drawn again
with replacement, all frames of a patient together, and the probe's starts with them. It is far wider than the spread
where patients are few. It says nothing of patients of another kind, clinic or scanner.</dd>
<dt>Real differences</dt>
<dd>Two encoders are compared on the same drawn patients. A difference is called real if chance alone would make one so
large in fewer than 5 of 100 such pages.</dd>
<dt>Attentive probe</dt>
<dd>Where it was asked for: a classifier that first learns which parts of the frame to look at, in place of their plain
average. It shows whether the encoder knows of a small finding that an average would drown.</dd>
<dt>Logistic regression</dt>
<dd>A second linear classifier, without random starts; how strongly it is held back is chosen on the validation
frames.</dd>
<dt>k-NN</dt>
<dd>Nothing is trained: each test frame gets the commonest class among the training frames whose features are nearest.
It shows whether frames that look alike to the encoder are alike to a clinician.</dd>
<dt>Always the commonest class</dt>
<dd>The most that can be reached without looking at the image at all. A score near it means: nothing learnt.</dd>
<dt>Balanced accuracy</dt>
<dd>The share of frames recognised, averaged over the classes.</dd>
<dt>Calibration</dt>
<dd>Whether the classifier is right as often as it is sure: of frames that it is 80 % sure of, 80 in 100 should be named
rightly. A classifier can rank frames well and yet be far too sure of itself.</dd>
<dt>AUROC</dt>
<dd>The chance that a frame of a class gets a higher probability of it than a frame of another class, averaged over the
classes. 50 is guessing.</dd>
</dl>
"""
