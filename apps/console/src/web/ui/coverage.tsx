import { CircleAlert } from 'lucide-react';
import { clockText, timeText } from '../time.ts';

export type CoverageOf = { asOf: string | null; complete: boolean; unknown?: string[] | undefined };

/** Shows how complete and how fresh the numbers of a page are. */
export function Coverage({ coverage }: { coverage: CoverageOf | undefined }) {
  if (!coverage)
    return (
      <span className="coverage">
        <span className="dot" /> asking…
      </span>
    );
  const { asOf, complete } = coverage;
  const moment = asOf ? clockText(asOf) : 'an unknown time';
  return (
    <span
      className="coverage"
      title={
        complete
          ? `Everything acknowledged before ${asOf ? timeText(asOf) : moment} is in these numbers.`
          : 'Something is missing: usage that waits, or a source that did not answer. Numbers may be too low.'
      }
    >
      {complete ? <span className="dot" data-tone="good" /> : <CircleAlert size={14} aria-hidden="true" />}
      {complete ? `Complete as of ${moment}` : `Incomplete, as of ${moment}`}
    </span>
  );
}
