import { mastersOf, type RedisClient } from '@tally/service';

export type RedisWatch = {
  /** Whether Redis uses more of its memory than the high-water mark allows. False while it does not answer. */
  isFull(): boolean;
  stop(): void;
};

export type RedisWatchOptions = {
  redis: RedisClient;
  /** Share of `maxmemory` above which events are written directly to Postgres. */
  highMark: number;
  intervalMs: number;
};

/** Watches how full Redis is, which it does not tell by itself. */
export function watchRedis({ redis, highMark, intervalMs }: RedisWatchOptions): RedisWatch {
  let [full, looking] = [false, false];

  const look = async () => {
    if (looking) return;
    looking = true;
    try {
      const facts = await Promise.all(mastersOf(redis).map((node) => node.info('memory')));
      full = facts.some((info) => isAbove(info, highMark));
    } catch {
      // Whoever uses it finds out, and another path.
      full = false;
    } finally {
      looking = false;
    }
  };
  const timer = setInterval(look, intervalMs);
  void look();
  return { isFull: () => full, stop: () => clearInterval(timer) };
}

function isAbove(info: string, highMark: number): boolean {
  const [used, max] = [Number(fact(info, 'used_memory')), Number(fact(info, 'maxmemory'))];
  return max > 0 && used > max * highMark;
}

const fact = (info: string, name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
