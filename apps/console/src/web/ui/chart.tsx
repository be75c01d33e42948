import { useEffect, useRef, useState } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { approximate, format, isZero, type Kind } from '../quantity.ts';
import { pile } from './pile.ts';
import { numbers, Table } from './table.tsx';

export type Series = {
  label: string;
  /** Exact quantities, one per point; null without a value. */
  values: readonly (string | null)[];
  /** A colour of the palette, from 1; 0 is the dashed line of a comparison, 11 the pale bars of an estimate. */
  color: number;
};

export type ChartProps = {
  /** Describes the chart to screen readers. */
  label: string;
  /** The time of each point, in seconds since 1970. */
  times: readonly number[];
  /** The name of each point in its tooltip. */
  names: readonly string[];
  series: readonly Series[];
  kind: Kind;
  /** True to stack the bars. */
  mode: 'bars' | 'lines';
  height?: number;
  timeZone?: string;
  /** Called with the clicked point. */
  onPick?: (index: number) => void;
};

const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const small = new Intl.NumberFormat('en', { maximumSignificantDigits: 2 });
const tiny = new Intl.NumberFormat('en', { notation: 'scientific', maximumSignificantDigits: 2 });
/** Smaller numbers have more digits than an axis has room for. */
const SMALLEST = 0.001;
const axisText = (value: number, kind: Kind): string => {
  const size = Math.abs(value);
  const text =
    size >= 1 || size === 0 ? compact.format(size) : (size < SMALLEST ? tiny : small).format(size).toLowerCase();
  return `${value < 0 ? '−' : ''}${kind === 'money' ? '$' : ''}${text}${kind === 'percent' ? '%' : ''}`;
};

const LEGEND_MAX = 12;
const ESTIMATE = 11;

