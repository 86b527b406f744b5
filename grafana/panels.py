"""What the dashboards are put together from: variables, queries, and one function for each kind of panel.

Every panel gets a sentence on what it shows and one on what to do; a panel without them cannot be built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_words
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

ITEM_DURATION = "paceline_item_duration_seconds"
U = 'upstream=~"$upstream"'
SU = f'strategy=~"$strategy", {U}'
TRIED = f'outcome!~"rejected|cancelled|dependency_failed", {SU}'
"""Of items: those that were not done with before they began, which would make every latency look good."""
R = "[$__rate_interval]"
P = TypeVar("P")
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

PALETTES = {
    "outcome": {
        "success": "green",
        "http_error": "orange",
        "timeout": "red",
        "connect_error": "dark-red",
        "protocol_error": "dark-purple",
        "too_large": "dark-yellow",
        "rejected": "purple",
        "deadline_exceeded": "yellow",
        "cancelled": "gray",
        "dependency_failed": "dark-blue",
    },
    "verdict": {
        "success": "green",
        "throttled": "yellow",
        "transient": "orange",
        "permanent": "red",
        "ignored": "gray",
    },
    "reason": {"rate": "blue", "concurrency": "purple", "backoff": "orange", "pause": "yellow"},
    "strategy": {
        "sequential": "blue",
        "concurrent": "red",
        "bounded": "orange",
        "token_bucket": "purple",
        "adaptive": "green",
    },
    "status_class": {"2xx": "green", "3xx": "blue", "4xx": "orange", "5xx": "red"},
}
"""The colour of a label's value is the same in every panel."""


class Query(NamedTuple):
    """One query and how its series are named."""

    expr: str
    legend: str = ""


def quantile(share: float, metric: str, *labels: str, over: str = R, of: str = SU) -> str:
    """The expression of a histogram's quantile for each combination of the labels."""
    by = ", ".join((*labels, "le"))
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{{of}}}{over})))"


def quantiles(metric: str) -> list[Query]:
    """p50, p95 and p99 of a histogram."""
    of = TRIED if metric == ITEM_DURATION else SU
    return [Query(quantile(share, metric, of=of), name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))]


def describe(shows: str, action: str) -> str:
    """A panel's description."""
    return f"{shows}\n\n**What to do:** {action}"


