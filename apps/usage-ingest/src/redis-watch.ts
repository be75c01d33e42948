import { mastersOf, type RedisClient } from '@tally/service';

export type RedisWatch = {
  /** Whether Redis uses more of its memory than the high mark allows. */
  isFull(): boolean;
  stop(): void;
};

export type RedisWatchOptions = {
  redis: RedisClient;
  /** Share of `maxmemory` above which nothing more is accepted. */
  highMark: number;
  intervalMs: number;
  /** Told when a node of Redis was started again: what it holds may be older than what was acknowledged. */
  onRestart(): void;
};

/** Keeps an eye on what Redis cannot tell by itself: how full it is, and that it is not the one it was. */
export function watchRedis({ redis, highMark, intervalMs, onRestart }: RedisWatchOptions): RedisWatch {
  const lives = new Map<string, string>();
  let full = false;

  const look = async () => {
    const nodes = mastersOf(redis);
    const facts = await Promise.all(nodes.map((node) => node.info()));
    full = facts.some((info) => isAbove(info, highMark));
    for (const [index, info] of facts.entries()) {
      const { host, port } = nodes[index]!.options;
      const life = fact(info, 'run_id') ?? '';
      const before = lives.get(`${host}:${port}`);
      lives.set(`${host}:${port}`, life);
      if (before !== undefined && before !== life) onRestart();
    }
  };
  const timer = setInterval(() => look().catch(() => {}), intervalMs);
  void look().catch(() => {});
  return { isFull: () => full, stop: () => clearInterval(timer) };
}

function isAbove(info: string, highMark: number): boolean {
  const [used, most] = [Number(fact(info, 'used_memory')), Number(fact(info, 'maxmemory'))];
  return most > 0 && used > most * highMark;
}

const fact = (info: string, name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
