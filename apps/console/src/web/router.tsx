import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from '@tanstack/react-router';
import { Compass } from 'lucide-react';
import { Frame } from './frame.tsx';
import { isGroup, isMeasure, readFilters, readProperties } from './measures.ts';
import { isReason, PROVIDERS } from './pages/bills/names.ts';
import { SignIn } from './pages/sign-in.tsx';
import {
  type AuditSearch,
  type BillsSearch,
  compact,
  DELIVERY_STATES,
  type DeliveryState,
  type ExplainSearch,
  type ExplorerSearch,
  INTERVALS,
  inOrder,
  type OverviewSearch,
  oneOf,
  PERCENTILES,
  type PriceAgainSearch,
  type Search,
  textOf,
} from './search.ts';
import { isDay, isMonth } from './time.ts';
import { Empty, Failure, SkeletonRows } from './ui/parts.tsx';

const root = createRootRoute({
  component: Outlet,
  notFoundComponent: () => (
    <main className="door">
      <Empty
        icon={Compass}
        title="There is no such page"
        tools={
          <a className="button" href="/app/overview">
            Go to the overview
          </a>
        }
      />
    </main>
  ),
  errorComponent: ({ error }) => (
    <main className="door">
      <Failure error={error} retry={() => location.reload()} />
    </main>
  ),
});

const door = createRoute({
  getParentRoute: () => root,
  path: '/app/sign-in',
  validateSearch: (search: Search): { next?: string } => compact({ next: textOf(search.next) }),
  component: SignIn,
});

const frame = createRoute({ getParentRoute: () => root, id: 'frame', component: Frame });
const start = (path: '/' | '/app') =>
  createRoute({
    getParentRoute: () => root,
    path,
    beforeLoad: () => {
      throw redirect({ to: '/app/overview', replace: true });
    },
  });

/** The text that a list is searched for; the router reads digits as a number. */
const searchedIn = ({ find }: Search) => textOf(typeof find === 'number' ? String(find) : find)?.slice(0, 256);

const pendingComponent = () => <SkeletonRows rows={8} />;

const overview = createRoute({
  getParentRoute: () => frame,
  path: '/app/overview',
  validateSearch: (search: Search): OverviewSearch => {
    const { merchants } = readFilters(search);
    return compact({
      month: isMonth(search.month) ? search.month : undefined,
      measure: isMeasure(search.measure) ? search.measure : undefined,
      merchants,
    });
  },
  component: lazyRouteComponent(() => import('./pages/overview.tsx'), 'Overview'),
  pendingComponent,
});

const explorer = createRoute({
  getParentRoute: () => frame,
  path: '/app/explorer',
  validateSearch: (search: Search): ExplorerSearch => ({
    ...compact({
      from: isDay(search.from) ? search.from : undefined,
      to: isDay(search.to) ? search.to : undefined,
      measure: isMeasure(search.measure) ? search.measure : undefined,
      meter: textOf(search.meter),
      of: textOf(search.of),
      where: readProperties(search.where),
      percentile: PERCENTILES.find((each) => each === search.percentile),
      by: search.by === 'time' ? ('time' as const) : isGroup(search.by) ? search.by : undefined,
      and: isGroup(search.and) ? search.and : undefined,
      view: oneOf(search.view, ['pivot']),
      interval: oneOf(search.interval, INTERVALS),
      tz: textOf(search.tz),
      sort: search.sort === 'key' ? ('key' as const) : isMeasure(search.sort) ? search.sort : undefined,
      order: oneOf(search.order, ['asc', 'desc']),
      compare: oneOf(search.compare, ['previous']),
      since: isDay(search.since) ? search.since : undefined,
      chart: oneOf(search.chart, ['bars', 'lines']),
      cursor: textOf(search.cursor),
    }),
    ...readFilters(search),
  }),
  component: lazyRouteComponent(() => import('./pages/explorer/explorer.tsx'), 'Explorer'),
  pendingComponent,
});

const explain = createRoute({
  getParentRoute: () => frame,
  path: '/app/explain',
  validateSearch: (search: Search): ExplainSearch => {
    const today = new Date().toISOString().slice(0, 10);
    const from = isDay(search.from) ? search.from : today;
    const to = isDay(search.to) ? search.to : from;
    const metric =
      typeof search.metric === 'string' && /^[a-z][a-z0-9_]{0,63}$/.test(search.metric) ? search.metric : 'cost';
    return { metric, ...inOrder(from, to), ...readFilters(search) };
  },
  component: lazyRouteComponent(() => import('./pages/explain/explain.tsx'), 'Explain'),
  pendingComponent,
});

const live = createRoute({
  getParentRoute: () => frame,
  path: '/app/live',
  validateSearch: (search: Search): { merchant?: string } => compact({ merchant: textOf(search.merchant) }),
  component: lazyRouteComponent(() => import('./pages/live.tsx'), 'Live'),
  pendingComponent,
});

const keys = createRoute({
  getParentRoute: () => frame,
  path: '/app/keys',
  validateSearch: (search: Search): { revoked?: true; find?: string } =>
    compact({ revoked: search.revoked === true ? (true as const) : undefined, find: searchedIn(search) }),
  component: lazyRouteComponent(() => import('./pages/keys.tsx'), 'Keys'),
  pendingComponent,
});

