import { List } from 'lucide-react';
import { useState } from 'react';
import { type FilterSearch, kindOfMetric } from '../../measures.ts';
import { dayText, type Range } from '../../time.ts';
import { Banner, Button, Card, Num } from '../../ui/parts.tsx';
import { Events } from './events.tsx';
import { useExplained } from './explained-events.ts';

/** Shows the events behind a number of several days on demand: they are counted again for it. */
export function EventsOfRange({
  merchantId,
  range,
  metric,
  filters,
}: {
  merchantId: string;
  range: Range;
  metric: string;
  filters: FilterSearch;
}) {
  const [asked, setAsked] = useState(false);
  const explained = useExplained({ merchantId, range, metric, filters, enabled: asked });
  const first = explained.data?.pages[0];
  if (!asked)
    return (
      <Card
        title="Events"
        tools={
          <Button small onClick={() => setAsked(true)}>
            <List size={14} aria-hidden="true" />
            Show the events of these days
          </Button>
        }
      >
        <p className="muted">Counts the events and adjustments of these days again and lists them.</p>
      </Card>
    );
  const dropped = first?.byDay.filter(({ kept }) => !kept);
  return (
    <>
      {first && first.agrees !== null && (
        <Banner tone={first.agrees ? 'good' : 'bad'}>
          Events and adjustments make <Num value={first.value} kind={kindOfMetric(metric)} />,{' '}
          {first.agrees ? 'which is the stored number' : 'which differs from the stored number'}.
          {dropped!.length > 0 &&
            ` Of ${dayText(dropped![0]!.date)} to ${dayText(dropped!.at(-1)!.date)} only sums are kept.`}
        </Banner>
      )}
      <Events
        query={explained}
        metric={metric}
        kind={kindOfMetric(metric)}
        merchantId={merchantId}
        adjustments={first?.adjustments ?? []}
      />
    </>
  );
}
