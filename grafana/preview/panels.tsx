// Draws `window.board`, a dashboard with the results of its queries, by Grafana's own components. State timelines and
// heat maps are no components of @grafana/ui; those two are drawn here in its theme.
import { createRoot } from 'react-dom/client';
import {
  createTheme, FieldType, getDisplayProcessor, ThemeContext, dateTime,
} from '@grafana/data';
import 'uplot/dist/uPlot.min.css';
import { GlobalStyles, BarGauge, BigValue, PanelChrome, TimeSeries, VizLegend, PortalContainer } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const board = (window as any).board;
const theme = createTheme({ colors: { mode: 'dark' } });
const GAP = 8;
const UNIT = (window.innerWidth - 2 * GAP) / 24;
const color = (name: string) => theme.visualization.getColorByName(name);
const times: number[] = [];
for (let at = board.start; at <= board.end; at += board.step) times.push(Math.round(at * 1000));
const range = {
  from: dateTime(board.start * 1000), to: dateTime(board.end * 1000),
  raw: { from: dateTime(board.start * 1000), to: dateTime(board.end * 1000) },
};

function named(legend: string, metric: Record<string, string>): string {
  if (legend !== '__auto') return legend.replace(/{{(\w+)}}/g, (_, label) => metric[label] ?? '');
  return Object.values(metric).join(' ') || 'value';
}

// The default palette counts on; a fixed colour of an override wins.
function configured(panel: any, name: string) {
  const { defaults, overrides } = panel.fieldConfig;
  const config: any = { ...defaults, custom: { ...defaults.custom } };
  if (!config.color) config.color = { mode: panel.type === 'stat' ? 'thresholds' : 'palette-classic' };
  for (const { matcher, properties } of overrides ?? []) {
    const hit = matcher.id === 'byName' ? matcher.options === name
      : matcher.id === 'byRegexp' && new RegExp(matcher.options.slice(1, matcher.options.lastIndexOf('/'))).test(name);
    if (!hit) continue;
    for (const { id, value } of properties) {
      if (id.startsWith('custom.')) config.custom[id.slice(7)] = value;
      else config[id] = value;
    }
  }
  return config;
}

function seriesOf(panel: any) {
  const all: any[] = [];
  for (const { legend, series } of panel.results) {
    for (const { metric, values } of series) {
      const at = new Map(values.map(([time, value]: [number, string]) => [Math.round(time * 1000), Number(value)]));
      all.push({ name: named(legend, metric), values: times.map((time) => {
        const value = at.get(time) as number | undefined;
        return value === undefined || !Number.isFinite(value) ? null : value;
      }) });
    }
  }
  return all;
}

function spread(values: any[]) {
  const known = values.filter((value) => typeof value === 'number');
  const min = Math.min(...known), max = Math.max(...known);
  return { min, max, delta: max - min };
}

function valueField(panel: any, name: string, values: any[], seriesIndex: number) {
  const field: any = { name, type: FieldType.number, values, config: configured(panel, name), labels: {},
    state: { displayName: name, seriesIndex, range: spread(values), origin: { frameIndex: seriesIndex, fieldIndex: 1 } } };
  field.config.displayName = name;
  field.display = getDisplayProcessor({ field, theme });
  return field;
}

function Lines({ panel, width, height }: any) {
  const frames = seriesOf(panel).map(({ name, values }, index) => {
    const time: any = { name: 'time', type: FieldType.time, values: times, config: {} };
    time.display = getDisplayProcessor({ field: time, theme });
    return { length: times.length, refId: name, fields: [time, valueField(panel, name, values, index)] };
  });
  const legend = panel.options.legend;
  return <TimeSeries frames={frames as any} structureRev={1} width={width} height={height} timeRange={range as any}
    timeZone="utc" legend={legend} options={{}} />;
}

const last = (values: any[]) => [...values].reverse().find((value) => value !== null) ?? null;