const directory = createRoute({
  getParentRoute: () => frame,
  path: '/app/directory',
  validateSearch: (search: Search): { kind?: 'user' | 'apiKey' | 'merchant'; find?: string; cursor?: string } =>
    compact({
      kind: oneOf(search.kind, ['user', 'apiKey', 'merchant']),
      find: searchedIn(search),
      cursor: textOf(search.cursor),
    }),
  component: lazyRouteComponent(() => import('./pages/directory.tsx'), 'Directory'),
  pendingComponent,
});

const audit = createRoute({
  getParentRoute: () => frame,
  path: '/app/audit',
  validateSearch: (search: Search): AuditSearch =>
    compact({
      from: isDay(search.from) ? search.from : undefined,
      to: isDay(search.to) ? search.to : undefined,
      actor: textOf(search.actor)?.slice(0, 200),
      action: textOf(search.action)?.slice(0, 200),
    }),
  component: lazyRouteComponent(() => import('./pages/audit.tsx'), 'Audit'),
  pendingComponent,
});

const sources = createRoute({
  getParentRoute: () => frame,
  path: '/app/sources',
  validateSearch: (search: Search): { source?: string } => compact({ source: textOf(search.source)?.slice(0, 100) }),
  component: lazyRouteComponent(() => import('./pages/sources.tsx'), 'Sources'),
  pendingComponent,
});

const dataSources = createRoute({
  getParentRoute: () => frame,
  path: '/app/data-sources',
  component: lazyRouteComponent(() => import('./pages/data-sources.tsx'), 'DataSources'),
  pendingComponent,
});

const meters = createRoute({
  getParentRoute: () => frame,
  path: '/app/meters',
  component: lazyRouteComponent(() => import('./pages/meters/meters.tsx'), 'Meters'),
  pendingComponent,
});

const prices = createRoute({
  getParentRoute: () => frame,
  path: '/app/prices',
  validateSearch: (search: Search): { model?: string } => compact({ model: textOf(search.model) }),
  component: lazyRouteComponent(() => import('./pages/prices/prices.tsx'), 'Prices'),
  pendingComponent,
});

const priceAgain = createRoute({
  getParentRoute: () => frame,
  path: '/app/prices/again',
  validateSearch: (search: Search): PriceAgainSearch =>
    compact({
      from: isDay(search.from) ? search.from : undefined,
      to: isDay(search.to) ? search.to : undefined,
      merchants: readFilters(search).merchants,
    }),
  component: lazyRouteComponent(() => import('./pages/prices/price-again.tsx'), 'PriceAgain'),
  pendingComponent,
});

const bills = createRoute({
  getParentRoute: () => frame,
  path: '/app/bills',
  validateSearch: (search: Search): BillsSearch =>
    compact({
      provider: oneOf(
        search.provider,
        PROVIDERS.map(({ value }) => value),
      ),
      from: isDay(search.from) ? search.from : undefined,
      to: isDay(search.to) ? search.to : undefined,
      merchants: readFilters(search).merchants,
      reason: isReason(search.reason) ? search.reason : undefined,
      sort: oneOf(search.sort, ['difference']),
    }),
  component: lazyRouteComponent(() => import('./pages/bills/bills.tsx'), 'Bills'),
  pendingComponent,
});

const budgets = createRoute({
  getParentRoute: () => frame,
  path: '/app/budgets',
  validateSearch: (search: Search): { find?: string } => compact({ find: searchedIn(search) }),
  component: lazyRouteComponent(() => import('./pages/budgets.tsx'), 'Budgets'),
  pendingComponent,
});

const alerts = createRoute({
  getParentRoute: () => frame,
  path: '/app/alerts',
  validateSearch: (search: Search): { rule?: string } => compact({ rule: textOf(search.rule)?.slice(0, 100) }),
  component: lazyRouteComponent(() => import('./pages/alerts.tsx'), 'Alerts'),
  pendingComponent,
});

const webhooks = createRoute({
  getParentRoute: () => frame,
  path: '/app/webhooks',
  validateSearch: (search: Search): { status?: DeliveryState } =>
    compact({ status: oneOf(search.status, DELIVERY_STATES) }),
  component: lazyRouteComponent(() => import('./pages/webhooks.tsx'), 'Webhooks'),
  pendingComponent,
});

const jobs = createRoute({
  getParentRoute: () => frame,
  path: '/app/jobs',
  component: lazyRouteComponent(() => import('./pages/jobs.tsx'), 'Jobs'),
  pendingComponent,
});

const health = createRoute({
  getParentRoute: () => frame,
  path: '/app/health',
  component: lazyRouteComponent(() => import('./pages/health/health.tsx'), 'Health'),
  pendingComponent,
});

const custom = createRoute({
  getParentRoute: () => frame,
  path: '/app/custom-metrics',
  validateSearch: (search: Search): { id?: string } => compact({ id: textOf(search.id) }),
  component: lazyRouteComponent(() => import('./pages/custom/custom.tsx'), 'CustomMetrics'),
  pendingComponent,
});

const docs = createRoute({
  getParentRoute: () => root,
  path: '/docs',
  validateSearch: (search: Search): { search?: string } => compact({ search: textOf(search.search) }),
  component: lazyRouteComponent(() => import('./pages/api-docs.tsx'), 'ApiDocs'),
  pendingComponent,
});

export const router = createRouter({
  routeTree: root.addChildren([
    start('/'),
    start('/app'),
    door,
    docs,
    frame.addChildren([
      ...[overview, explorer, explain, live, meters, custom, prices, priceAgain, budgets, bills, alerts, webhooks],
      ...[keys, directory, sources, dataSources, jobs, health, audit],
    ]),
  ]),
  defaultPreload: 'intent',
  scrollRestoration: true,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
