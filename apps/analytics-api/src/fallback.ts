import { type Coverage, type DayRange, dayOf } from '@tally/contracts';
import { storeFaultOf } from '@tally/service';
import type { Cache } from './cache.ts';

/**
 * Remembers answers about closed days, and returns them while Postgres is unavailable: with the earlier time, and not
 * complete, because late events may have arrived since. Throws UNAVAILABLE for new queries, and for those that cover
 * today.
 */
export function createFallback({ cache, now }: { cache: Pick<Cache, 'remember' | 'recall'>; now: () => number }) {
  return <Question extends DayRange, Answer extends { coverage: Coverage }>(
    kind: string,
    ask: (question: Question, callerId: string) => Promise<Answer>,
  ) =>
    async (question: Question, callerId: string): Promise<Answer> => {
      const closed = question.endDate < dayOf(now());
      try {
        const answer = await ask(question, callerId);
        if (closed) cache.remember(kind, question, answer);
        return answer;
      } catch (error) {
        if (!closed || !storeFaultOf(error)) throw error;
        const answer = await cache.recall<Answer>(kind, question);
        if (!answer) throw error;
        return { ...answer, coverage: { ...answer.coverage, dataSource: 'cache', complete: false } };
      }
    };
}

export type Fallback = ReturnType<typeof createFallback>;
