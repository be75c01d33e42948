import { Resolver } from 'node:dns/promises';
import { isIP } from 'node:net';
import type { Resolve } from './address-guard.ts';

const ANSWER_MS = 2_000;

/**
 * Resolves names like `lookup` of node:dns, but first asks their name servers without a thread. `lookup` holds one of
 * two threads of the process until name servers answer: a few names whose servers never do would make all others wait.
 * A file of the system may know a name without an answer, so `lookup` is asked for one of these at a time; others fail.
 */
export function createResolve(
  lookup: Resolve,
  resolver: Pick<Resolver, 'resolve4' | 'resolve6'> = new Resolver({ timeout: ANSWER_MS, tries: 1 }),
): Resolve {
  let isAsking = false;
  return (hostname, options, callback) => {
    // Any answer will do, also that there is no such name: the system may know it from a file.
    const asked = isIP(hostname) === 0 ? [resolver.resolve4(hostname), resolver.resolve6(hostname)] : [];
    void Promise.allSettled(asked).then((answers) => {
      const silent = answers.find(
        (answer) => answer.status === 'rejected' && (answer.reason as NodeJS.ErrnoException).code === 'ETIMEOUT',
      );
      if (silent?.status !== 'rejected') return lookup(hostname, options, callback);
      if (isAsking) return callback(silent.reason as NodeJS.ErrnoException, []);
      isAsking = true;
      lookup(hostname, options, (error, addresses) => {
        isAsking = false;
        callback(error, addresses);
      });
    });
  };
}
