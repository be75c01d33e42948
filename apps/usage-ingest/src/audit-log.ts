import type { AuditRow, ingest } from '@tally/contracts';
import type { Db } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import { assertOrder } from './ranges.ts';

type Question = z.output<(typeof ingest.audit.list)['input']>;

export type AuditLog = (question: Question) => Promise<{ rows: AuditRow[]; nextCursor: string | null }>;

/** Returns administrative mutations of all services, in pages, newest first. */
export function createAuditLog(store: Db['audit']): AuditLog {
  return async ({ cursor, limit, ...question }) => {
    const { startDate, endDate } = question;
    if (startDate !== undefined && endDate !== undefined) assertOrder({ startDate, endDate });
    const [before] = cursor === undefined ? [] : decodeCursor(cursor, { audit: question }, Place);
    const rows = await store.list({ ...question, before, limit });
    const last = rows.length === limit ? rows.at(-1) : undefined;
    return { rows, nextCursor: last ? encodeCursor([last.id], { audit: question }) : null };
  };
}

const Place = z.tuple([z.string().regex(/^\d{1,18}$/)]);
