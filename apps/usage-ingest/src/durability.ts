import { mastersOf, type RedisClient } from '@tally/service';

export type Durability = {
  /**
   * What an acknowledgement survives. always: a crash of Redis or its machine; everysec: all but the last second;
   * snapshot: all since the last snapshot; none: nothing once Redis ends; unknown: the server does not report it.
   */
  level: 'always' | 'everysec' | 'snapshot' | 'none' | 'unknown';
  notes: string[];
};

/** Returns what the settings of Redis guarantee. */
export async function durabilityOf(redis: RedisClient): Promise<Durability> {
  return levelOf(await settingsOf(redis));
}

type Setting = (name: string) => string | undefined;

function levelOf(setting: Setting): Durability {
  const appendonly = setting('appendonly');
  if (appendonly === undefined) return { level: 'unknown', notes: ['CONFIG GET is not allowed on this Redis'] };
  if (appendonly === 'no') {
    const saves = setting('save');
    return saves ? { level: 'snapshot', notes: [`save ${saves}`] } : { level: 'none', notes: ['appendonly no'] };
  }
  const fsync = setting('appendfsync');
  if (fsync === 'no')
    return { level: 'snapshot', notes: ['appendfsync no: the operating system decides when to write'] };
  if (fsync === 'everysec') return { level: 'everysec', notes: ['appendfsync everysec'] };
  if (setting('no-appendfsync-on-rewrite') === 'yes') {
    return { level: 'everysec', notes: ['no-appendfsync-on-rewrite yes: not synced while the log is rewritten'] };
  }
  return { level: 'always', notes: [] };
}

async function settingsOf(redis: RedisClient): Promise<Setting> {
  const [node] = mastersOf(redis);
  const names = ['appendonly', 'appendfsync', 'no-appendfsync-on-rewrite', 'save'];
  const values = new Map<string, string>();
  for (const name of names) {
    const [, value] = ((await node?.config('GET', name).catch(() => [])) ?? []) as string[];
    if (value !== undefined) values.set(name, value);
  }
  return (name) => values.get(name);
}
