"""Repair what is damaged in a sealed store, and touch nothing else.

Order: descriptions that follow from the manifest, tables of a scan, pixels and regions from the sources, latents from
the pixels, commit records, and last a new generation that says what was mended. Good rows are kept. What is made again
must hash to what the manifest holds; latents that were built by other library versions or on another device may
differ within the tolerance of the recheck, and are recorded as such. What can't be mended is left as it is and named.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.building.latent_job import job_of_stored_layers
from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.errors import DamageError, SourceError
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.scanning.growth import regrown
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import records, shard_matches
from usjepa.cache.store.descriptions import commit_of, damaged_description, damaged_table, derivable
from usjepa.cache.store.writer import StoreWriter, check_same_layer, soft_runs
from usjepa.cache.teacher.resolve import resolve_teacher
from usjepa.cache.upkeep.repair_shards import Mended, ShardRepair
from usjepa.cache.upkeep.verify import Damage, sealed_manifest, verify_against

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.store.generations import Manifest


_GO_ON = "What is mended stays: run the same command again to go on."


@dataclass
class RepairReport:
    """Damages that a repair found, and lines about those that it mended or had to leave."""

    found: list[Damage] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def repair(
    store: str,
    recipe: Recipe,
    source: str | None = None,
    teacher: str | None = None,
    device: str | None = None,
    steal: bool = False,
) -> RepairReport:
    """Mend a sealed store.

    Args:
        store: folder or URL.
        recipe: the one it was built with.
        source: where its sources lie, for damaged pixels, regions and tables; none: the recipe's own.
        teacher: as for `build`, for damaged latents.
        device: torch device of the teacher.
        steal: take over the claim of a builder known to be dead.

    Raises:
        NotSealedError: it was never sealed: run its build again, which redoes what is damaged.
        IdentityError: recipe or teacher are not those that it was built with.
    """
    storage = open_storage(store)
    sealed_manifest(storage)  # a folder of other things is left as it is
    with graceful_interrupts(_GO_ON), hold_claim(storage, WHOLE, steal) as claim:
        refuse_rivals(storage, WHOLE, steal)
        manifest = sealed_manifest(storage)
        storage.sweep()
        report = RepairReport(verify_against(storage, manifest).damages)
        if not report.found:
            return report
        writer = StoreWriter(storage, claim.check)
        _mend_descriptions(writer, manifest, report)
        listing = _listing(source or recipe.cache.source, recipe.cache, manifest)
        _mend_tables(writer, manifest, listing, recipe.cache, report)
        writer.attach()
        maker = _maker(writer, recipe, listing, teacher, device, report)
        try:
            shards = _mend_shards(maker, manifest, report)
        finally:
            if maker.cutters is not None:
                maker.cutters.close()
        _mend_commits(writer, manifest, shards, report)
        if shards:
            writer.publish_generation(_next(manifest, shards))
        return report


def _mend_descriptions(writer: StoreWriter, manifest: Manifest, report: RepairReport) -> None:
    """Write again what follows from the manifest: descriptions of layers and segments, other manifests."""
    for name, wanted in derivable(manifest):
        if damaged_description(writer.storage, name, wanted, manifest) is not None:
            writer.storage.publish(name, wanted, writer.guard)
            report.mended.append(f"{name}: written again from the manifest")


def _listing(source: str | None, settings: CacheSettings, manifest: Manifest) -> Listing | None:
    for layer in pixel_layers(settings, manifest.rows_per_shard):
        check_same_layer(manifest.layers[layer.name], layer, "the store")
    return list_source(source, settings) if source is not None else None


def _mend_tables(
    writer: StoreWriter, manifest: Manifest, listing: Listing | None, settings: CacheSettings, report: RepairReport
) -> None:
    """Scan again for the tables of a segment; only the very same bytes are taken."""
    storage = writer.storage
    for segment in manifest.segments:
        hashes = {"sources": segment.sources_hash, "rows": segment.rows_hash}
        names = {part: f"{segment.folder}/{part}.parquet" for part in hashes}
        broken = {part for part in hashes if damaged_table(storage, names[part], hashes[part]) is not None}
        if not broken:
            continue
        if listing is None:
            report.left.append(f"{segment.folder}: its tables need the sources: give --source.")
            continue
        made = regrown(storage, listing, settings, manifest.segments, segment.number)
        for part in sorted(broken):
            same = [one[part] for one in made if xxhash.xxh3_128_hexdigest(one[part]) == hashes[part]]
            if same:
                storage.publish(names[part], same[0], writer.guard)
                report.mended.append(f"{names[part]}: scanned again, the same bytes")
            else:
                report.left.append(
                    f"{names[part]}: a new scan gives another table: the sources changed since, or "
                    "another version of usjepa scanned them."
                )


def _maker(
    writer: StoreWriter,
    recipe: Recipe,
    listing: Listing | None,
    teacher: str | None,
    device: str | None,
    report: RepairReport,
) -> ShardMaker:
    """Return what makes rows again, as far as sources and teacher are given."""
    settings, state = recipe.cache, writer.state
    cutters: Cutters | None = None
    if listing is not None:
        try:
            cutters = Cutters(writer.storage, state.segments, listing, _keeping(settings))
        except (DamageError, SourceError) as error:
            report.left.append(str(error))
    commits = writer.committed(state.layers.values())
    job = None
    if teacher is not None:
        chosen = resolve_teacher(teacher, settings.teacher)
        kept = {name: [commit.soft for commit in found.values()] for name, found in commits.items()}
        job = job_of_stored_layers(state, settings, chosen, device, kept, writer.storage.url)
    return ShardMaker(writer, commits, cutters, job=job)


def _keeping(settings: CacheSettings) -> CacheSettings:
    """Return settings that leave no frame out and stop at none by soft rules: rows that were stored were kept."""
    return settings.model_copy(
        update={"on_blank": "keep", "preprocess": settings.preprocess.model_copy(update={"whole": "keep"})}
    )


def _mend_shards(maker: ShardMaker, manifest: Manifest, report: RepairReport) -> list[Mended]:
    """Mend damaged shards, pixels before latents; return those that were mended."""
    broken = {(d.layer, d.shard) for d in report.found if d.layer is not None and d.shard is not None}
    at = ShardRepair(maker, manifest)
    done: list[Mended] = []
    order = sorted(broken, key=lambda item: (manifest.layers[str(item[0])].teacher is not None, item[1], item[0]))
    for layer, shard in order:
        if any((mended.layer, mended.shard) == (layer, shard) for mended in done):
            continue  # with its scales
        safe_point()
        try:
            mended = at.mend(str(layer), int(shard or 0))
        except (DamageError, SourceError) as error:
            report.left.append(f"{layer}, shard {shard}: {error}")
            continue
        done += mended
        report.mended += map(str, mended)
    return done


def _mend_commits(writer: StoreWriter, manifest: Manifest, shards: list[Mended], report: RepairReport) -> None:
    """Write lost commit records again where the shard is the one that the manifest names."""
    storage = writer.storage
    fresh = {(mended.layer, mended.shard) for mended in shards if not mended.exact}
    known = records(storage, list(manifest.layers.values()))
    shards_listed = storage.listings(list(manifest.layers))
    for (name, layer), files in zip(manifest.layers.items(), shards_listed, strict=True):
        for shard in range(manifest.shard_count):
            listed = files.get(layer.shard_name(shard).rpartition("/")[2])
            if (name, shard) in fresh or listed is None:
                continue
            wanted, found = commit_of(manifest, layer, shard, listed.size), known[name].get(shard)
            if found is not None:  # notes about its frames stand in the record alone
                wanted = replace(wanted, blank=found.blank, doubtful=found.doubtful)
            if found != wanted and shard_matches(storage, layer, wanted):
                storage.publish(layer.commit_name(shard), wanted.to_bytes(), writer.guard)
                if not any((mended.layer, mended.shard) == (name, shard) for mended in shards):
                    report.mended.append(f"{layer.commit_name(shard)}: written again from the manifest")


def _next(manifest: Manifest, shards: list[Mended]) -> Manifest:
    """Return the generation after a repair."""
    tables = {name: list(hashes) for name, hashes in manifest.tables.items()}
    soft = {
        name: [next(v for first, v in reversed(manifest.soft[name]) if first <= i) for i in range(manifest.shard_count)]
        for name in manifest.layers
    }
    for mended in shards:
        tables[mended.layer][mended.shard] = mended.table
        if not mended.exact:
            soft[mended.layer][mended.shard] = mended.soft
    return replace(
        manifest,
        generation=manifest.generation + 1,
        tables={name: tuple(hashes) for name, hashes in tables.items()},
        soft={name: soft_runs(values) for name, values in soft.items()},
        repaired=(*manifest.repaired, *(mended.record() for mended in shards)),
    )
