import { Chip, Num } from '../../ui/parts.tsx';

type Calculated = {
  value: string | null;
  rows: { dimensions: Record<string, string>; value: string | null }[];
  cost: string;
  durationMs: number;
};

export const COST_TONES: Record<string, 'good' | 'warn' | 'bad'> = { low: 'good', medium: 'warn', high: 'bad' };

/** Shows the result of a formula and its cost. */
export function Result({ answer: { value, rows, cost, durationMs } }: { answer: Calculated }) {
  const grouped = rows.filter(({ dimensions }) => Object.keys(dimensions).length > 0);
  return (
    <div className="stack">
      <p>
        <span className="series-value">
          {value === null ? 'nothing to calculate from' : <Num value={value} kind="count" />}
        </span>{' '}
        <Chip tone={COST_TONES[cost]}>{cost} cost</Chip> <span className="muted num">{Math.round(durationMs)} ms</span>
      </p>
      {grouped.length > 0 && (
        <table className="table">
          <tbody>
            {grouped.slice(0, 20).map((row) => (
              <tr key={JSON.stringify(row.dimensions)}>
                <th scope="row">{Object.values(row.dimensions).join(' · ')}</th>
                <td className="right">{row.value === null ? '–' : <Num value={row.value} kind="count" />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}
