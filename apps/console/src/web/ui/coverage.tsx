import { Link } from '@tanstack/react-router';
import { CircleAlert } from 'lucide-react';
import { clockText, dayText, timeText } from '../time.ts';
import { Banner } from './parts.tsx';

type CoverageOf = {
  asOf: string | null;
  complete: boolean;
  unknown?: string[] | undefined;
  overflow?: true | undefined;
  knownFrom?: string | undefined;
};

const UNKNOWN: Record<string, string> = {
  failedRequests: 'which requests failed',
  promptTokens: 'input tokens',
  completionTokens: 'output tokens',
};

/** States what the numbers of a page lack; shows nothing if they are complete. */
export function CoverageBanner({ coverage }: { coverage: CoverageOf | undefined }) {
  const { complete = true, unknown = [], overflow = false, knownFrom } = coverage ?? {};
  if (complete && unknown.length === 0 && !overflow && !knownFrom) return null;
  return (
    <Banner>
      {!complete && (
        <div>
          Some usage is not in these numbers yet, so they may be too low. They are checked again by themselves; the{' '}
          <Link to="/app/health">health page</Link> says what is missing.
        </div>
      )}
      {unknown.length > 0 && (
        <div>
          Days that were imported do not say {unknown.map((name) => UNKNOWN[name] ?? name).join(', ')}: these are too
          low by what those days had.
        </div>
      )}
      {knownFrom && (
        <div>
          Usage from before {dayText(knownFrom)} is not in this meter: its events were dropped before the meter was
          created.
        </div>
      )}
      {overflow && (
        <div>
          A day had more values than rollups keep. Usage of a chosen value may be counted under <code>(other)</code>.
        </div>
      )}
    </Banner>
  );
}

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
