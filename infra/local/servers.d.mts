export type ServerHandle = {
  name: string;
  url: string;
  readonly pid: number | undefined;
  readonly exited: Promise<unknown> | undefined;
  tail(): string;
  start(): Promise<void>;
  restart(): Promise<void>;
  kill(signal?: NodeJS.Signals): Promise<unknown> | undefined;
  stop(): Promise<void>;
};

export type Servers = {
  postgres: ServerHandle;
  redis: ServerHandle;
  databaseUrl: string;
  superuserUrl: string;
  redisUrl: string;
  stop(): Promise<void>;
  remove(): Promise<void>;
};

export function startServers(options: {
  home: string;
  durable?: boolean;
  only?: ('postgres' | 'redis')[];
  signal?: AbortSignal;
}): Promise<Servers>;
