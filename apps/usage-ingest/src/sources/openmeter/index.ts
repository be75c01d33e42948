import type { AskAnalytics } from '../ask.ts';
import { cloudEventsRoute } from '../cloudevents.ts';
import type { SourceMeters } from '../meters.ts';
import { problemDetails } from '../problem-details.ts';
import type { Source } from '../source.ts';
import { eventRoutes } from './events.ts';
import { meterRoutes } from './meters.ts';
import { queryRoutes } from './queries.ts';
import { BASE } from './request.ts';
import { subjectRoutes } from './subjects.ts';

/** OpenMeter's events, meters, queries of meters, and subjects. A subject is a merchant. */
export const openmeter = ({ meters, ask }: { meters: SourceMeters; ask: AskAnalytics }): Source => ({
  name: 'openmeter',
  prefixes: ['/sources/openmeter'],
  errorBody: problemDetails,
  events: [cloudEventsRoute(`${BASE}/events`, meters)],
  others: [...eventRoutes(ask), ...meterRoutes(meters), ...queryRoutes(meters, ask), ...subjectRoutes(ask)],
});
