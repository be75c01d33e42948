type Path = { readonly method: string; readonly path: string };

type App = {
  routes: readonly { method: string; path: string; access: string }[];
  hono: { routes: readonly { method: string; path: string }[] };
  request(path: string, init?: RequestInit): Promise<Response>;
};

/** Returns the paths of a service that answer without a key, with their status, and those that refuse in another way than 401. */
export async function pathsWithoutKey(app: App): Promise<string[]> {
  const open: string[] = [];
  for (const { method, path } of app.routes) {
    const response = await app.request(path.replace(PARAMETER, 'usage.csv').replace(/\*$/, 'x'), { method });
    const { status } = response;
    await response.arrayBuffer();
    if (status !== 401 || !response.headers.has('www-authenticate')) open.push(`${method} ${path} ${status}`);
  }
  return open;
}

/** Returns the paths beside tRPC that ask for some access: those of the app, and those that a contract states. */
export function servedAndStated(app: App, stated: readonly Path[]): { served: string[]; stated: string[] } {
  // Other paths below the prefix of a source have nothing behind them: a key is enough to be told so.
  const served = app.routes.filter(({ access }) => access !== 'open' && access !== 'key');
  return { served: served.map(shown).sort(), stated: stated.map(shown).sort() };
}

/** What every service answers without a key. */
export const OPEN_PATHS = ['GET /livez 200', 'GET /readyz 200', 'GET /metrics 200', 'GET /openapi.json 200'];

const PARAMETER = /:\w+(\{.*?\})?/g;

/** A method and a path, its parameters written alike. */
const shown = ({ method, path }: Path) => `${method} ${path.replace(PARAMETER, '*').replace(/[^/]*\{\w+\}/g, '*')}`;