def time_series_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    dashed: str = "",
    repeat: str = "",
) -> timeseries.Panel:
    """Curves over time; `stacked` where their sum means something, `dashed` a pattern of names that are limits."""
    panel = (
        timeseries.Panel()
        .unit(unit)
        .min(0)
        .line_width(1 if stacked else 2)
        .fill_opacity(45 if stacked else 0)
        .show_points(words.VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL).group("A"))
    if dashed:
        limit_style = [
            _override_property("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            _override_property("custom.lineWidth", 1),
        ]
        panel = panel.override_by_regexp(dashed, limit_style)
    if repeat:
        panel = panel.repeat(repeat).repeat_direction("h").max_per_row(3)
        width = 24  # a line of its own; Grafana divides it
    return _finish_panel(_apply_palette(panel, queries[0].legend), title, description, queries, width, height)


def stat_panel(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    thresholds: Mapping[float, str] | None = None,
    decimals: int = 1,
) -> stat.Panel:
    """One figure with its course behind it; `steps` colour it from a value on, the first from the bottom."""
    panel = (
        stat.Panel()
        .unit(unit)
        .decimals(decimals)
        .graph_mode(words.BigValueGraphMode.AREA)
        .color_mode(words.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds(thresholds or {0: "blue"}))
    )
    return _finish_panel(panel, title, description, [query], 4, 5)


def bar_gauge_panel(
    title: str, description: str, *queries: Query, unit: str, width: int = 12, height: int = 8
) -> bargauge.Panel:
    """The present values as a row of bars."""
    panel = (
        bargauge.Panel()
        .unit(unit)
        .min(0)
        .orientation(words.VizOrientation.HORIZONTAL)
        .display_mode(words.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds({0: "blue"}))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    )
    return _finish_panel(panel, title, description, queries, width, height)


def state_timeline_panel(
    title: str,
    description: str,
    query: Query,
    states: Mapping[int, tuple[str, str]],
    *,
    width: int = 12,
    height: int = 6,
) -> statetimeline.Panel:
    """One band for each series; `names` gives each value its word and colour."""
    results = {
        str(value): model.ValueMappingResult(text=text, color=colour, index=value)
        for value, (text, colour) in states.items()
    }
    panel = (
        statetimeline.Panel()
        .mappings([model.ValueMap(options=results)])
        .thresholds(_thresholds({value: colour for value, (_, colour) in states.items()}))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .merge_values(True)
        .show_value(words.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(75)
        .legend(_legend())
    )
    return _finish_panel(panel, title, description, [query], width, height)


def heatmap_panel(title: str, description: str, query: Query, *, repeat: str, height: int = 7) -> heatmap.Panel:
    """How a histogram's buckets fill over time, one panel for each value of the variable `repeat`."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_words.HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .scale(heatmap_words.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(words.AxisPlacement.LEFT))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .hide_legend()
        .show_y_histogram()
        .repeat(repeat)
        .repeat_direction("h")
        .max_per_row(3)
    )
    return _finish_panel(panel, title, description, [query], 24, height, PromQueryFormat.HEATMAP)


def summary_table_panel(
    title: str, description: str, by: str, columns: Sequence[tuple[str, str, int, str]], *, height: int = 7
) -> table.Panel:
    """One line for each value of the label `by`; a column is its name, unit, decimals and query over the range."""
    panel = table.Panel().show_header(True)
    renamed: dict[str, str] = {by: by}
    for place, (name, unit, decimals, _) in enumerate(columns):
        column = f"Value #{_ref_id(place)}"
        renamed[column] = name
        panel = panel.override_by_name(
            name, [_override_property("unit", unit), _override_property("decimals", decimals)]
        )
    panel = panel.transformations(
        [
            model.DataTransformerConfig(id_val="merge", options={}),
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: place for place, name in enumerate(renamed)},
                    "renameByName": renamed,
                },
            ),
        ]
    )
    queries = [Query(expr) for *_, expr in columns]
    return _finish_panel(panel, title, description, queries, 24, height, PromQueryFormat.TABLE)


def build_dashboard(uid: str, title: str, description: str, rows: Mapping[str, Sequence[Any]]) -> model.Dashboard:
    """A dashboard of rows, with the three variables and links to its sisters that keep them and the time."""
    links = (
        dashboard.DashboardLink("Paceline")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["paceline"])
        .include_vars(True)
        .keep_time(True)
        .as_dropdown(False)
    )
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["paceline"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(links)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("upstream", "Upstream", "label_values(paceline_items_total, upstream)"))
        .with_variable(_variable("strategy", "Strategy", "label_values(paceline_items_total, strategy)"))
    )
    for name, panels in rows.items():
        builder = builder.with_row(dashboard.Row(name))
        for panel in panels:
            builder = builder.with_panel(panel)
    built = builder.build()
    for panel_id, panel in enumerate(built.panels or [], start=1):
        panel.id_val = panel_id
    return built


def to_json(board: model.Dashboard) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _finish_panel(
    panel: P,
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    height: int,
    format_: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> P:
    builder = cast(Any, panel)  # the builders share these methods, but no type
    for index, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(_ref_id(index)).format(format_).datasource(SOURCE)
        target = target.legend_format(query.legend or "__auto")
        builder = builder.with_target(target.instant() if format_ == PromQueryFormat.TABLE else target.range())
    return cast(P, builder.title(title).description(description).datasource(SOURCE).span(width).height(height))


def _apply_palette(panel: timeseries.Panel, legend: str) -> timeseries.Panel:
    for name, colour in PALETTES.get(legend.strip("{}"), {}).items():
        panel = panel.override_by_name(name, [_override_property("color", {"mode": "fixed", "fixedColor": colour})])
    return panel


def _thresholds(steps: Mapping[float, str]) -> dashboard.ThresholdsConfig:
    first, *others = steps.items()
    config = [model.Threshold(value=None, color=first[1])]
    config += [model.Threshold(value=float(value), color=colour) for value, colour in others]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(config)


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(words.LegendDisplayMode.LIST)
        .placement(words.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def _override_property(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


def _ref_id(index: int) -> str:
    return "ABCDEFGHIJKL"[index]