function Number_({ panel, width, height }: any) {
  const [series] = seriesOf(panel);
  if (!series) return <>No data</>;
  const field = valueField(panel, series.name, series.values, 0);
  const value = field.display(last(series.values));
  const sparkline = { y: { ...field, config: { ...field.config, custom: {} } }, timeRange: range,
    x: { name: 't', type: FieldType.time, values: times, config: {} } };
  return <BigValue theme={theme} width={width} height={height} value={{ ...value, title: '' }} sparkline={sparkline as any}
    colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} textMode={'value' as any} />;
}

function Bars({ panel, width, height }: any) {
  const found = seriesOf(panel).map((each, index) => ({ ...each, now: last(each.values), index }))
    .filter(({ now }) => now !== null).sort((a, b) => b.now - a.now).slice(0, 10);
  const most = Math.max(...found.map(({ now }) => now), 1e-9);
  const longest = (texts: string[]) => texts.reduce((a, b) => (b.length > a.length ? b : a), '');
  const shown = found.map(({ name, values, now, index }) => valueField(panel, name, values, index).display(now));
  const alignment = { title: longest(found.map(({ name }) => name)) + ' ', text: longest(shown.map(({ text }: any) => text)) };
  const each = Math.min(34, height / Math.max(found.length, 1));
  return <div>{found.map(({ name, values, now, index }) => {
    const field = valueField(panel, name, values, index);
    field.config = { ...field.config, min: 0, max: most };
    field.display = getDisplayProcessor({ field, theme });
    return <div key={name} style={{ height: each }}><BarGauge theme={theme} width={width} height={each - 4}
      field={field.config} display={field.display} value={{ ...field.display(now), title: name }}
      orientation={'horizontal' as any} displayMode={panel.options.displayMode} showUnfilled alignmentFactors={alignment as any} /></div>;
  })}</div>;
}

function Table_({ panel, width, height }: any) {
  const organize = panel.transformations.find(({ id }: any) => id === 'organize').options;
  const lines = new Map<string, Record<string, any>>();
  for (const { refId, series } of panel.results) {
    for (const { metric, value } of series) {
      const [key] = Object.values(metric) as string[];
      lines.set(key, { ...lines.get(key), [`Value #${refId}`]: Number(value[1]) });
    }
  }
  const keys = [...lines.keys()].sort();
  const names = Object.keys(organize.indexByName).sort((a, b) => organize.indexByName[a] - organize.indexByName[b]);
  const fields = names.map((from) => {
    const name = organize.renameByName[from];
    const values = from.startsWith('Value') ? keys.map((key) => lines.get(key)![from] ?? null) : keys;
    const field = valueField(panel, name, values, 0);
    field.config.color = { mode: 'fixed', fixedColor: 'text' };
    if (!from.startsWith('Value')) field.type = FieldType.string;
    field.display = getDisplayProcessor({ field, theme });
    return field;
  });
  return <TableNG data={{ fields, length: keys.length } as any} width={width} height={height} structureRev={1} />;
}

function ticks(width: number) {
  const marks = [];
  for (let place = 1; place <= 3; place++) {
    const at = board.start + ((board.end - board.start) * place) / 4;
    marks.push({ x: (width * place) / 4, text: new Date(at * 1000).toISOString().slice(11, 19) });
  }
  return marks;
}

function States({ panel, width, height }: any) {
  const mapped = panel.fieldConfig.defaults.mappings[0].options;
  const series = seriesOf(panel);
  const left = 60, bottom = 20, legend = 28;
  const band = (height - bottom - legend) / Math.max(series.length, 1);
  const step = (width - left) / times.length;
  const items = Object.values(mapped).map(({ text, color: name }: any) => ({ label: text, color: color(name), yAxis: 1 }));
  return <>
    <svg width={width} height={height - legend} fontFamily={theme.typography.fontFamily} fontSize={12} fill={theme.colors.text.primary}>
      {series.map(({ name, values }, row) => <g key={name}>
        <text x={left - 6} y={row * band + band / 2 + 4} textAnchor="end">{name}</text>
        {values.map((value, at) => value === null ? null : <rect key={at} x={left + at * step} y={row * band + band * 0.1}
          width={step + 0.5} height={band * 0.8} fill={color(mapped[String(value)].color)} fillOpacity={0.75} />)}
      </g>)}
      {ticks(width - left).map(({ x, text }) => <text key={text} x={left + x} y={height - legend - 4} textAnchor="middle"
        fill={theme.colors.text.secondary}>{text}</text>)}
    </svg>
    <VizLegend items={items as any} placement="bottom" displayMode={'list' as any} />
  </>;
}