/** A chart over time. Pixels are approximate; its tooltip shows the exact quantities. */
export function Chart(props: ChartProps) {
  const { label, names, series, kind, height = 260 } = props;
  const box = useRef<HTMLDivElement>(null);
  const theme = useTheme();
  const [at, setAt] = useState<{ index: number; left: number } | null>(null);
  const latest = useRef(props);
  latest.current = props;

  useEffect(() => {
    const element = box.current!;
    const plot = draw(element, latest.current, setAt);
    // It also reports the size that the plot was just drawn in.
    const observer = new ResizeObserver(() => {
      if (element.clientWidth !== plot.width) plot.setSize({ width: element.clientWidth, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [props.times, series, kind, props.mode, height, props.timeZone, theme]);

  const shown = at && names[at.index] !== undefined ? at : null;
  const many = series.length > 1;
  return (
    <figure className="chart">
      <div
        ref={box}
        className="chart-canvas"
        style={{ '--chart-height': `${height}px` } as React.CSSProperties}
        role="img"
        aria-label={label}
      />
      <div
        className="chart-tip"
        hidden={!shown}
        style={shown ? { transform: tipPlace(shown.left, box.current?.clientWidth ?? 0) } : undefined}
      >
        {shown && (
          <>
            <h3>{names[shown.index]}</h3>
            <ul>
              {series.map((each, index) => {
                const value = each.values[shown.index];
                if (value === null || value === undefined) return null;
                return (
                  <li key={`${index} ${each.label}`}>
                    <Swatch color={each.color} />
                    <span>{each.label}</span>
                    <span className="num">{format(value, kind)}</span>
                  </li>
                );
              })}
            </ul>
          </>
        )}
      </div>
      {many && (
        <ul className="legend">
          {series.slice(0, LEGEND_MAX).map((each, index) => (
            <li key={`${index} ${each.label}`}>
              <Swatch color={each.color} />
              <span title={each.label}>{each.label}</span>
            </li>
          ))}
        </ul>
      )}
    </figure>
  );
}

/** A chart whose exact quantities are nowhere else on the page: they are in a table below, once it is opened. */
export const ChartWithTable = (props: ChartProps) => (
  <>
    <Chart {...props} />
    <AsTable {...props} />
  </>
);

function AsTable({ label, names, series, kind, onPick }: ChartProps) {
  const [open, setOpen] = useState(false);
  const points = names
    .map((name, index) => ({ name, index }))
    .filter(({ index }) => series.some(({ values }) => values[index] != null && !isZero(values[index])));
  return (
    <details className="chart-table" onToggle={({ currentTarget }) => setOpen(currentTarget.open)}>
      <summary>As a table</summary>
      {open && (
        <Table
          label={`${label}, as a table`}
          tall
          rows={points}
          keyOf={({ index }) => String(index)}
          columns={[
            {
              title: 'Time',
              cell: ({ name, index }) =>
                onPick ? (
                  <button type="button" className="link" onClick={() => onPick(index)}>
                    {name}
                  </button>
                ) : (
                  name
                ),
            },
            ...series.map((each, place) => ({
              ...numbers(each.label, points, ({ index }) => each.values[index] ?? null, kind),
              id: `${place} ${each.label}`,
            })),
          ]}
        />
      )}
    </details>
  );
}

export const Swatch = ({ color }: { color: number }) => (
  <span className={color === 0 ? 'swatch-dashed' : `swatch swatch-${color}`} aria-hidden="true" />
);

const TIP_WIDTH = 250;
const tipPlace = (left: number, width: number) =>
  `translate(${Math.round(left + TIP_WIDTH + 20 > width ? Math.max(0, left - TIP_WIDTH) : left + 16)}px, 6px)`;

function draw(
  element: HTMLElement,
  { times, series, kind, mode, height = 260, timeZone = 'UTC', onPick }: ChartProps,
  point: (at: { index: number; left: number } | null) => void,
): uPlot {
  const color = colorsOf(element);
  const stacked = mode === 'bars';
  const numbers = series.map(({ values }) => values.map((value) => (value === null ? null : approximate(value))));
  const bars = series.map((each, index) => ({ each, index })).filter(({ each }) => each.color > 0);
  const dashed = series.map((each, index) => ({ each, index })).filter(({ each }) => each.color === 0);
  // The tallest bar is painted first, and smaller ones over it.
  const piles = stacked ? pile(bars.map(({ index }) => numbers[index]!)) : bars.map(({ index }) => numbers[index]!);
  const order = stacked ? bars.map((_, at) => at).reverse() : bars.map((_, at) => at);
  const gap = times.length > 1 ? Math.min(...times.slice(1).map((time, index) => time - times[index]!)) : 86_400;
  const single = bars.length === 1;
  // Bars of an estimate stand beside the others, on other days.
  const isTop = (at: number) => bars.slice(at + 1).every(({ each }) => each.color === ESTIMATE);

  const options: uPlot.Options = {
    width: element.clientWidth || 600,
    height,
    padding: [8, 4, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      points: { show: !stacked },
      drag: { x: false, y: false },
    },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), timeZone),
    scales: {
      x: {
        time: true,
        range: (_self, from, to) => (stacked || from === to ? [from - gap * 0.6, to + gap * 0.6] : [from, to]),
      },
      y: {
        range: (_self, from, to) =>
          from === to && to === 0 ? [0, 1] : [Math.min(0, from * 1.06), Math.max(0, to * 1.06)],
      },
    },
    axes: [
      {
        stroke: color('--muted'),
        font: '11.5px Inter, system-ui, sans-serif',
        grid: { show: false },
        ticks: { show: false },
        gap: 6,
        size: 26,
        space: 64,
        values: [
          [3600 * 24 * 365, '{YYYY}', null, null, null, null, null, null, 1],
          [3600 * 24 * 28, '{MMM}', '\n{YYYY}', null, null, null, null, null, 1],
          [3600 * 24, '{D} {MMM}', null, null, null, null, null, null, 1],
          [60, '{HH}:{mm}', '\n{D} {MMM}', null, '\n{D} {MMM}', null, null, null, 1],
        ],
      },
      {
        stroke: color('--muted'),
        font: '11.5px Inter, system-ui, sans-serif',
        grid: { stroke: color('--line'), width: 1 },
        ticks: { show: false },
        gap: 8,
        size: 58,
        space: 44,
        values: (_self, splits) => splits.map((value) => axisText(value, kind)),
      },
    ],
    series: [
      {},
      ...order.map((at): uPlot.Series => {
        const stroke = color(`--series-${bars[at]!.each.color}`);
        if (!stacked)
          return {
            stroke,
            width: 2,
            points: { show: times.length === 1 },
            ...(single && { fill: faded(stroke) }),
            spanGaps: false,
          };
        return {
          stroke,
          fill: stroke,
          width: 0,
          points: { show: false },
          paths: uPlot.paths.bars!({ size: [0.72, 46], radius: isTop(at) ? [0.18, 0] : 0 }),
        };
      }),
      ...dashed.map(
        (): uPlot.Series => ({ stroke: color('--compare'), width: 1.6, dash: [4, 4], points: { show: false } }),
      ),
    ],
    hooks: {
      setCursor: [
        (self) => {
          const { idx, left } = self.cursor;
          const inside = idx !== null && idx !== undefined && left !== undefined && left >= 0;
          point(inside ? { index: idx, left: left + self.bbox.left / devicePixelRatio } : null);
        },
      ],
      ready: [
        (self) => {
          if (!onPick) return;
          self.over.style.cursor = 'pointer';
          self.over.addEventListener('click', () => {
            if (self.cursor.idx !== null && self.cursor.idx !== undefined) onPick(self.cursor.idx);
          });
        },
      ],
    },
  };
  const data = [
    [...times],
    ...order.map((at) => piles[at]!),
    ...dashed.map(({ index }) => numbers[index]!),
  ] as uPlot.AlignedData;
  return new uPlot(options, data, element);
}

/** Reads colours of the theme in the canvas's form. */
function colorsOf(element: HTMLElement): (name: string) => string {
  const probe = document.createElement('span');
  element.append(probe);
  const colors = new Map<string, string>();
  queueMicrotask(() => probe.remove());
  return (name) => {
    const known = colors.get(name);
    if (known) return known;
    probe.style.color = `var(${name})`;
    const color = getComputedStyle(probe).color;
    colors.set(name, color);
    return color;
  };
}

const faded = (color: string) => color.replace(/^rgb\((.*)\)$/, 'rgba($1, 0.1)');

/** Returns a number that changes whenever the colours change. */
function useTheme(): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    const changed = () => setVersion((known) => known + 1);
    const system = matchMedia('(prefers-color-scheme: dark)');
    const chosen = new MutationObserver(changed);
    system.addEventListener('change', changed);
    chosen.observe(document.documentElement, { attributeFilter: ['data-theme'] });
    return () => {
      system.removeEventListener('change', changed);
      chosen.disconnect();
    };
  }, []);
  return version;
}
