import { dayOf, TallyError } from '@tally/contracts';
import type { AskAnalytics } from '../ask.ts';
import { isRecord } from '../foreign-event.ts';
import { merchantOf } from '../naming.ts';
import { startOfRecent } from '../newest.ts';
import type { OtherRoute, SourceRequest } from '../source.ts';
import { BASE, invalid, jsonIn } from './request.ts';

/** Subjects: merchants with recent usage or with a name in the directory. */
export function subjectRoutes(ask: AskAnalytics): OtherRoute[] {
  const [all, one] = [`${BASE}/subjects`, `${BASE}/subjects/:subject`];
  return [
    {
      method: 'GET',
      path: all,
      access: 'read',
      answer: async (request) => Response.json(await recentSubjects(request, ask)),
    },
    { method: 'POST', path: all, access: 'admin', answer: (request) => writeSubjects(request, ask) },
    { method: 'GET', path: one, access: 'read', answer: (request) => getSubject(request, ask) },
    { method: 'DELETE', path: one, access: 'admin', answer: (request) => removeSubject(request, ask) },
  ];
}

async function recentSubjects(request: SourceRequest, ask: AskAnalytics, merchantIds?: string[]) {
  const { now } = request;
  const range = { startDate: dayOf(startOfRecent(now)), endDate: dayOf(now) };
  const { merchants } = await ask(request, (client) =>
    client.analytics.filterOptions.query({ ...range, ...(merchantIds && { merchantIds }) }),
  );
  return merchants.map(({ id, label }) => presentSubject(id, label));
}

const subjectIn = ({ params }: SourceRequest) => merchantOf(params.subject!) ?? params.subject!;

/** A subject that has a name in the directory, or had usage in the last 30 days. */
async function getSubject(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const merchantId = subjectIn(request);
  const { rows } = await ask(request, (client) =>
    client.directory.list.query({ kind: 'merchant', merchantId, limit: 1 }),
  );
  const found = rows[0]
    ? presentSubject(rows[0].id, rows[0].name)
    : (await recentSubjects(request, ask, [merchantId]))[0];
  if (!found) throw new TallyError('NOT_FOUND', `There is no subject ${merchantId.slice(0, 80)}.`);
  return Response.json(found);
}

/** Takes the name of a subject away; its usage stays. */
async function removeSubject(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const ids = [subjectIn(request)];
  await ask(request, (client) => client.directory.remove.mutate({ kind: 'merchant', ids }));
  return new Response(null, { status: 204 });
}

async function writeSubjects(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const given: unknown = jsonIn(request);
  const subjects = (Array.isArray(given) ? given : [given]).map((each) => {
    const { key, displayName } = isRecord(each) ? each : {};
    if (typeof key !== 'string' || key === '') throw invalid('A subject needs a key.');
    return { key, name: typeof displayName === 'string' && displayName.trim() !== '' ? displayName : key };
  });
  const entries = subjects.map(({ key, name }) => ({ kind: 'merchant' as const, id: merchantOf(key) ?? key, name }));
  await ask(request, (client) => client.directory.upsert.mutate({ entries }));
  return Response.json(subjects.map(({ key, name }) => presentSubject(key, name)));
}

const presentSubject = (key: string, displayName: string) => ({ id: key, key, displayName });