// The buckets of a histogram count up to their bound; a cell shows what lies between two bounds.
function Heat({ panel, width, height }: any) {
  const series = seriesOf(panel).map((each) => ({ ...each, bound: each.name === '+Inf' ? Infinity : Number(each.name) }))
    .sort((a, b) => a.bound - b.bound);
  const cells = series.map(({ values }, row) =>
    values.map((value, at) => value === null ? 0 : Math.max(0, value - (row ? series[row - 1].values[at] ?? 0 : 0))));
  const used = cells.map((row, index) => (row.some((value) => value > 0.01) ? index : -1)).filter((index) => index >= 0);
  const first = Math.min(...used), final = Math.max(...used);
  const most = Math.max(...cells.flat(), 1e-9);
  const left = 52, top = 8, bottom = 20;
  const step = (width - left) / times.length, band = (height - top - bottom) / (final - first + 1);
  const scheme = ['#30123b', '#4669db', '#26bce1', '#3ff58a', '#a2fc3c', '#edd03a', '#fb8022', '#d23105', '#7a0403'];
  const shade = (value: number) => scheme[Math.min(scheme.length - 1, Math.floor(Math.sqrt(value / most) * scheme.length))];
  const seconds = getDisplayProcessor({ field: { type: FieldType.number, config: { unit: 's' } } as any, theme });
  const text = (bound: number) => bound === Infinity ? '+Inf' : (({ text, suffix }) => text + (suffix ?? ''))(seconds(bound));
  return <svg width={width} height={height} fontFamily={theme.typography.fontFamily} fontSize={11} fill={theme.colors.text.secondary}>
    {cells.slice(first, final + 1).map((row, index) => {
      const y = height - bottom - (index + 1) * band;
      return <g key={index}>
        <text x={left - 6} y={y + 4} textAnchor="end">{text(series[first + index].bound)}</text>
        {row.map((value, at) => value < 0.01 ? null : <rect key={at} x={left + at * step} y={y + 0.5}
          width={step} height={band - 1} fill={shade(value)} />)}
      </g>;
    })}
    {ticks(width - left).map(({ x, text: mark }) => <text key={mark} x={left + x} y={height - 4} textAnchor="middle">{mark}</text>)}
  </svg>;
}

const KINDS: Record<string, any> = {
  timeseries: Lines, stat: Number_, bargauge: Bars, table: Table_, 'state-timeline': States, heatmap: Heat,
};

function Board() {
  return <div style={{ position: 'relative', fontFamily: theme.typography.fontFamily, fontSize: 14, color: theme.colors.text.primary }}>
    <h1 style={{ margin: 0, padding: `18px ${2 * GAP}px 0`, fontSize: 22, fontWeight: 500 }}>{board.title}</h1>
    {board.panels.map((panel: any, index: number) => {
      const { x, y, w, h } = panel.gridPos;
      const box = { position: 'absolute' as const, left: GAP + x * UNIT, top: 64 + y * board.rowPx };
      if (panel.type === 'row') return <h2 key={index} style={{ ...box, margin: 0, padding: 8, fontSize: 16, fontWeight: 500 }}>{panel.title}</h2>;
      const Kind = KINDS[panel.type];
      return <div key={index} style={box}>
        <PanelChrome title={panel.title} description={panel.description} width={w * UNIT - GAP} height={h * board.rowPx - GAP}>
          {(width, height) => <Kind panel={panel} width={width} height={height} />}
        </PanelChrome>
      </div>;
    })}
  </div>;
}

createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}><GlobalStyles hackNoBackdropBlur={true} isExtensionsPanel={false} /><Board /><PortalContainer /></ThemeContext.Provider>,
);
