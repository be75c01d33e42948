type Path = { readonly method: string; readonly path: string };

type App = {
  routes: readonly { method: string; path: string; access: string }[];
  hono: { routes: readonly { method: string; path: string }[] };
  request(path: string, init?: RequestInit): Promise<Response>;
};

/**
 * Returns the paths of a service that answer without a key, with their status, and those that refuse with another
 * status than 401.
 */
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

/** Returns the paths beside tRPC that require access: those of the app, and those in the contract. */
export function servedAndStated(app: App, stated: readonly Path[]): { served: string[]; stated: string[] } {
  // Other paths below a source's prefix have nothing behind them: any key may learn that.
  const served = app.routes.filter(({ access }) => access !== 'open' && access !== 'key');
  return { served: served.map(shown).sort(), stated: stated.map(shown).sort() };
}

/** Paths of every service that need no key. */
export const OPEN_PATHS = ['GET /livez 200', 'GET /readyz 200', 'GET /metrics 200', 'GET /openapi.json 200'];

const PARAMETER = /:\w+(\{.*?\})?/g;

/** A method and a path, with parameters written alike. */
const shown = ({ method, path }: Path) => `${method} ${path.replace(PARAMETER, '*').replace(/[^/]*\{\w+\}/g, '*')}`;
