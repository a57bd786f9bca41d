"""The leaderboard: comparable records put together, with their correlations. Nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.frames import records_frame, with_names
from timm_diffsens.results.records.memory import without_garbage_collection
from timm_diffsens.results.records.published import read_errors, with_published
from timm_diffsens.results.stats import groups as names
from timm_diffsens.results.stats import tables
from timm_diffsens.results.stats.by_deformation import by_deformation
from timm_diffsens.results.stats.by_depth import correlate_by_depth, from_which_depth
from timm_diffsens.results.stats.comparisons import compare_measures
from timm_diffsens.results.stats.correlate import correlate_networks
from timm_diffsens.results.stats.held_out import held_out_table
from timm_diffsens.results.stats.population import (
    FEWEST,
    FEWEST_POINTS,
    MEASURES,
    MOST_TRAIN_ERROR,
    groups,
    left_out,
    networks,
)
from timm_diffsens.results.stats.reading import Pack, read_board
from timm_diffsens.results.stats.resampling import RESAMPLES, Array
from timm_diffsens.results.stats.verdict import verdict
from timm_diffsens.schema.records import Record


@dataclass(frozen=True)
class Group:
    """Records that may be compared: the same protocol, data set and images.

    Tables (missing values are NaN or NA):

    - `models`: one row a record, sorted by test error. `model` (a readable name), `network` (records of one
      network differ by their training seed alone), `spec` (what `diffsens bench` was given), `arch`,
      `family`, `library`, `weights`, `parameters`, `error`, `error_stderr`,
      `error_source`, `train_error`, `trained`, `d`, `g`, `r` and their `_stderr`, the same for the other
      variants (`channel-shuffled_r`, ...), `seed` (of the training), `input` (height x width), `in_fit`
      (bool), `reason` (why it is not in the fits), `key`, `file` (path below the board's
      folder, with /).
    - `points`: one row a network in the fits, geometric means over its training seeds: `network`, `model`,
      `family`, `seeds`, `parameters`, `error`, `error_stderr`, `d`, `g`, `r`, `<variant>_d`, ... The
      correlations are those of these points.
    - `correlations`: see `correlate`; one row for each variant and measure.
    - `comparisons`: see `compare_measures`; is |rho| of R larger than that of D, and of G, for each variant.
    - `by_depth`: `variant`, `measure`, `depth` (0.1 to 1), `n`, `pearson`, `pearson_low`, `pearson_high`.
    - `fits`: the fitted power law as a curve, `measure`, `x`, `error`, `low`, `high` (95 % of the fits),
      original networks only; empty with fewer than five networks.
    - `deformations`: where records have further deformations, a row for each that half of them share, and
      for that of the protocol, over the same networks: `deformation`, `measure`, `n`, `pearson`,
      `family_low`, `family_high`, of original networks at the output.
    - `held_out`: see `held_out_table`: what the other families say of each network, by measure.
    - `left_out`: `model`, `key`, `file`, `reason`: records that are in `models` but not in the fits.
    """

    title: str
    slug: str  # for file names and anchors, unique on the board
    fields: dict[str, str]  # what is equal in all its records, in words: "data set" -> "cifar10", ...
    models: pd.DataFrame
    points: pd.DataFrame
    correlations: pd.DataFrame
    comparisons: pd.DataFrame
    by_depth: pd.DataFrame
    fits: pd.DataFrame
    deformations: pd.DataFrame
    held_out: pd.DataFrame
    left_out: pd.DataFrame
    from_depth: dict[str, float | None]  # measure -> relative depth from which on its interval excludes zero
    verdict: str  # one paragraph, plain text
    unfitted: int = 0  # networks in the fits whose train error is above 1 %

    @property
    def correlates(self) -> bool:
        """Whether some correlation has the networks that it needs; if not, the verdict says so."""
        return bool((self.correlations["n"] >= FEWEST_POINTS).any())


@dataclass(frozen=True)
class Series:
    """Groups that differ only in the noise on their images: the correlation against its size (Fig. 1 right).

    `rows`: `sigma` (input units), `measure`, `n`, `pearson` and its interval over families (`pearson_low`,
    `pearson_high`), sorted.
    """

    title: str
    slug: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Leaderboard:
    """All that the table, the CSV file, the Markdown and the HTML page show."""

    groups: list[Group]  # the main one first; each further one has at least five records
    series: list[Series]
    not_comparable: pd.DataFrame  # `model`, `key`, `file`, `dataset`, `reason`: what differs
    records: list[tuple[Path, Record]]  # of all groups; with `pages`, the output layers alone
    pages: dict[str, str] = field(default_factory=dict)  # key -> what `pack` made of the record in full
    faulty: list[tuple[Path, str]] = field(default_factory=list)  # files that are no records, and why
    notes: list[str] = field(default_factory=list)  # on the whole board, one line each

    @property
    def main(self) -> Group | None:
        """The group with the most records, None where there are no records."""
        return self.groups[0] if self.groups else None


@dataclass(frozen=True)
class Choices:
    """What may be chosen of a leaderboard; all else follows from the records.

    Attributes:
        errors: a file of published test errors, see `published.read_errors`.
        include_unfitted: networks with a train error above 1 % are in the fits.
        resamples: bootstrap samples of the networks.
        seed: of these samples.
    """

    errors: Path | None = None
    include_unfitted: bool = False
    resamples: int = RESAMPLES
    seed: int = 0


@without_garbage_collection()
def build_leaderboard(
    folder: str | Path,
    choices: Choices | None = None,
    *,
    without: Sequence[Path] = (),
    pack: Pack | None = None,
    parallel: bool = False,
) -> Leaderboard:
    """Read the records below `folder`/records, and put together those that may be compared.

    The group with the most records is the main one; others of at least five get tables of their own; the
    records of smaller ones are listed as not comparable, with what differs. Nothing depends on the order in
    which the records are found. Numbers have seven significant digits.

    Args:
        folder: of the leaderboard.
        choices: published errors, what is in the fits, the bootstrap.
        without: files of records to leave aside, as they were not there.
        pack: see `Leaderboard.pages`.
        parallel: read in several processes where that pays; see `records.memory.mapped`.

    Raises:
        UsageError: there is no such folder, it holds no record files, or the published errors cannot be read.
    """
    folder, choices = Path(folder), choices or Choices()
    published = None if choices.errors is None else read_errors(choices.errors)
    kept_records, faulty = read_board(folder / "records", without, pack, parallel=parallel)
    found = [(one.path, one.record) for one in kept_records]
    curves = [one.curves for one in kept_records]
    if not found and not faulty:
        raise UsageError(
            f"no records below {folder / 'records'}: `diffsens bench --out {folder}` writes them"
        )
    frame = records_frame(found)
    frame["file"] = [path.relative_to(folder).as_posix() for path, _ in found]
    notes: list[str] = []
    if choices.include_unfitted:
        above = f"train error above {100 * MOST_TRAIN_ERROR:g} %"
        notes.append(f"Networks that did not fit their training set ({above}) are in the fits.")
    if published is not None:
        frame, unmatched = with_published(frame, published)
        notes += unmatched
    records = [record for _, record in found]
    frame = with_names(frame, records)
    parts = groups(frame)
    kept = [rows for place, rows in enumerate(parts) if place == 0 or len(rows) >= FEWEST]
    titles = names.titles([records[rows.index[0]] for rows in kept])
    made = [_group(title, rows, records, curves, choices) for title, rows in zip(titles, kept, strict=True)]
    return Leaderboard(
        groups=made,
        series=_series(made, [records[rows.index[0]] for rows in kept]),
        not_comparable=tables.not_comparable(kept, parts[len(kept) :], records),
        records=[found[place] for rows in kept for place in rows.index],
        pages={one.record.key: one.page for one in kept_records if one.page},
        faulty=faulty,
        notes=notes,
    )


def _group(
    title: str,
    rows: pd.DataFrame,
    records: list[Record],
    curves: list[dict[str, Array]],
    choices: Choices,
) -> Group:
    reasons = left_out(rows, choices.include_unfitted)
    used = rows[reasons.isna()]
    points = networks(used)
    drawn: dict[str, Any] = {"resamples": choices.resamples, "seed": choices.seed}
    correlations = correlate_networks(points, **drawn)
    comparisons = compare_measures(points, **drawn)
    measured, errors = [curves[place] for place in used.index], used["error"].to_numpy(float)
    by_depth = correlate_by_depth(measured, list(used["network"]), errors, list(used["family"]))
    from_depth = {measure: from_which_depth(by_depth, measure) for measure in MEASURES}
    first = records[rows.index[0]]
    unfitted = used.loc[used["train_error"] > MOST_TRAIN_ERROR, "network"].nunique()
    return Group(
        title=title,
        slug=names.group_slug(first),
        fields=names.group_fields(first, [str(s) for s in rows["error_source"].fillna("not known")]),
        models=tables.rounded(tables.models(rows, reasons)),
        points=tables.rounded(points.sort_values(["error", "model", "network"], ignore_index=True)),
        correlations=tables.rounded(correlations),
        comparisons=tables.rounded(comparisons),
        by_depth=tables.rounded(by_depth),
        fits=tables.rounded(tables.fit_curves(points, drawn)),
        deformations=tables.rounded(by_deformation(rows, records, choices.include_unfitted, drawn)),
        held_out=held_out_table(points),
        left_out=tables.left_out_table(rows, reasons),
        from_depth=from_depth,
        verdict=verdict(correlations, comparisons, from_depth, unfitted),
        unfitted=unfitted,
    )


def _series(made: list[Group], firsts: list[Record]) -> list[Series]:
    """Groups that differ in nothing but the noise on the images, where there are two or more."""
    alike: dict[str, list[int]] = {}
    for place, record in enumerate(firsts):
        alike.setdefault(names.without_corruption(record), []).append(place)
    found = []
    for places in alike.values():
        if len(places) < 2:
            continue
        cleanest = min((firsts[place] for place in places), key=lambda r: r.protocol.corruption_sigma)
        parts = [
            _original(made[place].correlations).assign(sigma=firsts[place].protocol.corruption_sigma)
            for place in places
        ]
        columns = {"family_low": "pearson_low", "family_high": "pearson_high"}
        found_rows = pd.concat(parts)[["sigma", "measure", "n", "pearson", *columns]].rename(columns=columns)
        rows = found_rows.sort_values(["sigma", "measure"], ignore_index=True)
        slug = f"{names.group_slug(cleanest)}-noise"
        found.append(Series(title=names.series_title(cleanest), slug=slug, rows=rows))
    return found


def _original(table: pd.DataFrame) -> pd.DataFrame:
    rows: pd.DataFrame = table[table["variant"] == "original"]
    return rows
